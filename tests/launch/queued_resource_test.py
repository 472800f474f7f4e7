"""tpu_vm.sh asks, waits, goes on after a preemption, and deletes.

The cloud is not here: a script stands in for gcloud and tells what states a
request goes through.
"""

import os
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from tests.launch.launchers import FLAGS
from tests.launch.launchers import launch
from tests.launch.launchers import PREEMPTED

# Takes the next line of $STATES each time it is asked for the state.
GCLOUD = r"""#!/usr/bin/env bash
echo "$4" >>"$CALLS"
case $4 in
  describe)
    state=$(sed -n 1p "$STATES")
    [[ $(wc -l <"$STATES") -lt 2 ]] || sed -i 1d "$STATES"
    [[ $state != NONE ]] || exit 1
    echo "$state" ;;
  ssh)
    [[ " $* " != *'on_host.sh watch'* ]] || exit "${WATCH_EXIT:-0}"
    [[ " $* " != *'on_host.sh ended'* ]] || exit "${ENDED_EXIT:-0}" ;;
esac
"""


class QueuedResourceTest(parameterized.TestCase):

  def play(self, *arguments, states='ACTIVE', **environment):
    """Runs tpu_vm.sh with a gcloud that goes through these states."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    gcloud = folder / 'gcloud'
    gcloud.write_text(GCLOUD)
    gcloud.chmod(0o755)
    (folder / 'states').write_text('\n'.join(states.split()) + '\n')
    done = launch(
        'tpu_vm', *arguments, PATH=f'{folder}:{os.defpath}', POLL_SECONDS='0',
        STATES=str(folder / 'states'), CALLS=str(folder / 'calls'),
        TMPDIR=str(folder), **environment)
    return done, (folder / 'calls').read_text().split()

  def test_create_waits_and_says_each_state(self):
    done, calls = self.play(
        'create', states='NONE WAITING_FOR_RESOURCES PROVISIONING ACTIVE')
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(calls, ['describe', 'create', *['describe'] * 3])
    for state in ('WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'):
      self.assertIn(f'worldsim is {state} after', done.stderr)

  @parameterized.parameters('FAILED', 'SUSPENDED')
  def test_a_request_that_ends_otherwise_is_said_and_still_mentioned(
      self, state):
    done, _ = self.play('create', states=f'NONE WAITING_FOR_RESOURCES {state}')
    self.assertEqual(done.returncode, 1)
    self.assertIn(f'worldsim is {state}', done.stderr)
    self.assertIn('TPU_NAME=worldsim launch/tpu_vm.sh delete', done.stderr)

  def test_waiting_ends_and_create_again_goes_on_waiting(self):
    done, calls = self.play(
        'create', states='WAITING_FOR_RESOURCES', WAIT_MINUTES='0')
    self.assertEqual(done.returncode, 1)
    self.assertIn('create again to wait longer', done.stderr)
    self.assertNotIn('create', calls)

  def test_whoever_does_not_delete_is_told_what_costs_money(self):
    done, _ = self.play('run', *FLAGS)
    self.assertIn('launch/tpu_vm.sh delete', done.stderr)
    done, _ = self.play('run', 'delete', *FLAGS)
    self.assertNotIn('launch/tpu_vm.sh delete', done.stderr)

  @parameterized.named_parameters(
      ('a run that succeeded', 0, 0, True),
      ('a run that failed', 3, 0, True),
      ('no run that may go on', 255, 1, False),
  )
  def test_all_deletes_after(self, watch, ended, deletes):
    done, calls = self.play('all', *FLAGS, states='NONE ACTIVE',
                            WATCH_EXIT=str(watch), ENDED_EXIT=str(ended))
    self.assertEqual(done.returncode, watch)
    self.assertEqual('delete' in calls, deletes)
    self.assertEqual('cost money' in done.stderr, not deletes)

  def test_all_does_not_delete_what_was_there_before(self):
    done, calls = self.play('all', *FLAGS, states='ACTIVE')
    self.assertNotIn('delete', calls)
    self.assertIn('cost money', done.stderr)

  def test_a_preempted_request_ends_watch_with_75_and_is_made_again(self):
    done, _ = self.play('watch', states='SUSPENDED', WATCH_EXIT='1')
    self.assertEqual(done.returncode, PREEMPTED)
    self.assertIn('resume', done.stderr)
    _, calls = self.play('resume', *FLAGS,
                         states='SUSPENDING SUSPENDED NONE ACTIVE')
    self.assertEqual(calls, 'describe describe delete describe create describe '
                     'scp ssh ssh'.split())


if __name__ == '__main__':
  absltest.main()

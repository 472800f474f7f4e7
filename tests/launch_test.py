"""The launchers print the commands that they would run; one is played through.

The clouds themselves are not here: a script stands in for gcloud, and tells
what states a request goes through. What happens on a host is the real thing.
"""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

from absl.testing import absltest
from absl.testing import parameterized
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCHERS = ('tpu_vm', 'gke', 'skypilot')
FLAGS = ('--config=a.py', '--workdir=gs://b/c')
PREEMPTED = 75  # main's exit code

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


def launch(name, *arguments, **environment):
  """Runs a launcher."""
  settings = {'PATH': os.defpath, 'ZONE': 'us-east5-b', 'IMAGE': 'r/p/i:1'}
  return subprocess.run(
      ['bash', str(ROOT / f'launch/{name}.sh'), *arguments],
      env=settings | environment,
      capture_output=True,
      text=True,
      check=False,
  )


def printed(name, *arguments, **environment):
  """The commands of a dry run, as lists of words."""
  done = launch(name, *arguments, '--dry-run', **environment)
  if done.returncode:
    raise AssertionError(done.stderr)
  return [shlex.split(line) for line in done.stdout.splitlines()]


def main_flags(name, *flags, **environment):
  """What reaches main of the flags given to `run`, through all shells."""
  command = printed(name, 'run', *flags, **environment)[-1]
  if name == 'skypilot':
    variable = next(w for w in command if w.startswith('--env='))
    return shlex.split(variable.removeprefix('--env=WORLDSIM_FLAGS='))
  remote = next(w for w in command if w.startswith('--command='))
  words = shlex.split(remote.removeprefix('--command='))
  last = 'run' if name == 'tpu_vm' else 'worldsim_jax.main'
  return words[words.index(last) + 1:]


class DryRunTest(parameterized.TestCase):

  @parameterized.parameters(
      ('tpu_vm', 'all', 'create describe archive scp ssh ssh ssh delete'),
      ('tpu_vm', 'create install run watch delete',
       'create describe archive scp ssh ssh ssh delete'),
      ('tpu_vm', 'resume', 'ssh'),
      ('gke', 'create install run watch delete', 'create archive build push '
       'create list wait wait logs list delete'),
      ('gke', 'resume', 'delete create'),
      ('skypilot', 'create install run watch delete',
       'sed launch launch exec logs down'),
      ('skypilot', 'resume', 'sed exec'),
  )
  def test_steps_become_commands_in_their_order(self, name, steps, expected):
    verbs = set(expected.split())
    found = [
        next(word for word in command if word in verbs)
        for command in printed(name, *steps.split(), *FLAGS)
    ]
    self.assertEqual(' '.join(found), expected)

  @parameterized.parameters(*LAUNCHERS)
  def test_dry_run_counts_wherever_it_stands(self, name):
    for arguments in (('--dry-run', 'delete'), ('delete', '--dry-run')):
      done = launch(name, *arguments, PATH='/nowhere:/bin:/usr/bin')
      self.assertEqual(done.returncode, 0, done.stderr)
      self.assertIn('delete' if name != 'skypilot' else 'down', done.stdout)

  @parameterized.parameters(*LAUNCHERS)
  def test_flags_of_main_arrive_as_they_were_given(self, name):
    flags = [*FLAGS, "--config.prompt=it's a \"$HOME\" `room`; *", '--x=a\\b']
    self.assertEqual(main_flags(name, *flags), flags)

  @parameterized.parameters('tpu_vm', 'gke')
  def test_slices_are_told_to_the_cloud_and_to_the_mesh(self, name):
    settings = dict(SLICES='2', TPU_TYPE='v6e-16')
    create = printed(name, 'create', **settings)[0]
    self.assertIn(
        {'tpu_vm': '--node-count=2', 'gke': '--num-slices=2'}[name], create)
    flags = main_flags(name, *FLAGS, **settings)
    self.assertEqual(flags, [*FLAGS, '--config.mesh.slice=2'])
    own = main_flags(name, *FLAGS, '--config.mesh.slice=1', **settings)
    self.assertEqual(own, [*FLAGS, '--config.mesh.slice=1'])

  @parameterized.parameters(
      ('v4-8', 'tpu-ubuntu2204-base'),
      ('v5litepod-16', 'v2-alpha-tpuv5-lite'),
      ('v5p-128', 'v2-alpha-tpuv5'),
      ('v6e-8', 'v2-alpha-tpuv6e'),
  )
  def test_each_chip_gets_its_runtime(self, chips, runtime):
    create = printed('tpu_vm', 'create', TPU_TYPE=chips)[0]
    self.assertIn(f'--runtime-version={runtime}', create)
    folder = self.create_tempdir().full_path
    fill_in = launch('skypilot', '--dry-run', 'create', TPU_TYPE=chips,
                     TMPDIR=folder).stdout.splitlines()[0]
    subprocess.run(fill_in, shell=True, cwd=ROOT, check=True)
    task = pathlib.Path(folder, 'worldsim.yaml').read_text()
    self.assertIn(f'accelerators: tpu-{chips}\n', task)
    self.assertIn(f'runtime_version: {runtime}\n', task)

  @parameterized.parameters(*LAUNCHERS)
  def test_spot_machines_only_when_asked_for(self, name):
    flag = '--use-spot' if name == 'skypilot' else '--spot'
    for spot in ('0', '1'):
      words = sum(printed(name, 'create', SPOT=spot), [])
      self.assertEqual(flag in words, spot == '1')

  def test_every_host_of_every_slice_runs_the_same_command(self):
    run = printed('tpu_vm', 'run', *FLAGS, SLICES='4', TPU_TYPE='v5p-128')[0]
    self.assertContainsSubset(['--node=all', '--worker=all'], run)
    watch = printed('tpu_vm', 'watch')[0]
    self.assertContainsSubset(['--node=0', '--worker=0'], watch)

  def test_gke_starts_a_preempted_run_again(self):
    run = printed('gke', 'run', *FLAGS)[0]
    self.assertIn(f'--restart-on-exit-codes={PREEMPTED}', run)
    self.assertIn('--max-restarts=100', run)

  def test_a_cluster_of_others_is_neither_created_nor_deleted(self):
    commands = printed('gke', 'create', 'delete', CLUSTER='theirs')
    self.assertLen(commands, 1)
    self.assertContainsSubset(
        ['workload', 'delete', '--cluster=theirs'], commands[0])

  def test_a_managed_job_is_launched_watched_and_cancelled(self):
    commands = printed('skypilot', 'create', 'run', 'watch', 'delete', *FLAGS,
                       MANAGED='1')
    jobs = [c[2] for c in commands if c[:2] == ['sky', 'jobs']]
    self.assertEqual(jobs, ['launch', 'logs', 'cancel'])

  @parameterized.parameters(*LAUNCHERS)
  def test_mistakes_end_with_one_line_and_exit_code_2(self, name):
    for arguments, environment in (
        (['create'], {'ZONE': ''}),
        ([], {}),
        (['start'], {}),
        (['create', 'runn'], {}),
        (['run', '--config=a.py', 'gs://b/c'], {}),  # A flag in two words.
        (['run', '--config=a.py'], {}),  # No workdir.
        (['run', '--workdir', 'gs://b/c'], {}),
        (['run', '--workdir=runs/x'], {'TPU_TYPE': 'v5p-128'}),
        (['run', *FLAGS, '--config.prompt=a\nb'], {}),
        (['create'], {'TPU_TYPE': 'h100'}),
        (['create'], {'TPU_TYPE': 'v6e'}),
        (['create'], {'SLICES': 'two'}),
        (['create'], {'SPOT': 'yes'}),
        (['create'], {'TPU_NAME': 'My run'}),
    ):
      with self.subTest(arguments=arguments, environment=environment):
        done = launch(name, '--dry-run', *arguments, **environment)
        self.assertEqual(done.returncode, 2)
        self.assertLen(done.stderr.splitlines(), 1)
        self.assertEmpty(done.stdout)

  @parameterized.parameters(
      ('gke', 'run', {'IMAGE': ''}, 'IMAGE'),
      ('gke', 'run', {'RESTARTS': 'many'}, 'RESTARTS'),
      ('tpu_vm', 'create', {'TPU_TYPE': 'tpu7x-8'}, 'TPU_TYPE'),
      ('tpu_vm', 'create', {'WAIT_MINUTES': 'long'}, 'WAIT_MINUTES'),
      ('skypilot', 'run', {'SLICES': '2'}, 'SLICES'),
      ('skypilot', 'run', {'MANAGED': 'yes'}, 'MANAGED'),
  )
  def test_what_one_launcher_cannot_do_names_the_setting(
      self, name, step, environment, setting):
    done = launch(name, '--dry-run', step, *FLAGS, **environment)
    self.assertEqual(done.returncode, 2)
    self.assertIn(setting, done.stderr)

  @pytest.mark.slow
  def test_gcloud_knows_every_flag(self):
    if not shutil.which('gcloud'):
      self.skipTest('gcloud is not installed')
    commands = printed('tpu_vm', 'all', '--config=a.py', '--workdir=runs/x',
                       SPOT='1') + printed('tpu_vm', 'create', SLICES='2')
    flags = {}
    for command in commands:
      if command[0] == 'gcloud':
        flags.setdefault(command[4], set()).update(
            re.match('[^=]+', w)[0] for w in command[5:] if w.startswith('--'))
    for verb, used in flags.items():
      page = subprocess.run(
          ['gcloud', 'compute', 'tpus', 'queued-resources', verb, '--help'],
          capture_output=True, text=True, check=True).stdout
      page = re.sub(r'\x1b\[[0-9;]*m', '', page)
      self.assertEmpty([f for f in used if not re.search(rf'{f}\b', page)],
                       verb)


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


class OnHostTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    shutil.copytree(ROOT / 'launch', self.folder / 'launch')

  def prepare(self, program):
    """Makes `program` what worldsim_jax.main does on this host."""
    (self.folder / 'worldsim_jax').mkdir()
    (self.folder / 'worldsim_jax/main.py').write_text(program)
    python = self.folder / '.venv/bin/python'
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)

  def on_host(self, *arguments):
    return subprocess.run(
        ['bash', str(self.folder / 'launch/on_host.sh'), *arguments],
        capture_output=True, text=True, check=False, timeout=60)

  def test_a_run_outlives_its_shell_and_watch_returns_its_exit_code(self):
    self.prepare('import sys, time; print(sys.argv[1:], flush=True); '
                 'time.sleep(.5); sys.exit(7)')
    self.assertEqual(self.on_host('run', "--a=it's b").returncode, 0)
    self.assertEqual(self.on_host('ended').returncode, 1)
    watch = self.on_host('watch')
    self.assertEqual(watch.returncode, 7, watch.stderr)
    self.assertIn('["--a=it\'s b"]', watch.stdout)
    self.assertEqual(self.on_host('ended').returncode, 0)

  def test_stop_lets_the_run_save_and_a_second_run_must_wait(self):
    self.prepare('import signal, sys, time\n'
                 'signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n'
                 'print("ready", flush=True)\n'
                 'time.sleep(60)')
    self.on_host('run')
    log = self.folder / 'runs/host.log'
    while 'ready' not in log.read_text():
      time.sleep(0.05)
    second = self.on_host('run')
    self.assertEqual(second.returncode, 1)
    self.assertIn('a run is going on', second.stderr)
    self.assertEqual(self.on_host('stop').returncode, 0)
    self.assertEqual(self.on_host('watch').returncode, PREEMPTED)

  def test_a_run_that_was_killed_is_no_success(self):
    self.prepare('import time; time.sleep(60)')
    self.on_host('run')
    process = int((self.folder / 'runs/host.pid').read_text())
    os.killpg(process, signal.SIGKILL)
    watch = self.on_host('watch')
    self.assertEqual(watch.returncode, 1)
    self.assertIn('killed', watch.stderr)

  def test_the_dry_run_installs_the_extra_and_starts_main(self):
    done = self.on_host('--dry-run', 'install', 'run', '--config=a.py')
    self.assertIn("'--editable=.[tpu]'", done.stdout)
    self.assertIn('.venv/bin/python -m worldsim_jax.main --config=a.py\n',
                  done.stdout)
    self.assertFalse((self.folder / 'runs').exists())


if __name__ == '__main__':
  absltest.main()

"""The launch script prints the commands that it would run."""

import os
import pathlib
import shlex
import subprocess

from absl.testing import absltest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / 'launch/tpu_vm.sh'


def launch(*arguments, **environment):
  """Runs the script with no gcloud on the PATH."""
  return subprocess.run(
      ['bash', str(SCRIPT), *arguments],
      env={'PATH': os.defpath} | environment,
      capture_output=True,
      text=True,
      check=False,
  )


class LaunchTest(absltest.TestCase):

  def test_all_creates_runs_fetches_and_deletes_in_this_order(self):
    done = launch('--dry-run', 'all', '--config=a.py', ZONE='z', TPU_NAME='n')
    self.assertEqual(done.returncode, 0, done.stderr)
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    cloud = [c[4:] for c in commands if c[0] == 'gcloud']
    self.assertEqual(
        [c[0] for c in cloud],
        ['create', 'scp', 'ssh', 'ssh', 'scp', 'delete'],
    )
    for command in cloud:
      self.assertIn('--zone=z', command)

  def test_flags_of_main_arrive_as_they_were_given(self):
    flag = "--config.prompt=it's a room"
    done = launch('--dry-run', 'run', flag, ZONE='z')
    on_this_machine = shlex.split(done.stdout)
    command = next(c for c in on_this_machine if c.startswith('--command='))
    self.assertEqual(shlex.split(command)[-1], flag)

  def test_each_chip_gets_its_runtime(self):
    done = launch('--dry-run', 'create', ZONE='z', TPU_TYPE='v6e-8', SPOT='1')
    self.assertIn('--version=v2-alpha-tpuv6e --spot', done.stdout)

  def test_mistakes_end_with_one_line_and_exit_code_2(self):
    for arguments, environment in (
        (['create'], {}),  # No zone.
        ([], {'ZONE': 'z'}),
        (['start'], {'ZONE': 'z'}),
        (['create'], {'ZONE': 'z', 'TPU_TYPE': 'h100'}),
    ):
      with self.subTest(arguments=arguments, environment=environment):
        done = launch('--dry-run', *arguments, **environment)
        self.assertEqual(done.returncode, 2)
        self.assertLen(done.stderr.splitlines(), 1)


if __name__ == '__main__':
  absltest.main()

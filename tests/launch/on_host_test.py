"""What happens on a host: the real scripts, with a small program as main."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

from absl.testing import absltest
import pytest
import yaml

from tests.launch.launchers import AWKWARD
from tests.launch.launchers import FLAGS
from tests.launch.launchers import LOST_HOST
from tests.launch.launchers import PREEMPTED
from tests.launch.launchers import printed
from tests.launch.launchers import ROOT


@pytest.mark.slow
class OnHostTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.home = pathlib.Path(self.create_tempdir().full_path)
    self.folder = self.home / 'worldsim_jax'
    shutil.copytree(ROOT / 'launch', self.folder / 'launch')

  def prepare(self, program):
    """Makes `program` what worldsim_jax.main does on this host."""
    (self.folder / 'worldsim_jax').mkdir()
    (self.folder / 'worldsim_jax/main.py').write_text(program)
    python = self.folder / '.venv/bin/python'
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)

  def shell(self, script, folder, **environment):
    return subprocess.run(
        ['bash', '-c', script], cwd=folder, env=os.environ | environment,
        capture_output=True, text=True, check=False, timeout=60)

  def on_host(self, *arguments):
    return self.shell(f'bash launch/on_host.sh {shlex.join(arguments)}',
                      self.folder)

  def test_a_run_outlives_its_shell_and_watch_returns_its_exit_code(self):
    self.prepare('import sys, time; time.sleep(1); print(sys.argv[1:]); '
                 'sys.exit(7)')
    flags = [*FLAGS, AWKWARD]
    command = next(w for w in printed('tpu_vm', 'run', *flags)[0]
                   if w.startswith('--command='))
    run = self.shell(command.removeprefix('--command='), self.home)
    self.assertEqual(run.returncode, 0, run.stderr)
    self.assertEqual(self.on_host('ended').returncode, 1)
    watch = self.on_host('watch')
    self.assertEqual(watch.returncode, 7, watch.stderr)
    self.assertIn(repr(flags), watch.stdout)
    self.assertEqual(self.on_host('ended').returncode, 0)

  def test_the_skypilot_task_passes_flags_and_exit_code(self):
    self.prepare('import sys; print(sys.argv[1:]); sys.exit(75)')
    task = yaml.safe_load((ROOT / 'launch/skypilot.yaml').read_text())
    flags = [*FLAGS, AWKWARD]
    command = next(w for w in printed('skypilot', 'run', *flags)[-1]
                   if w.startswith('--env='))
    name, value = command.removeprefix('--env=').split('=', 1)
    self.assertEqual(task['envs'], {name: ''})
    run = self.shell(task['run'], self.folder, **{name: value})
    self.assertEqual(run.returncode, PREEMPTED, run.stderr)
    self.assertIn(repr(flags), run.stdout)
    self.assertEqual(task['resources']['job_recovery'],
                     {'recover_on_exit_codes': [PREEMPTED, LOST_HOST]})
    self.assertEmpty(self.shell(task['run'], self.folder, **{name: ''}).stdout)

  def test_stop_lets_the_run_save_and_a_second_run_must_wait(self):
    self.prepare('import signal, sys, time\n'
                 'signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n'
                 'print("ready", flush=True)\n'
                 'time.sleep(60)')
    self.on_host('run')
    log = self.folder / 'runs/host.log'
    for _ in range(1200):  # A minute, of what takes a second.
      if 'ready' in log.read_text():
        break
      time.sleep(0.05)
    self.assertIn('ready', log.read_text())
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
    self.assertIn("'--editable=.[tpu,gcs]'", done.stdout)
    self.assertIn('.venv/bin/python -m worldsim_jax.main --config=a.py\n',
                  done.stdout)
    self.assertFalse((self.folder / 'runs').exists())


if __name__ == '__main__':
  absltest.main()

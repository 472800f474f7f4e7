"""The whole pipeline in two processes, as a user starts it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from absl.testing import absltest
import numpy as np
import pytest

from tests.distributed import processes
from tests.storage import bucket

SHARED = {}
RESULTS = ('report.html', 'films.mp4', 'summary.json', 'metrics.jsonl',
           'config.json', 'world/params', 'latent_space/params')
# fp32, but of sums in another order, which a few steps of training carry on.
RTOL = 1e-4


def setUpModule():
  folder = tempfile.TemporaryDirectory()
  unittest.addModuleCleanup(folder.cleanup)
  SHARED['folder'] = pathlib.Path(folder.name)


def start(workdir, devices, *flags, environment=None):
  folder = SHARED['folder']
  # Compiled programs are shared by all runs with this number of devices.
  environment = (environment or {}) | processes.environment(devices) | {
      'JAX_COMPILATION_CACHE_DIR': str(folder / f'programs-{devices}'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2'}
  return subprocess.Popen(
      [sys.executable, '-m', 'worldsim_jax.main',
       '--config=configs/quickstart.py:smoke', f'--workdir={workdir}',
       '--config.loop.log_every=1', *flags],
      cwd=processes.ROOT, env=environment, text=True, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE)


def wait_for(there_is, running):
  end = time.monotonic() + 400
  while not there_is():
    for process in running:
      assert process.poll() is None, process.communicate()
    assert time.monotonic() < end, 'what is waited for does not come'
    time.sleep(.05)


def records(workdir):
  return [json.loads(line)
          for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
class SmokeTest(absltest.TestCase):

  def test_two_processes_leave_what_one_with_two_devices_leaves(self):
    two = SHARED['folder'] / 'two'
    # A disk that both see: process 0 renders, process 1 waits and is told.
    # More than it can render before it hears of the signal.
    running = self.start_two([two] * 2, [SHARED['folder'] / 'shared'] * 2,
                             '--config.data.train_episodes=500')
    wait_for((SHARED['folder'] / 'shared' / 'episodes').exists, running)
    self.assertStop(running, 1)
    self.assertEmpty(list(SHARED['folder'].glob('shared/**/dataset_info.json')))

    # Disks of their own: both render.
    disks = [SHARED['folder'] / name for name in ('disk-0', 'disk-1')]
    ends = self.assertDone(*self.start_two([two] * 2, disks))
    self.assertIn('results in', ends[0])
    self.assertNotIn('results in', ends[1])
    one = self.one_process()
    for name in RESULTS:
      self.assertTrue((two / name).exists(), name)
    self.assertSameRecords(one, two)
    summaries = [json.loads((workdir / 'summary.json').read_text())
                 for workdir in (one, two)]
    for name, value in summaries[0].items():
      np.testing.assert_allclose(summaries[1][name], value, atol=.01)

  def test_in_a_bucket_a_lost_host_costs_what_was_not_saved(self):
    served, environment = self.enter_context(bucket.serve())
    workdir, copy = f'gs://{bucket.NAME}/x', SHARED['folder'] / 'copy'
    start_two = lambda: self.start_two(
        [workdir] * 2, [SHARED['folder'] / 'bucket-disk'] * 2,
        environment=environment)
    running = start_two()
    wait_for(lambda: 'x/teacher/3/commit_success.txt' in served.names(),
             running)
    running[1].kill()
    _, err = running[0].communicate(timeout=120)
    self.assertEqual(running[0].returncode, 69, err)
    self.assertIn('process 1', err)
    self.assertIn('stage teacher', err)
    resumed = self.assertDone(*start_two())
    self.assertRegex(resumed[0], r'teacher +resumes at step [36] of 6')
    served.download('x/', copy)
    self.assertSameRecords(self.one_process(), copy)

  def one_process(self):
    """The workdir of a run in one process with two devices, made once."""
    workdir = SHARED['folder'] / 'one'
    if not workdir.exists():
      self.assertDone(self.start(workdir, 2))
    return workdir

  def assertSameRecords(self, one, two):
    expected, found = records(one), records(two)
    for name in ('stage', 'step'):
      self.assertEqual([r[name] for r in found], [r[name] for r in expected])
    for mine, theirs in zip(found, expected):
      for name in theirs:
        if 'loss' in name:
          np.testing.assert_allclose(
              mine[name], theirs[name], rtol=RTOL,
              err_msg=f'{mine["stage"]}, step {mine["step"]}')

  def test_a_workdir_that_is_not_shared_is_told_of(self):
    folder = SHARED['folder']
    running = self.start_two([folder / 'mine', folder / 'theirs'],
                             [folder / 'disk-0'] * 2)
    for process in running:
      _, err = process.communicate(timeout=120)
      self.assertEqual(process.returncode, 2, err)
      self.assertIn('theirs is not the folder that process 0 sees', err)

  def start(self, workdir, devices, *flags, environment=None):
    process = start(workdir, devices, *flags, environment=environment)
    self.addCleanup(process.kill)
    return process

  def start_two(self, workdirs, disks, *flags, environment=None):
    port = processes.free_port()
    return [self.start(workdirs[index], 1, f'--coordinator=localhost:{port}',
                       '--num_processes=2', f'--process_id={index}',
                       f'--config.data.dir={disks[index]}', *flags,
                       environment=environment)
            for index in range(2)]

  def assertDone(self, *running):
    """What each of them has printed, after it has ended well."""
    ends = [process.communicate(timeout=900) for process in running]
    for process, (_, err) in zip(running, ends):
      self.assertEqual(process.returncode, 0, err)
    return [out for out, _ in ends]

  def assertStop(self, running, told):
    """SIGTERM to one of them ends both in time, with the code for it."""
    running[told].send_signal(signal.SIGTERM)
    ends = [process.communicate(timeout=120)[1] for process in running]
    self.assertEqual([process.returncode for process in running], [75, 75],
                     ends)
    for end in ends:
      self.assertNotIn('Traceback', end)
    self.assertIn('preempted: process 1: told to stop by SIGTERM', ends[told])


if __name__ == '__main__':
  absltest.main()

"""Two and four processes train, save, stop, are killed and go on.

All runs have four devices: the same mesh, over one process or more. Between
processes gloo adds in another order than XLA does within one, so what is
compared may differ by the rounding of fp32, RTOL.
"""

import functools
import pathlib
import signal
import tempfile
import time
import unittest

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from tests.distributed import processes

RTOL = 1e-5
LOST, STOPPED, BAD = 69, 75, 2
# What is to be noticed while it trains takes long enough to be noticed.
SLOW = dict(seconds_per_step=.2)


@functools.cache
def folder() -> pathlib.Path:
  made = tempfile.TemporaryDirectory()
  unittest.addModuleCleanup(made.cleanup)
  return pathlib.Path(made.name)


@functools.cache
def uninterrupted():
  """Losses and parameters of one process, to which all others are compared."""
  run = processes.Run(folder() / 'one', 1)
  [(code, _, lines)] = run.end()
  assert code == 0, lines
  return processes.losses(run.workdir), processes.params(run.workdir)


class RunTestCase(parameterized.TestCase):

  def start(self, name, count, **options):
    run = processes.Run(folder() / name, count, **options)
    self.addCleanup(run.close)
    return run

  def assertEnds(self, ends, code, said=''):
    """All with this code and, where one is expected, with one line."""
    for found, _, lines in ends:
      self.assertEqual(found, code, lines)
      if said:
        self.assertLen(lines, 1)
        self.assertRegex(lines[0], said)

  def assertSameRun(self, workdir):
    losses, params = uninterrupted()
    np.testing.assert_allclose(processes.losses(workdir), losses, rtol=RTOL)
    np.testing.assert_allclose(
        processes.params(workdir), params, rtol=RTOL, atol=RTOL)


@pytest.mark.slow
class TrainTest(RunTestCase):

  @parameterized.parameters((2, {'data': 2, 'fsdp': 2}), (4, {'data': -1}))
  def test_the_number_of_processes_changes_nothing(self, count, mesh):
    run = self.start(f'{count}-{"-".join(mesh)}', count, mesh=mesh)
    ends = run.end()
    self.assertEnds(ends, 0)
    self.assertSameRun(run.workdir)
    self.assertIn('12/12', ends[0][1])
    for _, out, _ in ends[1:]:
      self.assertNotIn('12/12', out)  # Only process 0 tells.

  def test_processes_that_share_a_sequence_read_the_same_rows(self):
    run = self.start('context', 2, mesh={'context': 4})
    self.assertEnds(run.end(), 0)
    self.assertSameRun(run.workdir)


class StopTest(RunTestCase):

  @parameterized.parameters(([1], 4), ([0, 1], None))
  @pytest.mark.slow
  def test_sigterm_saves_one_step_and_another_number_goes_on(
      self, told, resumed_by):
    run = self.start(f'stopped-{resumed_by}', 2, **SLOW)
    run.wait_for_step(1)
    run.signal(signal.SIGTERM, *told)
    ends = run.end()
    self.assertEnds(ends, STOPPED)
    [line] = ends[0][2]
    self.assertRegex(line, r'^preempted: .*stage line is saved and resumes at '
                     r'step \d+ if run again')
    step = int(line.split('at step ')[1].split()[0])
    self.assertLess(step, 12)
    self.assertLen(processes.losses(run.workdir), step)
    if resumed_by is None:
      return
    resumed = self.start(run.workdir.name, resumed_by, mesh={'fsdp': -1})
    ends = resumed.end()
    self.assertEnds(ends, 0)
    self.assertIn(f'resumes at step {step} of 12', ends[0][1])
    self.assertSameRun(run.workdir)

  @pytest.mark.slow
  def test_sigterm_to_one_outside_the_loop_ends_all_at_once(self):
    run = self.start('before', 2, seconds_before=60)
    run.wait_for_start()
    time.sleep(1)
    run.signal(signal.SIGTERM, 1)
    start = time.monotonic()
    zero, one = run.end()
    self.assertLess(time.monotonic() - start, 15)
    self.assertEnds([one], STOPPED, 'process 1: told to stop by SIGTERM')
    self.assertEnds([zero], STOPPED, 'process 0: process 1 was told to stop')

  @pytest.mark.slow
  def test_ctrl_c_in_one_process_saves_too(self):
    run = self.start('ctrl-c', 1, **SLOW)
    run.wait_for_step(1)
    run.signal(signal.SIGINT, 0)
    self.assertEnds(run.end(), STOPPED, 'saved and resumes at step')


class LossTest(RunTestCase):

  @parameterized.parameters((4, 2), (2, 0))
  @pytest.mark.slow
  def test_a_killed_process_ends_the_others_by_name(self, count, killed):
    run = self.start(f'killed-{killed}', count, **SLOW)
    run.wait_for_step(5)  # After the first checkpoint.
    start = time.monotonic()
    run.signal(signal.SIGKILL, killed)
    others = [index for index in range(count) if index != killed]
    self.assertEnds(
        run.end(*others), LOST, f'^error: process .: process {killed} was lost'
        '; start the same command again on all hosts; stage line is saved and '
        r'resumes at step \d')
    self.assertLess(time.monotonic() - start, 60)
    resumed = self.start(run.workdir.name, 3 - count // 2)
    self.assertEnds(resumed.end(), 0)
    self.assertSameRun(run.workdir)

  @pytest.mark.slow
  def test_one_that_fails_gives_its_reason_to_the_others(self):
    run = self.start('failed', 2, fails=[1, 6])
    zero, one = run.end()
    self.assertEnds([one], BAD, 'process 1: the disk of this host is full')
    self.assertEnds(
        [zero], BAD, 'process 0: process 1 ended: the disk of this host is')

  @pytest.mark.slow
  def test_a_host_that_does_not_come_is_told_of(self):
    run = self.start('alone', 2, started=1, start=dict(connect_seconds=5))
    self.assertEnds(run.end(), LOST, 'not all of 2 processes came to localhost')

  @pytest.mark.slow
  def test_a_frozen_process_ends_the_others_after_the_heartbeat(self):
    run = self.start('frozen', 2, start=dict(heartbeat_seconds=5), **SLOW)
    run.wait_for_step(1)
    run.signal(signal.SIGSTOP, 1)
    [(code, _, lines)] = run.end(0, timeout=60)
    self.assertEqual(code, LOST, lines)
    self.assertRegex(lines[-1], 'was lost.*start the same command again')


if __name__ == '__main__':
  absltest.main()

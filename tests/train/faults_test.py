"""Processes that die, and disks that fill, while a checkpoint is saved."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from worldsim_jax.train.checkpoints import Checkpoints

# Large enough that the process is gone before the second save is on disk.
KILLED = """
import os, signal, sys
import numpy as np
from worldsim_jax.train.checkpoints import Checkpoints
state = lambda step: {'w': np.full((4096, 4096), step, np.float32)}
saved = Checkpoints(sys.argv[1], {})
saved.save(1, state(1), {'position': 1})
saved.wait()
saved.save(2, state(2), {'position': 2})
os.kill(os.getpid(), signal.SIGKILL)
"""


# A file that grows too large is to Orbax what a full disk is.
FULL = """
import resource, sys
from absl import logging
import numpy as np
from worldsim_jax.errors import UserError
from worldsim_jax.train.checkpoints import Checkpoints
dice = np.random.default_rng(0)
try:
  with Checkpoints(sys.argv[1], {}) as saved:
    saved.save(1, {'w': np.zeros(3, np.float32)}, {})
    saved.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    large = {str(i): dice.normal(size=(256, 128)) for i in range(50)}
    saved.save(2, large, {})
    logging.error('of something else')
except UserError as error:
  print(error)
logging.error('after it')
"""


# A disk of 4 MB: the arrays of the second checkpoint fit on it or not; with
# `last`, what else is there leaves no room for what comes after the arrays.
SMALL_DISK = """
import os, sys
import numpy as np
from worldsim_jax.errors import UserError
from worldsim_jax.storage import checksums
from worldsim_jax.train.checkpoints import Checkpoints
folder, when = sys.argv[1:]
dice = np.random.default_rng(0)
state = lambda size: {'w': dice.normal(size=size).astype(np.float32)}

def fill():
  with open(os.path.join(folder, 'filler'), 'wb', buffering=0) as filler:
    try:
      while filler.write(bytes(4096)): pass
    except OSError as error:
      assert 'No space left' in str(error)

write = checksums.write
def fill_first(*args, **kwargs):
  fill()
  write(*args, **kwargs)

try:
  with Checkpoints(os.path.join(folder, 'stage'), {}) as saved:
    saved.save(1, state(1000), {'position': 1})
    saved.wait()
    if when == 'commit':
      checksums.write = fill_first
    saved.save(2, state(1000 if when == 'commit' else 2_000_000), {})
except UserError as error:
  print(error)
if when == 'commit':
  os.remove(os.path.join(folder, 'filler'))
"""


def run(code, *arguments):
  return subprocess.run(
      [sys.executable, '-c', code, *arguments],
      env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
      capture_output=True, check=False, text=True)


@contextlib.contextmanager
def small_disk(test):
  with tempfile.TemporaryDirectory() as folder:
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=4m', 'none', folder],
        check=False, capture_output=True)
    if mounted.returncode:
      test.skipTest('only root may mount a small disk')
    try:
      yield folder
    finally:
      subprocess.run(['umount', folder], check=True)


@pytest.mark.slow
class FullDiskTest(parameterized.TestCase):

  def test_it_is_one_line_and_other_errors_are_printed(self):
    done = run(FULL, self.create_tempdir().full_path)
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertLen(done.stdout.splitlines(), 1)
    self.assertRegex(done.stdout, 'could not save to .* good .* step 1')
    self.assertNotIn('Traceback', done.stderr)
    self.assertIn('of something else', done.stderr)
    self.assertIn('after it', done.stderr)

  @parameterized.parameters('arrays', 'commit')
  def test_a_disk_that_fills_in_a_save_keeps_the_checkpoint_before(self, when):
    with small_disk(self) as folder:
      done = run(SMALL_DISK, folder, when)
      self.assertEqual(done.returncode, 0, done.stderr)
      self.assertRegex(
          done.stdout, '^could not save to .*: no space left on the device; '
          'the last good checkpoint is step 1.\n$')
      self.assertNotIn('Traceback', done.stderr)
      stage = os.path.join(folder, 'stage')
      with Checkpoints(stage, {}, announce=self.fail) as saved:
        like = {'w': jax.ShapeDtypeStruct((1000,), np.float32)}
        _, iterator_state = saved.restore(like)
        self.assertEqual(iterator_state, {'position': 1})
        # With room again, the run goes on in the same folder.
        saved.save(2, {'w': np.zeros(1000, np.float32)}, {'position': 2})
      self.assertCountEqual(os.listdir(stage), ['1', '2'])


@pytest.mark.slow
class KilledTest(absltest.TestCase):

  def test_a_process_killed_while_saving_leaves_a_whole_checkpoint(self):
    folder = self.create_tempdir().full_path
    killed = run(KILLED, folder)
    self.assertEqual(killed.returncode, -signal.SIGKILL, killed.stderr)
    with Checkpoints(folder, {}) as saved:
      step = saved.latest_step()
      self.assertIn(step, (1, 2))
      like = jax.ShapeDtypeStruct((4096, 4096), np.float32)
      state, iterator_state = saved.restore({'w': like})
    self.assertEqual(iterator_state, {'position': step})
    np.testing.assert_array_equal(state['w'], step)
    # What was left half-written is gone.
    self.assertEmpty(list(pathlib.Path(folder).glob('*tmp*')))


if __name__ == '__main__':
  absltest.main()

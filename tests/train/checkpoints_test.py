"""Checkpoints that are there when they are needed, or say why not."""

import os
import pathlib
import re
import signal
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import checkpoints
from worldsim_jax.train.checkpoints import Checkpoints

CONFIG = {'model.dim': 16, 'seed': 0, 'data.names': ('a', 'b')}


def state_of(step):
  return {'step': np.int32(step), 'w': np.full((8, 4), step, np.float32)}


LIKE = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state_of(0)))


def delete_arrays(folder: pathlib.Path):
  for path in folder.glob('state/**/d/*'):
    path.unlink()


def truncate_arrays(folder: pathlib.Path):
  for path in folder.glob('state/**/d/*'):
    os.truncate(path, path.stat().st_size // 2)


def empty_config(folder: pathlib.Path):
  (folder / 'config' / 'metadata').write_text('')


class CheckpointsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path) / 'stage'
    self.said = []

  def open(self, config=CONFIG, **kwargs):
    return Checkpoints(self.folder, config, announce=self.said.append, **kwargs)

  def save(self, *steps, **kwargs):
    with self.open(**kwargs) as saved:
      for step in steps:
        saved.save(step, state_of(step), {'position': 10 * step})

  def assertRestores(self, saved, step):
    state, iterator_state = saved.restore(LIKE)
    chex.assert_trees_all_equal(state, state_of(step))
    self.assertEqual(iterator_state, {'position': 10 * step})

  def test_without_a_checkpoint_there_is_nothing_to_restore(self):
    with self.open() as saved:
      self.assertIsNone(saved.latest_step())
      self.assertIsNone(saved.restore(LIKE))

  def test_the_newest_is_restored_and_the_oldest_go(self):
    self.save(1, 2, 3, max_to_keep=2)
    with self.open() as saved:
      self.assertEqual(saved.latest_step(), 3)
      self.assertRestores(saved, 3)
    self.assertEmpty(self.said)
    self.assertFalse((self.folder / '1').exists())
    self.assertTrue((self.folder / '2').exists())

  def test_another_configuration_is_refused_with_key_and_values(self):
    self.save(1)
    with self.open(CONFIG | {'model.dim': 32, 'new': True}) as saved:
      with self.assertRaisesRegex(
          UserError, r'config\.model\.dim=16 there and 32 now.*config\.new'
      ):
        saved.restore(LIKE)

  def test_many_differences_are_counted(self):
    self.save(1, config={f'key{i}': i for i in range(5)})
    with self.open({}) as saved:
      with self.assertRaisesRegex(UserError, 'key2=2 .*and 2 more'):
        saved.restore(LIKE)

  @parameterized.parameters(delete_arrays, truncate_arrays, empty_config)
  def test_a_broken_checkpoint_is_passed_over_and_written_again(self, damage):
    self.save(1, 2)
    damage(self.folder / '2')
    with self.open() as saved:
      self.assertRestores(saved, 1)
      self.assertLen(self.said, 1)
      self.assertRegex(
          self.said[0], f'{re.escape(str(self.folder))}/2 is unreadable'
      )
      saved.save(2, state_of(2), {'position': 20})
    with self.open() as saved:
      self.assertRestores(saved, 2)

  def test_nothing_but_broken_checkpoints_is_an_error(self):
    self.save(1)
    delete_arrays(self.folder / '1')
    with self.open() as saved:
      with self.assertRaisesRegex(UserError, 'remove the folder'):
        saved.restore(LIKE)

  def test_a_directory_that_cannot_be_made_is_one_line(self):
    self.folder.parent.joinpath('file').write_text('')
    with self.assertRaisesRegex(UserError, 'file/stage: .*Not a directory'):
      Checkpoints(self.folder.parent / 'file' / 'stage', CONFIG)

  def test_a_full_disk_is_one_line_with_the_last_good_step(self):
    with self.open() as saved:
      saved.save(1, state_of(1), {})
      saved.wait()
      full = OSError(28, 'No space left on device')
      with mock.patch.object(
          saved._manager, 'wait_until_finished', side_effect=full
      ):
        with self.assertRaisesRegex(
            UserError, '(?i)no space left .*; .* good .* step 1'
        ):
          saved.wait()

  def test_the_advice_for_another_configuration_names_the_folder(self):
    self.save(1)
    with self.open({}) as saved:
      with self.assertRaisesRegex(
          UserError, f'or remove {re.escape(str(self.folder))} and the folders '
          'of later stages'):
        saved.restore(LIKE)

  def test_finished_steps_are_those_of_the_newest_checkpoint(self):
    self.assertEqual(checkpoints.finished_steps(self.folder, CONFIG), 0)
    self.assertFalse(self.folder.exists())
    self.save(1, 2)
    self.assertEqual(checkpoints.finished_steps(self.folder, CONFIG), 2)
    with self.assertRaisesRegex(UserError, r'config\.seed=0 there and 1 now'):
      checkpoints.finished_steps(self.folder, CONFIG | {'seed': 1})
    empty_config(self.folder / '2')
    self.assertEqual(checkpoints.finished_steps(self.folder, CONFIG), 1)

  def test_an_error_in_the_loop_is_not_hidden_by_one_of_the_save(self):
    with self.assertRaisesRegex(KeyError, 'from the loop'):
      with self.open() as saved:
        with mock.patch.object(
            saved._manager, 'close', side_effect=OSError(28, 'No space left')):
          with saved:
            raise KeyError('from the loop')
    self.assertLen(self.said, 1)
    self.assertIn('no space left', self.said[0])

  def test_a_relative_directory_will_do(self):
    self.addCleanup(os.chdir, os.getcwd())
    os.chdir(self.folder.parent)
    with Checkpoints('stage', CONFIG) as saved:
      saved.save(1, state_of(1), {'position': 10})
    with self.open() as saved:
      self.assertRestores(saved, 1)

  @parameterized.parameters(1, 4)
  def test_what_eight_devices_save_fewer_restore(self, num_devices):
    if len(jax.devices()) < 8:
      self.skipTest('needs eight devices')
    with self.open() as saved:
      eight = meshes.replicate(meshes.make_mesh(), state_of(3))
      saved.save(3, eight, {'position': 30})
    fewer = meshes.make_mesh(devices=jax.devices()[:num_devices])
    with self.open() as saved:
      state, _ = saved.restore(meshes.abstract(fewer, LIKE))
    chex.assert_trees_all_equal(state, state_of(3))
    self.assertLen(state['w'].sharding.device_set, num_devices)


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


class FullDiskTest(absltest.TestCase):

  def test_it_is_one_line_and_other_errors_are_printed(self):
    done = subprocess.run(
        [sys.executable, '-c', FULL, self.create_tempdir().full_path],
        env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
        capture_output=True, check=False, text=True)
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertLen(done.stdout.splitlines(), 1)
    self.assertRegex(done.stdout, 'could not save to .* good .* step 1')
    self.assertNotIn('Traceback', done.stderr)
    self.assertIn('of something else', done.stderr)
    self.assertIn('after it', done.stderr)


class KilledTest(absltest.TestCase):

  def test_a_process_killed_while_saving_leaves_a_whole_checkpoint(self):
    folder = self.create_tempdir().full_path
    killed = subprocess.run(
        [sys.executable, '-c', KILLED, folder],
        env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    self.assertEqual(killed.returncode, -signal.SIGKILL, killed.stderr.decode())
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

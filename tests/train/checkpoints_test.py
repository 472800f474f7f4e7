"""Checkpoints that are there when they are needed, or say why not."""

import os
import pathlib
import random
import re
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.errors import UserError
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

  def test_checkpoints_of_every_so_many_steps_stay_for_ever(self):
    self.save(*range(1, 9), max_to_keep=2, keep_every=3)
    self.assertEqual(sorted(int(p.name) for p in self.folder.iterdir()),
                     [3, 6, 7, 8])

  def test_what_is_newer_than_the_checkpoint_gone_back_to_goes(self):
    self.save(10, 20)
    delete_arrays(self.folder / '20')
    with self.open() as saved:
      self.assertRestores(saved, 10)
      saved.save(15, state_of(15), {'position': 150})
    self.assertEqual(checkpoints.finished_steps(self.folder, CONFIG), 15)
    self.assertFalse((self.folder / '20').exists())
    self.assertTrue((self.folder / '10').exists())

  def test_a_whole_checkpoint_that_cannot_be_read_is_not_passed_over(self):
    self.save(1, 2)
    with self.open() as saved:
      with self.assertRaisesRegex(UserError, '/2 is whole but cannot be read'):
        saved.restore({'other': LIKE['w']})
    self.assertEmpty(self.said)


class CorruptionTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path) / 'stage'
    dice = np.random.default_rng(0)
    self.states = {step: {'step': np.int32(step), 'params': {
        'w': dice.normal(size=(64, 32)).astype(np.float32)}} for step in (1, 2)}
    with Checkpoints(self.folder, CONFIG) as saved:
      for step, state in self.states.items():
        saved.save(step, state, {'position': step})
    self.newest = self.folder / '2'

  def assertPassedOver(self, path):
    """The first step is restored, and the path named; if it is of any use."""
    said = []
    with Checkpoints(self.folder, CONFIG, announce=said.append) as saved:
      state, iterator_state = saved.restore(
          jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
                       self.states[1]))
    step = int(state['step'])
    chex.assert_trees_all_equal(state, self.states[step])
    self.assertEqual(iterator_state, {'position': step})
    # Orbax writes these after everything else; they hold nothing of the run.
    if path.parent == self.newest and path.name in (
        '_CHECKPOINT_METADATA', 'commit_success.txt'):
      return
    self.assertEqual(step, 1)
    self.assertLen(said, 1)
    self.assertIn(str(path), said[0])
    self.assertLen(said[0].splitlines(), 1)

  def files(self):
    found = sorted(p for p in self.newest.rglob('*') if p.is_file())
    self.assertGreater(len(found), 10)
    return found

  def test_a_flipped_bit_in_any_file_is_found(self):
    dice = random.Random(0)
    for path in self.files():
      with self.subTest(str(path.relative_to(self.newest))):
        before = path.read_bytes()
        changed = bytearray(before)
        changed[dice.randrange(len(before))] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        self.assertPassedOver(path)
        path.write_bytes(before)

  def test_a_truncated_file_is_found(self):
    for path in self.files():
      with self.subTest(str(path.relative_to(self.newest))):
        before = path.read_bytes()
        path.write_bytes(before[:-1])
        self.assertPassedOver(path)
        path.write_bytes(before)

  def test_a_missing_file_is_found(self):
    for path in self.files():
      with self.subTest(str(path.relative_to(self.newest))):
        before = path.read_bytes()
        path.unlink()
        self.assertPassedOver(path)
        path.write_bytes(before)

  def test_an_added_file_is_found(self):
    path = self.newest / 'state' / 'd' / 'added'
    path.write_bytes(b'')
    self.assertPassedOver(path)


if __name__ == '__main__':
  absltest.main()

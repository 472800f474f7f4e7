"""Record sets are whole or absent, and say which file is damaged."""

import glob
import os
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
import numpy as np

from worldsim_jax.data import records
from worldsim_jax.data import shots
from worldsim_jax.errors import UserError


def episode(number, frames=12):
  rng = np.random.default_rng(number)
  return dict(
      rgb=rng.integers(0, 256, (frames, 48, 64, 3)).astype(np.uint8),
      actions=rng.normal(size=(frames, 3)).astype(np.float32),
      pose=rng.normal(size=(frames, 4)),
      shot_id=np.zeros(frames, np.int32),
      caption=f'number {number}, é',
      recipe='',
  )


def count_to(n, first=0):
  return lambda: (episode(first + k) for k in range(n))


class RecordsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.data_dir = self.create_tempdir().full_path

  def write(self, key='k', **splits):
    return records.write(
        self.data_dir,
        key,
        splits or {'train': count_to(20), 'test': count_to(3)},
    )

  def test_what_was_written_is_read_in_the_same_order(self):
    source = records.Source(self.write(), 'train')
    self.assertLen(source, 20)
    for number in (0, 7, 19):
      for name, value in episode(number).items():
        np.testing.assert_array_equal(source[number][name], value)
        if name != 'caption' and name != 'recipe':
          self.assertEqual(source[number][name].dtype, value.dtype)
    self.assertEqual(source[-1]['caption'], 'number 19, é')
    with self.assertRaises(IndexError):
      source[20]

  def test_frames_cost_little_more_than_their_bytes(self):
    # Files are padded to 64 KiB.
    directory = self.write(train=count_to(50))
    size = sum(map(os.path.getsize, glob.glob(directory + '/*train*')))
    raw = sum(v.nbytes for v in episode(0).values() if not isinstance(v, str))
    self.assertLess(size, 1.05 * 50 * raw)

  def test_the_same_key_is_written_once(self):
    directory = self.write()

    def fail():
      raise AssertionError('written again')

    self.assertEqual(
        records.write(self.data_dir, 'k', {'train': fail}), directory
    )

  def test_keys_differ_when_any_content_does(self):
    a, b = (records.key_of('world', {'seed': s, 'maps': ['x']}) for s in (0, 1))
    self.assertNotEqual(a, b)
    self.assertEqual(a, records.key_of('world', {'maps': ['x'], 'seed': 0}))

  def test_an_interrupted_build_leaves_nothing_and_is_redone(self):
    def interrupted():
      yield episode(0)
      raise KeyboardInterrupt

    with self.assertRaises(KeyboardInterrupt):
      self.write(train=interrupted)
    left = glob.glob(self.data_dir + '/**/*.array_record*', recursive=True)
    self.assertEmpty(left)
    self.assertLen(records.Source(self.write(), 'train'), 20)

  def test_a_killed_build_is_swept_up_by_the_next(self):
    code = (
        'import os, sys\n'
        'from worldsim_jax.data import records\n'
        'import numpy as np\n'
        'def die():\n'
        '  yield dict(x=np.zeros((5, 2)))\n'
        '  os.kill(os.getpid(), 9)\n'
        'records.write(sys.argv[1], "k", {"train": die})\n'
    )
    process = subprocess.run(
        [sys.executable, '-c', code, self.data_dir],
        check=False,
        capture_output=True,
    )
    self.assertEqual(process.returncode, -9)
    parent = os.path.dirname(records.folder(self.data_dir, 'k'))
    self.assertNotEmpty(glob.glob(parent + '/incomplete.*'))
    self.assertFalse(os.path.exists(records.folder(self.data_dir, 'k')))
    self.write()
    self.assertEmpty(glob.glob(parent + '/incomplete.*'))

  def test_a_truncated_file_is_named(self):
    directory = self.write()
    [path] = glob.glob(directory + '/*train*')
    for keep in (0.99, 0.5, 0):
      os.truncate(path, int(keep * os.path.getsize(path)))
      with self.assertRaises(UserError) as caught:
        records.Source(directory, 'train')
      self.assertIn(os.path.basename(path), str(caught.exception))
      self.assertIn('delete', str(caught.exception))
      self.assertNotIn('\n', str(caught.exception))

  def test_a_flipped_byte_is_noticed_when_it_is_read(self):
    directory = self.write()
    [path] = glob.glob(directory + '/*train*')
    source = records.Source(directory, 'train')
    with open(path, 'r+b') as f:
      f.seek(os.path.getsize(path) // 2)
      f.write(b'\xff' * 64)
    with self.assertRaisesRegex(UserError, 'damaged'):
      for number in range(len(source)):
        source[number]

  def test_a_damaged_description_is_named(self):
    directory = self.write()
    for name in ('metadata.json', 'features.json'):
      os.truncate(os.path.join(directory, name), 20)
      with self.assertRaisesRegex(UserError, 'dataset_info.json is damaged'):
        records.Source(directory, 'train')
      os.remove(os.path.join(directory, name))

  def test_a_missing_set_or_split_is_named(self):
    with self.assertRaisesRegex(UserError, 'nowhere: no such record set'):
      records.Source(self.data_dir + '/nowhere', 'train')
    with self.assertRaisesRegex(UserError, "no split 'dev'.*train"):
      records.Source(self.write(), 'dev')

  def test_latents_take_the_place_of_frames_in_the_same_order(self):
    def encode(rgb):
      return rgb[:, ::8, ::8].astype(np.float16) / 128 - 1

    def transform(episode):
      rest = {k: v for k, v in episode.items() if k != 'rgb'}
      return {**rest, 'latents': encode(episode['rgb'])}

    directory = records.derive(
        self.write(),
        self.data_dir,
        'every eighth pixel',
        lambda episodes: map(transform, episodes),
    )
    source = records.Source(directory, 'train')
    for number in (0, 19):
      expected = episode(number)
      latents = source[number]['latents']
      self.assertEqual(
          (latents.shape, latents.dtype), ((12, 6, 8, 3), 'float16')
      )
      np.testing.assert_array_equal(latents, encode(expected['rgb']))
      np.testing.assert_array_equal(
          source[number]['actions'], expected['actions']
      )
      self.assertNotIn('rgb', source[number])
    self.assertLen(records.Source(directory, 'test'), 3)

  def test_the_longest_shot_of_each_episode_is_known_without_reading(self):
    def films():
      for cut in (3, 6, 12):
        shot_id = (np.arange(12) >= cut).astype(np.int32)
        yield dict(episode(cut), shot_id=shot_id)

    directory = self.write(train=films, test=count_to(2))
    with mock.patch.object(shots, 'longest', side_effect=AssertionError):
      train, test = (records.Source(directory, s) for s in ('train', 'test'))
      self.assertEqual(train.longest_shots.tolist(), [9, 6, 12])
      self.assertEqual(test.longest_shots.tolist(), [12, 12])
    self.assertEqual(train.shapes['rgb'], (None, 48, 64, 3))
    os.remove(os.path.join(directory, 'metadata.json'))  # As older sets are.
    self.assertEqual(
        records.Source(directory, 'train').longest_shots.tolist(), [9, 6, 12]
    )

  def test_without_tfds_the_pip_line_is_given(self):
    with mock.patch.dict(sys.modules, {'tensorflow_datasets': None}):
      with self.assertRaisesRegex(UserError, 'pip install tensorflow-datasets'):
        records.Source(self.data_dir, 'train')

  def test_nothing_to_write_is_an_error(self):
    with self.assertRaisesRegex(UserError, 'nothing to record'):
      self.write(train=count_to(0))
    with self.assertRaisesRegex(UserError, 'k, test: .*nothing to record'):
      self.write(train=count_to(2), test=count_to(0))
    self.assertFalse(records.is_complete(records.folder(self.data_dir, 'k')))
    self.assertLen(records.Source(self.write(), 'test'), 3)

  def test_tensorflow_is_never_imported(self):
    code = (
        'import sys\n'
        'import numpy as np\n'
        'from worldsim_jax.data import records\n'
        'assert "tensorflow_datasets" not in sys.modules\n'
        'd = records.write(sys.argv[1], "k", '
        '{"train": lambda: [dict(x=np.zeros((5, 2)))]})\n'
        'records.Source(d, "train")[0]\n'
        'assert "tensorflow" not in sys.modules\n'
    )
    subprocess.run([sys.executable, '-c', code, self.data_dir], check=True)


if __name__ == '__main__':
  absltest.main()

"""What all benchmark layouts share: checks, words, folders that are whole."""

import os

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.data import actions as actions_lib
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import adapters


def _clip(name='a', frames=3, **fields):
  rgb = np.zeros((frames, 48, 64, 3), np.uint8)
  return adapters.Clip(**dict(name=name, caption='a room', rgb=rgb) | fields)


def _script(text):
  return np.concatenate([np.zeros((1, 3)), actions_lib.parse(text)])


class InWordsTest(parameterized.TestCase):

  @parameterized.parameters(
      ('forward*20,left*10', 'walks forward, then turns left'),
      ('back*5,strafe_right*5', 'walks backward, then steps to the right'),
      ('wait*9', 'stands still'),
      # A pause of a twentieth of the film is not told.
      ('right*10,wait*1,right*9', 'turns right'),
      # Together: 24 of 32 units against 8 of 16 degrees.
      ('forward+left*9', 'walks forward'),
  )
  def test_scripts_become_sentences(self, script, expected):
    self.assertEqual(
        adapters.in_words(_script(script)), f'The player {expected}.'
    )

  def test_other_arrays_are_refused(self):
    with self.assertRaisesRegex(ValueError, r'need \[T, 3\]'):
      adapters.in_words(np.zeros(3))


class CheckTest(parameterized.TestCase):

  @parameterized.parameters(
      ([], 'no clips'),
      ([_clip('a/b')], "'a/b'"),
      ([_clip('')], "clip ''"),
      ([_clip('a'), _clip('a')], 'clip a: two clips'),
      ([_clip(caption='  ')], 'clip a: it has no caption'),
      ([_clip(rgb=np.zeros((3, 48, 64, 3)))], 'clip a: film is float64'),
      ([_clip(frames=1)], 'at least 2 frames'),
      ([_clip(first_frame=np.zeros((4, 4, 3), np.uint8))], 'first frame is'),
  )
  def test_what_cannot_be_written_is_named(self, clips, message):
    with self.assertRaisesRegex(UserError, message):
      adapters.check(clips)


class StagedTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.parent = self.create_tempdir().full_path
    self.folder = os.path.join(self.parent, 'films')

  def test_a_folder_appears_when_all_went_well(self):
    with adapters.staged(self.folder) as root:
      adapters.write_json(os.path.join(root, 'a.json'), {'ü': 1})
      self.assertFalse(os.path.exists(self.folder))
    self.assertEqual(os.listdir(self.parent), ['films'])
    self.assertEqual(os.listdir(self.folder), ['a.json'])

  def test_nothing_is_left_of_one_that_failed(self):
    with self.assertRaises(KeyboardInterrupt):
      with adapters.staged(self.folder) as root:
        adapters.write_json(os.path.join(root, 'a.json'), {})
        raise KeyboardInterrupt
    self.assertEmpty(os.listdir(self.parent))

  def test_what_is_there_is_not_overwritten(self):
    os.mkdir(self.folder)
    with adapters.staged(self.folder) as root:  # empty: may be taken
      adapters.write_json(os.path.join(root, 'a.json'), {})
    with self.assertRaisesRegex(UserError, 'films: is already there'):
      with adapters.staged(self.folder):
        self.fail('a folder with files was taken')

  def test_the_disk_s_refusal_and_buckets_are_named(self):
    file = self.create_tempfile('plain').full_path
    with self.assertRaisesRegex(UserError, 'cannot write'):
      with adapters.staged(os.path.join(file, 'films')):
        pass
    with self.assertRaisesRegex(UserError, 'local folders'):
      with adapters.staged('gs://bucket/films'):
        pass


if __name__ == '__main__':
  absltest.main()

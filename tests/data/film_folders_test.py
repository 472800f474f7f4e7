"""A user's folder of films becomes records; damaged films are named."""

import os

from absl.testing import absltest
import numpy as np

from worldsim_jax.data import film_folders
from worldsim_jax.data import records
from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError


def film(frames=20, height=48, width=64):
  """Smooth, so that H.264 changes it little; it moves to the right."""
  t, y, x = np.ogrid[:frames, :height, :width]
  wave = 128 + 60 * np.sin((x - 2 * t) / 9) + 30 * np.cos(y / 7)
  return np.repeat(wave[..., None], 3, -1).astype(np.uint8)


class RecordTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = self.create_tempdir().full_path
    self.data_dir = self.create_tempdir().full_path

  def add(self, name, frames=20):
    path = os.path.join(self.folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    video_files.write_mp4(path, film(frames), 10)
    return os.path.splitext(path)[0]

  def record(self, **options):
    return film_folders.record(
        self.folder,
        self.data_dir,
        **{**dict(height=24, width=32, frames_per_second=10), **options},
    )

  def test_films_and_sidecars_become_episodes(self):
    stem = self.add('train/walk.mp4')
    self.add('test/rest.mp4')
    actions = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save(stem + '.actions.npy', actions)
    with open(stem + '.txt', 'w') as f:
      f.write('a walk\n')
    directory = self.record(episode_frames=15)
    source = records.Source(directory, 'train')
    self.assertLen(source, 2)  # 10 frames each: no short rest.
    self.assertEqual(source[0]['caption'], 'a walk')
    self.assertEqual(source[0]['rgb'].shape, (10, 24, 32, 3))
    np.testing.assert_array_equal(source[0]['actions'][1:], actions[1:10])
    np.testing.assert_array_equal(source[1]['actions'][0], 0)
    np.testing.assert_array_equal(source[1]['actions'][1:], actions[11:])
    self.assertTrue(np.isnan(source[0]['pose']).all())
    rest = records.Source(directory, 'test')[0]
    self.assertEqual(rest['caption'], '')
    np.testing.assert_array_equal(rest['actions'], 0)

  def test_without_folders_one_film_in_ten_is_for_testing(self):
    for k in range(11):
      self.add(f'{k}.mp4', frames=2)
    directory = self.record()
    self.assertLen(records.Source(directory, 'train'), 10)
    self.assertLen(records.Source(directory, 'test'), 1)

  def test_of_a_single_film_the_end_is_for_testing(self):
    stem = self.add('a.mp4', frames=50)
    actions = np.arange(150, dtype=np.float32).reshape(50, 3)
    np.save(stem + '.actions.npy', actions)
    whole = video_files.read(
        stem + '.mp4', height=24, width=32, frames_per_second=10
    )
    directory = self.record()
    [train], [test] = (
        [source[i] for i in range(len(source))]
        for source in (records.Source(directory, s) for s in ('train', 'test'))
    )
    np.testing.assert_array_equal(train['rgb'], whole[:40])
    np.testing.assert_array_equal(test['rgb'], whole[40:])
    np.testing.assert_array_equal(test['actions'][1:], actions[41:])
    np.testing.assert_array_equal(test['actions'][0], 0)

  def test_a_film_of_one_frame_cannot_be_divided(self):
    self.add('a.mp4', frames=1)
    with self.assertRaisesRegex(UserError, 'nothing to record'):
      self.record()

  def test_words_of_actions_follow_the_length_of_a_frame(self):
    stem = self.add('train/a.mp4')
    self.add('test/b.mp4')
    with open(stem + '.actions.txt', 'w') as f:
      f.write('wait,forward*19')
    film = records.Source(self.record(tics_per_frame=2), 'train')[0]
    np.testing.assert_array_equal(film['actions'][1:], [[12, 0, 0]] * 19)

  def test_a_changed_film_is_recorded_anew(self):
    self.add('a.mp4')
    first = self.record()
    self.assertEqual(first, self.record())
    self.add('a.mp4', frames=30)
    self.assertNotEqual(first, self.record())

  def test_a_damaged_film_is_named_and_nothing_is_recorded(self):
    self.add('a.mp4')
    stem = self.add('b.mp4')
    os.truncate(stem + '.mp4', 1000)
    with self.assertRaisesRegex(UserError, 'b.mp4'):
      self.record()
    files = [f for _, _, names in os.walk(self.data_dir) for f in names]
    self.assertNotIn('dataset_info.json', files)

  def test_actions_must_be_as_many_as_frames(self):
    stem = self.add('a.mp4')
    with open(stem + '.actions.txt', 'w') as f:
      f.write('forward*19')
    with self.assertRaisesRegex(UserError, 'has 19 rows, but 20 frames'):
      self.record()

  def test_a_folder_without_films_is_refused(self):
    with self.assertRaisesRegex(UserError, 'no films .* to train on$'):
      self.record()
    self.add('train/a.mp4')
    with self.assertRaisesRegex(UserError, 'to test with .folder test beside'):
      self.record()
    with self.assertRaisesRegex(UserError, 'cannot list'):
      film_folders.record(
          self.folder + '/absent',
          self.data_dir,
          height=24,
          width=32,
          frames_per_second=10,
      )


if __name__ == '__main__':
  absltest.main()

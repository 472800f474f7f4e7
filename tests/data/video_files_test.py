"""A user's films become records; damaged ones are named."""

import os
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.data import records
from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError


def film(frames=20, height=48, width=64):
  """Smooth, so that H.264 changes it little; it moves to the right."""
  t, y, x = np.ogrid[:frames, :height, :width]
  wave = 128 + 60 * np.sin((x - 2 * t) / 9) + 30 * np.cos(y / 7)
  return np.repeat(wave[..., None], 3, -1).astype(np.uint8)


class VideoFileTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = self.create_tempdir().full_path
    self.path = os.path.join(self.folder, 'a.mp4')

  def test_a_film_survives_being_written_and_read(self):
    video_files.write_mp4(self.path, film(), 10)
    again = video_files.read(self.path)
    self.assertEqual(again.shape, film().shape)
    # H.264 at crf 18: 3 grey levels are about 38 dB.
    self.assertLess(np.abs(again.astype(int) - film()).mean(), 3)

  def test_odd_sizes_are_padded_and_pixels_repeated(self):
    video_files.write_mp4(self.path, film(3, 15, 21), 10, scale=3)
    self.assertEqual(video_files.read(self.path).shape, (3, 46, 64, 3))

  @parameterized.parameters((10, 20), (5, 10), (20, 40), (7.5, 15))
  def test_films_are_sampled_in_time(self, rate, count):
    video_files.write_mp4(self.path, film(), 10)
    sampled = video_files.read(
        self.path, height=24, width=32, frames_per_second=rate
    )
    self.assertEqual(sampled.shape, (count, 24, 32, 3))
    whole = video_files.read(self.path, height=24, width=32)
    np.testing.assert_array_equal(
        sampled, whole[(np.arange(count) * 10 / rate + 1e-6).astype(int)]
    )

  def test_a_wide_film_is_cut_in_the_middle(self):
    video_files.write_mp4(self.path, film(2, 48, 128), 10)
    cut = video_files.read(self.path, height=48, width=64)
    np.testing.assert_array_equal(cut, video_files.read(self.path)[:, :, 32:96])

  @parameterized.parameters(0.3, 0.7, 0.95)
  def test_a_truncated_film_is_named(self, keep):
    video_files.write_mp4(self.path, film(100), 10)
    os.truncate(self.path, int(keep * os.path.getsize(self.path)))
    with self.assertRaisesRegex(UserError, 'a.mp4') as caught:
      video_files.read(self.path)
    self.assertNotIn('\n', str(caught.exception))

  def test_without_pyav_the_pip_line_is_given(self):
    with mock.patch.dict(sys.modules, {'av': None}):
      with self.assertRaisesRegex(UserError, 'pip install av'):
        video_files.read(self.path)

  def test_what_is_no_film_is_named(self):
    for content in (b'', b'hello' * 1000):
      with open(self.path, 'wb') as f:
        f.write(content)
      with self.assertRaisesRegex(UserError, 'a.mp4: cannot decode'):
        video_files.read(self.path)
    with self.assertRaisesRegex(UserError, 'none.mp4: .*No such file'):
      video_files.read(self.folder + '/none.mp4')

  def test_a_failed_write_leaves_no_file(self):
    with self.assertRaisesRegex(UserError, 'cannot write'):
      video_files.write_mp4(self.folder + '/absent/a.mp4', film(), 10)
    with self.assertRaisesRegex(ValueError, 'need uint8'):
      video_files.write_mp4(self.path, film().astype(float), 10)
    self.assertEmpty(os.listdir(self.folder))


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
    return video_files.record(
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
    self.assertEmpty([f for f in files if 'array_record' in f])

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
      video_files.record(
          self.folder + '/absent',
          self.data_dir,
          height=24,
          width=32,
          frames_per_second=10,
      )


if __name__ == '__main__':
  absltest.main()

"""Films survive being written and read; damaged ones are named."""

import os
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

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


if __name__ == '__main__':
  absltest.main()

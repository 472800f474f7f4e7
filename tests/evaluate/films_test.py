"""Films show the model's own pixels, labelled and even-sized."""

import importlib.util
import io
import unittest

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from worldsim_jax.evaluate import films

HAS_VIDEO_FILES = (
    importlib.util.find_spec('worldsim_jax.data.video_files') is not None
)


def film(value=0, shape=(3, 9, 15, 3)):
  rng = np.random.default_rng(value)
  return rng.integers(0, 256, shape, dtype=np.uint8)


class SideBySideTest(parameterized.TestCase):

  def test_every_pixel_of_every_column_is_shown_enlarged(self):
    truth, student = film(0), film(1)
    shown = films.side_by_side({'truth': truth, 'student': student}, scale=4)
    self.assertEqual(shown.dtype, np.uint8)
    label = shown.shape[1] - 4 * 9
    np.testing.assert_array_equal(shown[:, label::4, : 15 * 4 : 4], truth)
    np.testing.assert_array_equal(
        shown[:, label + 3 :: 4, 15 * 4 + 6 :: 4][:, :, :15], student
    )

  @parameterized.parameters(1, 3, 4)
  def test_sizes_are_even(self, scale):
    row = films.side_by_side({'a': film(), 'b': film()}, scale)
    for shown in row, films.grid([row, row, film()]):
      self.assertEqual((shown.shape[1] % 2, shown.shape[2] % 2), (0, 0))

  def test_labels_are_drawn_and_differ(self):
    a = films.side_by_side({'truth': film()})
    b = films.side_by_side({'student': film()})
    self.assertTrue((a[:, :24] != b[:, :24]).any())
    np.testing.assert_array_equal(a[:, 24:], b[:, 24:])

  def test_captions_follow_the_frames(self):
    captions = ['forward', 'left', 'forward']
    shown = films.side_by_side({'a': film()}, captions=captions)
    below = shown[:, -24:]
    np.testing.assert_array_equal(below[0], below[2])
    self.assertTrue((below[0] != below[1]).any())

  def test_a_label_that_is_too_long_is_cut_not_an_error(self):
    shown = films.side_by_side({'student ' * 40: film()})
    self.assertEqual(shown.shape[2], 60)

  def test_different_shapes_are_named(self):
    with self.assertRaisesRegex(ValueError, r"'b': \(3, 8, 15, 3\)"):
      films.side_by_side({'a': film(), 'b': film(shape=(3, 8, 15, 3))})

  def test_captions_must_be_one_per_frame(self):
    with self.assertRaisesRegex(ValueError, '2 captions were given for 3'):
      films.side_by_side({'a': film()}, captions=['x', 'y'])

  def test_floats_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'float64'):
      films.side_by_side({'a': film() / 255})


class GridTest(absltest.TestCase):

  def test_a_shorter_film_holds_its_last_frame(self):
    long, short = film(0, (5, 8, 8, 3)), film(1, (2, 8, 6, 3))
    shown = films.grid([long, short])
    self.assertEqual(shown.shape, (5, 22, 8, 3))
    np.testing.assert_array_equal(shown[:, :8], long)
    np.testing.assert_array_equal(shown[1, 14:, :6], short[1])
    np.testing.assert_array_equal(shown[4, 14:, :6], short[1])

  def test_no_film_is_an_error(self):
    with self.assertRaisesRegex(ValueError, 'at least one'):
      films.grid([])


class GifTest(absltest.TestCase):

  def test_all_frames_and_the_rate_are_kept(self):
    # Few colours, so that the palette loses nothing.
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    frames[range(4), range(4)] = 255
    image = Image.open(io.BytesIO(films.gif_bytes(frames, 10)))
    self.assertEqual((image.n_frames, image.info['loop']), (4, 0))
    self.assertEqual(image.info['duration'], 100)
    for i in range(4):
      image.seek(i)
      np.testing.assert_array_equal(image.convert('RGB'), frames[i])


class WriteFilmsTest(absltest.TestCase):

  @unittest.skipUnless(HAS_VIDEO_FILES, 'needs data/video_files.py')
  def test_files_are_named_after_titles(self):
    folder = self.create_tempdir().full_path
    paths = films.write_films(
        folder, {'Student, 4 steps': film(shape=(4, 31, 33, 3))}, 12
    )
    self.assertEqual(
        paths, {'Student, 4 steps': f'{folder}/student_4_steps.mp4'}
    )
    with open(paths['Student, 4 steps'], 'rb') as file:
      self.assertIn(b'ftyp', file.read(16))


if __name__ == '__main__':
  absltest.main()

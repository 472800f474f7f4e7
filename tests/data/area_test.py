"""Area averaging is exact."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.data import area


class AreaTest(parameterized.TestCase):

  @parameterized.parameters(
      ((120, 160), (48, 64)),
      ((120, 160), (30, 40)),
      ((37, 53), (11, 7)),
      ((20, 30), (33, 41)),
      ((1080, 1920), (48, 64)),
  )
  def test_each_pixel_is_the_mean_of_what_it_covers(self, size, new_size):
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    rows, columns = (area.overlaps(m, n) / m for m, n in zip(size, new_size))
    mean = np.einsum('ih,hwc,jw->ijc', rows, rgb, columns, optimize=True)
    # Half a grey level of rounding; the rest is float64 in `mean`.
    np.testing.assert_allclose(
        area.resize(rgb, *new_size), mean, rtol=0, atol=0.5 + 1e-6
    )

  def test_films_are_resized_frame_by_frame(self):
    film = (
        np.random.default_rng(0)
        .integers(0, 256, (3, 12, 16, 3))
        .astype(np.uint8)
    )
    np.testing.assert_array_equal(
        area.resize(film, 5, 7),
        np.stack([area.resize(frame, 5, 7) for frame in film]),
    )

  def test_white_stays_white_and_black_black(self):
    for value in (0, 255):
      rgb = np.full((120, 160, 3), value, np.uint8)
      self.assertTrue(np.all(area.resize(rgb, 48, 64) == value))

  def test_the_same_size_is_left_alone(self):
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    np.testing.assert_array_equal(area.resize(rgb, 4, 6), rgb)


if __name__ == '__main__':
  absltest.main()

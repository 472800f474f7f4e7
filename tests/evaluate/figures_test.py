"""Figures: a number, its interval, and what real frames score."""

from absl.testing import absltest
import numpy as np

from worldsim_jax.evaluate import figures


class FigureTest(absltest.TestCase):

  def test_clips_of_one_map_count_as_one(self):
    values = np.array([1.0] * 50 + [3.0] * 50)
    maps = np.array(['a'] * 50 + ['b'] * 50)
    alone = figures.mean('x', values, np.arange(100))
    grouped = figures.mean('x', values, maps)
    self.assertEqual((alone.value, grouped.value), (2, 2))
    self.assertLess(alone.high - alone.low, 1)
    # Two maps resampled are in a quarter of the cases one map alone.
    # Weights are thirds and the like: a few roundings.
    np.testing.assert_allclose((grouped.low, grouped.high), (1, 3), rtol=1e-12)

  def test_what_could_not_be_measured_is_not_counted(self):
    figure = figures.mean('x', [1, np.nan, 3], np.arange(3))
    self.assertEqual((figure.value, figure.count), (2, 2))
    self.assertEqual(figure.maps, 2)
    nothing = figures.mean('x', [np.nan], [0], real=[1.0])
    self.assertTrue(np.isnan(nothing.value))
    self.assertEqual((nothing.count, nothing.real), (0, 1))

  def test_one_map_says_nothing_of_others(self):
    figure = figures.mean('x', [1.0, 3.0], ['a', 'a'])
    self.assertEqual((figure.value, figure.maps), (2, 1))
    self.assertTrue(np.isnan([figure.low, figure.high]).all())

  def test_the_median_is_not_moved_by_a_heavy_tail(self):
    values = np.append(np.linspace(0.9, 1.1, 99), 1e6)
    figure = figures.median('x', values, np.arange(100), real=values * 2)
    self.assertBetween(figure.value, 0.99, 1.01)
    self.assertBetween(figure.low, 0.9, figure.value)
    self.assertBetween(figure.high, figure.value, 1.1)
    self.assertAlmostEqual(figure.real, 2 * figure.value)

  def test_a_summary_is_flat_and_leaves_out_a_floor_that_is_not_defined(self):
    known = figures.Figure('x', 1.0, 0.5, 2.0, 7, real=0.1, maps=3)
    self.assertEqual(
        known.summary(),
        {'x': 1.0, 'x_low': 0.5, 'x_high': 2.0, 'x_n': 7, 'x_maps': 3,
         'x_real': 0.1},
    )
    self.assertNotIn('y_real', figures.Figure('y', 1.0, 1.0, 1.0, 1).summary())


if __name__ == '__main__':
  absltest.main()

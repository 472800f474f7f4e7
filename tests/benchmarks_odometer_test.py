"""The odometer's benchmark: a row is measured, and its figures are right."""

from absl.testing import absltest
import numpy as np
import pytest

from benchmarks import odometer


class OdometerTest(absltest.TestCase):

  @pytest.mark.slow
  def test_rows_tell_what_is_measured_on_real_frames(self):
    size = odometer.SIZES['64x48']
    films = [odometer.film(name, 2, 12, size) for name in ('MAP29', 'gen:9')]
    row = odometer.measure('64x48', films, 1, 'none', pairs=3)
    self.assertEqual((row['pairs'], row['frames_between']), (6, 1))
    self.assertGreater(row['accepted'], 0.5)
    # Medians over test maps are 0.3 map units and 0.15 degrees.
    self.assertLess(row['forward_accepted_median'], 1.5)
    self.assertLess(row['turn_accepted_median'], 0.7)
    other = odometer.measure('64x48', films, 1, 'other', pairs=2)
    self.assertEqual(other['accepted'], 0)
    self.assertNotIn('turn_median', other)

  def test_figures_of_known_errors(self):
    true = np.array([[10.0, 0, 5], [12, 0, -5], [-8, 0, 5], [0, 0, 0]])
    measured = true + [[1, 0, 0], [-1, 0, 0], [30, 0, 0], [0, 0, 1.5]]
    accepted = np.array([True, True, False, True])
    row = odometer.errors(measured, true, accepted)
    self.assertEqual(row['within_8_units_2_degrees'], 0.75)
    self.assertEqual(row['within_accepted'], 1)
    self.assertEqual(row['forward_median'], 1)
    self.assertEqual(row['forward_class'], 0.75)  # -8 was taken for 22
    self.assertEqual(row['forward_class_accepted'], 1)
    self.assertEqual(row['forward_class_majority'], 0.5)
    self.assertEqual(row['turn_class'], 0.75)
    nothing = odometer.errors(measured, true, np.zeros(4, bool))
    self.assertTrue(np.isnan(nothing['turn_accepted_p90']))


if __name__ == '__main__':
  absltest.main()

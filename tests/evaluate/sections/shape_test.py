"""Depth and normals with known errors get exactly these."""

import functools

from absl.testing import absltest
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.sections import shape


def bent(clips, factor=1., degrees=0.):
  """The truth with depth times a factor and normals turned by an angle."""
  played = subjects.truth(clips)
  n = played.normals
  across = np.cross(n, [.36, .48, .8])
  across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-9)
  angle = np.radians(degrees)
  return subjects.Played(
      played.rgb, factor * played.depth,
      np.cos(angle) * n + np.sin(angle) * across)


@functools.cache
def figures_of(**errors):
  trial = tiny_trial.of(functools.partial(bent, **errors), num_clips=3)
  return tiny_trial.figures_of(shape.measure(trial))


class ShapeTest(absltest.TestCase):

  def test_the_truth_is_exact(self):
    found = figures_of()
    self.assertEqual(found['depth_abs_rel'].value, 0)
    self.assertEqual(found['depth_delta_1'].value, 1)
    self.assertLess(found['normals_mean'].value, .05)  # Of unit vectors, f32.
    self.assertEqual(found['normals_within_11'].value, 1)

  def test_a_wrong_scale_counts_unless_depth_is_scaled(self):
    found = figures_of(factor=1.3)
    self.assertAlmostEqual(found['depth_abs_rel'].value, .3, places=5)
    self.assertEqual(found['depth_delta_1'].value, 0)
    self.assertEqual(found['depth_delta_2'].value, 1)
    self.assertLess(found['scaled_depth_abs_rel'].value, 1e-5)

  @pytest.mark.slow
  def test_an_angle_is_that_angle(self):
    found = figures_of(degrees=5.)
    self.assertAlmostEqual(found['normals_mean'].value, 5, places=1)
    self.assertAlmostEqual(found['normals_median'].value, 5, places=1)
    self.assertEqual(found['normals_within_11'].value, 1)
    self.assertEqual(figures_of(degrees=12.)['normals_within_11'].value, 0)

  def test_pictures_alone_have_no_shape(self):
    with self.assertRaisesRegex(UserError, 'copy predicts pictures only'):
      shape.measure(tiny_trial.make('copy'))


if __name__ == '__main__':
  absltest.main()

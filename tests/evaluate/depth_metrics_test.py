"""Depth and normal metrics: by hand, invariances, corruptions."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.evaluate import depth_metrics

ERRORS = ('abs_rel', 'sq_rel', 'rmse')
SHARES = ('delta_1', 'delta_2', 'delta_3')


def _room(frames=3, height=12, width=16):
  """Depth of [T, H, W] with a wall, a floor and some sky."""
  rng = np.random.default_rng(0)
  depth = rng.uniform(50, 900, (frames, height, width))
  depth[:, :2, :4] = np.inf
  return depth


def _measure(predicted, depth, valid=None, alignment='none'):
  return depth_metrics.depth_metrics(predicted, depth, valid, alignment)


class DepthTest(parameterized.TestCase):

  def test_two_pixels_by_hand(self):
    scores = _measure(np.array([[6.0, 30.0]]), np.array([[4.0, 40.0]]))
    self.assertAlmostEqual(scores['abs_rel'], (2 / 4 + 10 / 40) / 2)
    self.assertAlmostEqual(scores['sq_rel'], (4 / 4 + 100 / 40) / 2)
    self.assertAlmostEqual(scores['rmse'], np.sqrt((4 + 100) / 2))
    # 6/4 = 1.5 and 40/30 = 1.33 against 1.25, 1.5625 and 1.953.
    self.assertEqual([scores[name] for name in SHARES], [0, 1, 1])
    self.assertEqual(scores['pixels'], 2)

  @parameterized.parameters(*depth_metrics.ALIGNMENTS)
  def test_the_truth_is_perfect(self, alignment):
    depth = _room()
    seen = np.where(np.isfinite(depth), depth, 1.0)
    scores = _measure(seen, depth, alignment=alignment)
    for name in ERRORS:
      # A least squares fit rounds; depths are up to 900.
      self.assertAlmostEqual(scores[name], 0, places=9)
    self.assertEqual([scores[name] for name in SHARES], [1, 1, 1])

  @parameterized.parameters(
      ('median', 7.0, 0.0), ('scale', 0.01, 0.0), ('scale_shift', 0.2, 35.0)
  )
  def test_what_is_aligned_away_does_not_matter(self, how, scale, shift):
    depth = _room()
    noise = np.random.default_rng(1).normal(0, 20, depth.shape)
    predicted = np.where(np.isfinite(depth), depth + noise, 1.0)
    expected = _measure(predicted, depth, alignment=how)
    moved = _measure(scale * predicted + shift, depth, alignment=how)
    for name, value in expected.items():
      self.assertAlmostEqual(moved[name], value, places=9)
    unaligned = _measure(scale * predicted + shift, depth)
    self.assertGreater(unaligned['abs_rel'], 2 * expected['abs_rel'])

  def test_one_scale_is_found_for_the_whole_sequence(self):
    # A scale that changes from frame to frame is an error that stays.
    depth = np.full((2, 4, 4), 100.0)
    flickers = depth * np.array([0.5, 1.5])[:, None, None]
    scores = _measure(flickers, depth, alignment='median')
    self.assertAlmostEqual(scores['abs_rel'], 0.5)

  def test_least_squares_is_best_among_scales(self):
    depth = _room()
    predicted = np.where(np.isfinite(depth), depth**0.8, 1.0)
    found = _measure(predicted, depth, alignment='scale')['rmse']
    for factor in (0.9, 0.99, 1.01, 1.1):
      p, d = predicted[np.isfinite(depth)], depth[np.isfinite(depth)]
      best = depth_metrics.align(p, d, 'scale')
      self.assertGreater(np.sqrt(np.mean((factor * best - d) ** 2)), found)
    more = _measure(predicted, depth, alignment='scale_shift')['rmse']
    self.assertLess(more, found)

  def test_only_valid_pixels_count(self):
    depth = _room()
    wrong = np.where(np.isfinite(depth), depth, 1.0)
    wrong[1] *= 9
    valid = np.ones(depth.shape, bool)
    valid[1] = False
    self.assertEqual(_measure(wrong, depth, valid)['abs_rel'], 0)
    self.assertGreater(_measure(wrong, depth)['abs_rel'], 1)
    expected = np.isfinite(depth[[0, 2]]).sum()
    self.assertEqual(_measure(wrong, depth, valid)['pixels'], expected)

  def test_negative_depth_is_no_hit(self):
    depth = np.full((4, 4), 10.0)
    self.assertEqual(_measure(-depth, depth)['delta_3'], 0)

  def test_a_constant_prediction_is_the_mean_of_the_truth(self):
    depth = _room()
    finite = depth[np.isfinite(depth)]
    scores = _measure(np.full(depth.shape, 0.3), depth, alignment='scale_shift')
    self.assertAlmostEqual(scores['rmse'], finite.std())

  def test_sky_alone_has_no_score(self):
    scores = _measure(np.ones((2, 2)), np.full((2, 2), np.inf))
    self.assertTrue(np.isnan(scores['abs_rel']))
    self.assertEqual(scores['pixels'], 0)

  @parameterized.parameters(
      (np.ones((2, 3)), np.ones((3, 2)), None, 'none', 'one shape'),
      (np.full((2, 2), np.nan), np.ones((2, 2)), None, 'none', 'not finite'),
      (np.ones((2, 2)), np.zeros((2, 2)), None, 'none', 'need > 0'),
      (np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2)), 'none', 'bool'),
      (np.ones((2, 2)), np.ones((2, 2)), None, 'affine', "'affine'"),
  )
  def test_bad_arrays_are_refused(self, p, d, valid, alignment, message):
    with self.assertRaisesRegex(ValueError, message):
      _measure(p, d, valid, alignment)


class NormalsTest(absltest.TestCase):

  def _turned(self, degrees):
    """Normals to the east, and the same turned to the north."""
    angle = np.radians(np.asarray(degrees, np.float64))
    turned = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    return turned[None], np.broadcast_to([1.0, 0, 0], turned[None].shape)

  def test_angles_by_hand(self):
    scores = depth_metrics.normal_metrics(*self._turned([0, 10, 20, 90]))
    self.assertAlmostEqual(scores['mean'], 30)
    self.assertAlmostEqual(scores['median'], 15)
    shares = [scores[f'within_{limit}'] for limit in (11, 22, 30)]
    self.assertEqual(shares, [0.5, 0.75, 0.75])

  def test_small_angles_are_exact(self):
    scores = depth_metrics.normal_metrics(*self._turned([1e-7]))
    self.assertAlmostEqual(scores['mean'] / 1e-7, 1, places=6)
    self.assertEqual(
        depth_metrics.normal_metrics(*self._turned([0.0]))['mean'], 0
    )

  def test_lengths_do_not_matter_but_signs_do(self):
    p, n = self._turned([5, 25])
    self.assertAlmostEqual(
        depth_metrics.normal_metrics(3 * p, n)['mean'],
        depth_metrics.normal_metrics(p, n)['mean'],
    )
    self.assertAlmostEqual(depth_metrics.normal_metrics(-p, n)['mean'], 165)

  def test_sky_and_masked_pixels_are_left_out(self):
    p, n = self._turned([0, 40, 80])
    n = n.copy()
    n[0, 2] = 0
    valid = np.array([[True, False, True]])
    scores = depth_metrics.normal_metrics(p, n, valid)
    self.assertEqual((scores['mean'], scores['pixels']), (0, 1))
    nothing = depth_metrics.normal_metrics(p, np.zeros_like(n))
    self.assertTrue(np.isnan(nothing['median']))

  def test_no_direction_is_a_right_angle(self):
    _, n = self._turned([0])
    scores = depth_metrics.normal_metrics(np.zeros_like(n), n)
    self.assertEqual(scores['mean'], 90)


if __name__ == '__main__':
  absltest.main()

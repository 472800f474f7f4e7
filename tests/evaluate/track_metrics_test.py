"""Track metrics: by hand, against TAP-Vid's definitions, corruptions."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.evaluate import track_metrics

SIZE = dict(height=256, width=256)


def _tracks(frames=20, points=30, seed=0):
  """Points that wander, and are hidden one frame in four."""
  rng = np.random.default_rng(seed)
  start = rng.uniform(20, 230, (1, points, 2))
  uv = start + np.cumsum(rng.normal(0, 2, (frames, points, 2)), 0)
  visible = rng.random((frames, points)) > 0.25
  return uv, visible


def _measure(y, guess, x, visible, **options):
  return track_metrics.track_metrics(y, guess, x, visible, **(SIZE | options))


def _jaccard_by_loops(y, guess, x, visible, first, threshold):
  """Equation (3), point by point."""
  tp = fp = fn = 0
  for t in range(len(x)):
    for n in range(x.shape[1]):
      if t <= first[n]:
        continue
      close = np.hypot(*(y[t, n] - x[t, n])) < threshold
      tp += visible[t, n] and guess[t, n] and close
      fp += guess[t, n] and not (visible[t, n] and close)
      fn += visible[t, n] and not (guess[t, n] and close)
  return tp / (tp + fp + fn)


class TrackMetricsTest(parameterized.TestCase):

  @parameterized.parameters(*track_metrics.QUERIES)
  def test_the_truth_is_perfect(self, query):
    uv, visible = _tracks()
    scores = _measure(uv, visible, uv, visible, query=query)
    self.assertEqual(scores.pop('end_point_error'), 0)
    self.assertGreater(scores.pop('points'), 300)
    self.assertEqual(set(scores.values()), {1.0})

  def test_three_points_by_hand(self):
    x = np.zeros((2, 3, 2))
    y = x.copy()
    y[1] = [(0, 0), (3, 4), (0, 0)]  # right, 5 pixels off, hidden
    visible = np.array([[True] * 3, [True, True, False]])
    guess = np.ones((2, 3), bool)
    scores = _measure(y, guess, x, visible)
    self.assertAlmostEqual(scores['end_point_error'], 2.5)
    # Both are within 8 and 16, one is within 1, 2 and 4.
    self.assertAlmostEqual(scores['delta_avg'], (3 * 0.5 + 2 * 1) / 5)
    # P = 2. Up to 4: TP = 1, FP = 2 (far, hidden). From 8: TP = 2, FP = 1.
    self.assertAlmostEqual(
        scores['average_jaccard'], (3 * 1 / 4 + 2 * 2 / 3) / 5
    )
    self.assertAlmostEqual(scores['occlusion_accuracy'], 2 / 3)
    self.assertAlmostEqual(scores['precision'], 2 / 3)
    self.assertEqual(scores['recall'], 1)
    self.assertAlmostEqual(scores['f1'], 0.8)
    self.assertEqual(scores['points'], 2)

  def test_average_jaccard_is_that_of_single_points(self):
    x, visible = _tracks()
    rng = np.random.default_rng(1)
    y = x + rng.normal(0, 4, x.shape)
    guess = rng.random(visible.shape) > 0.3
    first = rng.integers(0, 10, x.shape[1])
    expected = np.mean(
        [
            _jaccard_by_loops(y, guess, x, visible, first, threshold)
            for threshold in (1, 2, 4, 8, 16)
        ]
    )
    scores = _measure(y, guess, x, visible, query_frame=first)
    self.assertAlmostEqual(scores['average_jaccard'], expected)

  @parameterized.parameters(
      ('first', 0.203392246715537, 0.41709145427286354, 0.5714285714285714),
      ('strided', 0.19957129775796162, 0.41697416974169743, 0.5634782608695652),
  )
  def test_it_agrees_with_the_released_code(self, query, *expected):
    # compute_tapvid_metrics of google-deepmind/tapnet c2cbab8, run on these.
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 256, (24, 50, 2))
    y = x + rng.normal(0, 5, x.shape)
    visible, guess = rng.random((2, 24, 50)) > 0.3
    asked = rng.integers(0, 10, 50)
    scores = _measure(y, guess, x, visible, query_frame=asked, query=query)
    names = ('average_jaccard', 'delta_avg', 'occlusion_accuracy')
    np.testing.assert_allclose(
        [scores[name] for name in names], expected, rtol=1e-12
    )

  def test_thresholds_are_pixels_of_256_errors_those_of_the_film(self):
    x, visible = _tracks()
    y = x + (1.7, 0.2)
    large = _measure(y, visible, x, visible)
    by = np.array([64, 48]) / 256
    small = _measure(y * by, visible, x * by, visible, height=48, width=64)
    self.assertAlmostEqual(small['delta_avg'], large['delta_avg'])
    self.assertAlmostEqual(
        small['end_point_error'], np.hypot(1.7 * 64 / 256, 0.2 * 48 / 256)
    )

  def test_moving_all_positions_changes_nothing(self):
    x, visible = _tracks()
    y = x + np.random.default_rng(2).normal(0, 3, x.shape)
    expected = _measure(y, visible, x, visible)
    moved = _measure(y + 40, visible, x + 40, visible)
    for name, value in expected.items():
      self.assertAlmostEqual(moved[name], value)

  def test_each_corruption_is_seen_by_its_metric_only(self):
    x, visible = _tracks()
    off = _measure(x + 3, visible, x, visible)
    self.assertLess(off['delta_avg'], 0.7)
    self.assertLess(off['average_jaccard'], 0.7)
    self.assertEqual(off['f1'], 1)
    blind = _measure(x, np.ones_like(visible), x, visible)
    self.assertEqual(blind['delta_avg'], 1)
    self.assertLess(blind['average_jaccard'], 0.85)
    self.assertLess(blind['precision'], 0.85)
    self.assertEqual(blind['recall'], 1)

  def test_where_hidden_points_are_said_to_be_does_not_matter(self):
    x, visible = _tracks()
    y = np.where(visible[..., None], x, np.nan)
    hidden = np.where(visible[..., None], x, np.nan)
    scores = _measure(y, visible, hidden, visible)
    self.assertEqual(scores['average_jaccard'], 1)
    self.assertEqual(scores['end_point_error'], 0)

  def test_nothing_need_be_predicted_before_the_query(self):
    x, visible = _tracks()
    y = x.copy()
    y[:6] = np.nan
    scores = _measure(y, visible, x, visible, query_frame=5)
    self.assertEqual(scores['average_jaccard'], 1)
    self.assertEqual(scores['end_point_error'], 0)

  def test_query_frames_are_not_evaluated(self):
    asked = np.array([0, 2])
    first = track_metrics.evaluated_points(4, 2, asked)
    np.testing.assert_array_equal(
        first.T, [[False, True, True, True], [False, False, False, True]]
    )
    strided = track_metrics.evaluated_points(4, 2, asked, 'strided')
    np.testing.assert_array_equal(
        strided.T, [[False, True, True, True], [True, True, False, True]]
    )

  def test_nothing_visible_has_no_error(self):
    x, visible = _tracks()
    none = np.zeros_like(visible)
    scores = _measure(x, none, x, none)
    for name in ('end_point_error', 'delta_avg', 'average_jaccard', 'f1'):
      self.assertTrue(np.isnan(scores[name]), name)
    self.assertEqual(scores['occlusion_accuracy'], 1)
    claimed = track_metrics.visibility(~none, none)
    self.assertEqual((claimed['precision'], claimed['f1']), (0, 0))

  def test_hidden_points_can_be_asked_for(self):
    _, visible = _tracks()
    always = np.ones_like(visible)
    self.assertGreater(track_metrics.visibility(always, visible)['f1'], 0.8)
    self.assertEqual(track_metrics.visibility(~always, ~visible)['f1'], 0)

  @parameterized.parameters(
      (dict(y=np.zeros((3, 4))), r'\(3, 4\)'),
      (dict(y=np.full((20, 30, 2), np.nan)), 'not finite'),
      (dict(guess=np.zeros((20, 30))), 'predicted_visible is float64'),
      (dict(query='last'), "'last'"),
      (dict(query_frame=20), 'of 20 frames'),
  )
  def test_bad_input_is_refused(self, change, message):
    x, visible = _tracks()
    arguments = dict(y=x, guess=visible, x=x, visible=visible) | change
    with self.assertRaisesRegex(ValueError, message):
      _measure(**arguments)


if __name__ == '__main__':
  absltest.main()

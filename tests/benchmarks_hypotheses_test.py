"""Verdicts follow from films, not from wishes."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from benchmarks import hypotheses
from benchmarks.hypotheses import Claim
from benchmarks.hypotheses import Estimate
from benchmarks.hypotheses import Scores

MAPS = np.repeat(['A', 'B', 'C', 'D'], 2)
TRAINED, HORIZON = 4, 12


def seed(number, **levels):
  """Scores of players whose PSNR falls from a level at some rate."""
  dice = np.random.default_rng(number)
  found = {}
  for name, (level, rate) in levels.items():
    noise = dice.normal(scale=0.3, size=(len(MAPS), HORIZON))
    found[name] = Scores(
        MAPS, {'psnr': level - rate * np.arange(HORIZON) + noise})
  return found


class EstimateTest(absltest.TestCase):

  def test_figures_are_means_over_clips_and_parts_of_the_horizon(self):
    scores = [seed(0, a=(30., 1.))]
    psnr = scores[0]['a'].metrics['psnr']
    for figure, mean in (('psnr_within', psnr[:, :TRAINED].mean()),
                         ('psnr_beyond', psnr[:, TRAINED:].mean())):
      value = hypotheses.estimate(figure, scores, ('a',), TRAINED)
      self.assertAlmostEqual(value.mean, mean)
      self.assertBetween(mean, value.low, value.high)

  def test_drift_is_the_error_beyond_relative_to_within(self):
    flat, falling = 10 * np.ones((8, 12)), 10 * np.ones((8, 12))
    falling[:, TRAINED:] = 0  # Ten times the squared error.
    scores = [{'flat': Scores(MAPS, {'psnr': flat}),
               'falling': Scores(MAPS, {'psnr': falling})}]
    drift = lambda name: hypotheses.estimate(
        'error_drift', scores, (name,), TRAINED)
    self.assertSequenceAlmostEqual(drift('flat'), [1, 1, 1])
    self.assertSequenceAlmostEqual(drift('falling'), [10, 10, 10])

  def test_the_interval_knows_that_clips_of_a_map_are_alike(self):
    dice = np.random.default_rng(0)
    by_map = {m: dice.normal() for m in 'ABCD'}
    psnr = np.array([[by_map[m]] * HORIZON for m in MAPS])
    alike = [{'a': Scores(MAPS, {'psnr': psnr})}]
    apart = [{'a': Scores(np.arange(8).astype(str), {'psnr': psnr})}]
    width = lambda scores: np.ptp(hypotheses.estimate(
        'psnr_beyond', scores, ('a',), TRAINED)[1:])
    self.assertGreater(width(alike), 1.2 * width(apart))  # √2, if normal.

  def test_the_interval_knows_that_seeds_differ(self):
    same = [seed(k, a=(30., 0.)) for k in range(3)]
    other = [seed(k, a=(30. + 3 * k, 0.)) for k in range(3)]
    width = lambda scores: np.ptp(hypotheses.estimate(
        'psnr_beyond', scores, ('a',), TRAINED)[1:])
    self.assertGreater(width(other), 5 * width(same))

  def test_what_all_clips_share_cancels_in_a_difference(self):
    scores = [seed(0, a=(30., 1.))]
    psnr = scores[0]['a'].metrics['psnr'] + 5 * np.arange(8)[:, None]
    scores[0] |= {'a': Scores(MAPS, {'psnr': psnr}),
                  'b': Scores(MAPS, {'psnr': psnr - 1})}
    value = hypotheses.estimate('psnr_beyond', scores, ('a', 'b'), TRAINED)
    self.assertSequenceAlmostEqual(value, [1, 1, 1])

  def test_a_metric_that_was_not_measured_is_left_out(self):
    self.assertIsNone(hypotheses.estimate(
        'lpips_beyond', [seed(0, a=(30., 1.))], ('a',), TRAINED))

  def test_curves_are_per_frame(self):
    curve = hypotheses.curve(
        [seed(k, a=(30., 1.)) for k in range(2)], 'a', 'psnr')
    np.testing.assert_allclose(
        curve['mean'], 30 - np.arange(HORIZON), atol=0.3)
    self.assertTrue(np.all(np.less(curve['low'], curve['high'])))


class VerdictTest(parameterized.TestCase):

  @parameterized.parameters(
      ('psnr_beyond', 'better', (0.1, 2.), 'confirmed'),
      ('psnr_beyond', 'better', (-0.1, 2.), 'undecided'),
      ('psnr_beyond', 'better', (-2., -0.1), 'not confirmed'),
      ('lpips_beyond', 'better', (-0.2, -0.1), 'confirmed'),  # Less is better.
      ('error_drift', 'better', (0.1, 0.2), 'not confirmed'),
      ('psnr_beyond', 'alike', (-0.4, 0.4), 'confirmed'),
      ('psnr_beyond', 'alike', (0.6, 0.9), 'not confirmed'),
      ('psnr_beyond', 'alike', (-0.4, 0.6), 'undecided'),
      ('psnr_beyond', 'no worse', (-0.4, 3.), 'confirmed'),
      ('psnr_beyond', 'no worse', (-0.9, -0.6), 'not confirmed'),
      ('lpips_beyond', 'no worse', (0.01, 0.015), 'confirmed'),
      ('lpips_beyond', 'no worse', (0.01, 0.03), 'undecided'))
  def test_it_is_where_the_interval_lies(self, figure, kind, interval, said):
    claim = Claim('', figure, 'a', 'b', kind)
    self.assertEqual(
        hypotheses.verdict(claim, Estimate(np.mean(interval), *interval)),
        said)

  def test_claims_come_out_as_the_films_are(self):
    names = {n for c in hypotheses.CLAIMS for n in (c.better, c.worse)}
    falling = {n: (30., 1.) for n in names}
    good = [seed(k, **falling | {'sf_dmd': (30., 0.2)}) for k in range(3)]
    found = {v.text: v for v in hypotheses.verdicts(good, TRAINED)}
    self.assertLen(found, len(hypotheses.CLAIMS) // 2)  # Without LPIPS.
    said = lambda text: next(
        v.verdict for t, v in found.items() if text in t)
    self.assertEqual(said('drifts less than Teacher'), 'confirmed')
    self.assertEqual(said('nearer to the truth than CausVid'), 'confirmed')
    self.assertEqual(said('SiD is like DMD'), 'not confirmed')
    self.assertEqual(
        said('Diffusion Forcing drifts less than Teacher'), 'undecided')

  @parameterized.parameters(
      ([1.1, 1.2], 'confirmed'), ([1.2, 1.4], 'undecided'),
      ([1.4, 1.5], 'not confirmed'))
  def test_the_cost_of_a_step(self, ratios, said):
    self.assertEqual(hypotheses.of_cost('TF', ratios).verdict, said)


if __name__ == '__main__':
  absltest.main()

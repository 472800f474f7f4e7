"""Distances of sets of films: analytic cases, estimates, floors, errors."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import frechet

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'i3d.npz'
# github.com/universome/fvd-comparison: what the original code, in TensorFlow,
# makes of the films whose logits are recorded.
PUBLISHED_FVD = 10.13808536529541


def normal(n, dim=6, seed=0, mean=0.0, scale=1.0):
  return mean + scale * np.random.default_rng(seed).normal(size=(n, dim))


def with_moments(n, mean, covariance, seed=0):
  """Samples [n, D] that have exactly these moments, of N - 1."""
  x = normal(n, len(mean), seed)
  x -= x.mean(0)
  whiten = np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
  return x @ whiten @ np.linalg.cholesky(covariance).T + mean


def matrix_root(a):
  values, vectors = np.linalg.eigh(a)
  return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


class FrechetTest(parameterized.TestCase):

  def test_the_published_fvd_of_recorded_logits(self):
    golden = np.load(GOLDEN)
    value = frechet.fvd(golden['noise/real'], golden['noise/fake'])
    # fp32 logits of another implementation; StyleGAN-V's differ by 6e-7.
    self.assertAlmostEqual(value, PUBLISHED_FVD, delta=1e-4)

  @parameterized.parameters((9, 7), (50, 4), (3, 200))
  def test_normal_distributions_are_as_far_apart_as_the_formula_says(
      self, n, m
  ):
    dim = 3 if min(n, m) <= 3 else 4
    if min(n, m) <= dim:  # Fewer films than dimensions: a line, say.
      dim = 2
    rng = np.random.default_rng(1)
    factors = rng.normal(size=(2, dim, dim))
    covariances = [f @ f.T + 0.1 * np.eye(dim) for f in factors]
    means = rng.normal(size=(2, dim))
    root = matrix_root(covariances[0])
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(
        covariances[0]
        + covariances[1]
        - 2 * matrix_root(root @ covariances[1] @ root)
    )
    x = with_moments(n, means[0], covariances[0], seed=2)
    y = with_moments(m, means[1], covariances[1], seed=3)
    # fp64; the root halves its digits where a covariance is nearly singular.
    self.assertAlmostEqual(frechet.fvd(x, y), expected, delta=1e-9 * expected)

  def test_covariances_that_commute_have_the_distance_of_their_deviations(self):
    # tr (sqrt S1 - sqrt S2)^2 of diagonal S, one direction of which is missing.
    deviations = np.array([[1.0, 2.0, 0.0], [3.0, 0.5, 0.0]])
    x, y = [
        with_moments(8, np.zeros(3), np.diag(d**2) + 1e-30 * np.eye(3))
        for d in deviations
    ]
    expected = np.sum((deviations[0] - deviations[1]) ** 2)
    self.assertAlmostEqual(frechet.fvd(x, y), expected, places=9)

  @parameterized.parameters((5, 400), (450, 400), (2, 400))
  def test_a_set_has_no_distance_from_itself_at_any_rank(self, n, dim):
    x = normal(n, dim, scale=5)
    # Of traces of 10^4, in fp64.
    self.assertAlmostEqual(frechet.fvd(x, x), 0, delta=1e-8)

  def test_a_shift_of_all_films_adds_its_square(self):
    x = normal(7, 400)
    shift = np.linspace(-1, 1, 400)
    self.assertAlmostEqual(
        frechet.fvd(x, x + shift), np.sum(shift**2), delta=1e-8
    )

  def test_more_films_than_features_take_a_shorter_way_to_the_same_number(self):
    x, y = normal(40, 6), normal(30, 6, seed=1, mean=0.3)
    short = frechet.fvd(x, y)
    centred = [(a - a.mean(0)) / np.sqrt(len(a) - 1) for a in (x, y)]
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    long = np.sum((x.mean(0) - y.mean(0)) ** 2) - 2 * root
    long += sum(np.sum(a**2) for a in centred)
    self.assertAlmostEqual(short, long, places=10)

  def test_the_fvd_of_few_films_is_too_large(self):
    few, many = [
        np.mean(
            [
                frechet.fvd(normal(n, 30, seed), normal(n, 30, seed + 50))
                for seed in range(5)
            ]
        )
        for n in (10, 300)
    ]
    self.assertGreater(few, 3 * many)
    self.assertIn('rank 9 where there are 400', frechet.caution(10, 300))
    self.assertEqual(frechet.caution(401, 500), '')


class KernelTest(parameterized.TestCase):

  def test_the_kernel_is_the_cubic_one_over_different_films(self):
    x, y = normal(3, 4), normal(2, 4, seed=1)
    k = lambda a, b: (a @ b / 4 + 1) ** 3
    expected = (
        np.mean([k(x[i], x[j]) for i in range(3) for j in range(3) if i != j])
        + k(y[0], y[1])
        - 2 * np.mean([k(a, b) for a in x for b in y])
    )
    self.assertAlmostEqual(frechet.kvd(x, y), expected, places=12)

  def test_equal_distributions_have_a_kvd_of_zero_on_average(self):
    values = [
        frechet.kvd(normal(10, 8, seed), normal(7, 8, 1000 + seed))
        for seed in range(400)
    ]
    error = np.std(values) / np.sqrt(len(values))
    self.assertLess(abs(np.mean(values)), 4 * error)
    self.assertBetween(np.mean(np.array(values) < 0), 0.3, 0.8)
    biased = np.mean(
        [  # What the diagonal would add.
            np.mean((np.sum(normal(10, 8, seed) ** 2, 1) / 8 + 1) ** 3) / 10
            for seed in range(20)
        ]
    )
    self.assertGreater(biased, 20 * error)

  def test_a_kvd_of_clips_of_a_few_films_is_unbiased_by_their_groups(self):
    def clips(seed):  # Five of each of six films, which hardly differ.
      films = np.repeat(normal(6, 8, seed), 5, axis=0)
      return films + normal(30, 8, seed + 1, scale=0.1)

    labels = np.repeat(np.arange(6), 5)
    groups = [f'a{i}' for i in labels], [f'b{i}' for i in labels]
    sets = [(clips(2 * s), clips(10_000 + 2 * s)) for s in range(300)]
    grouped = [frechet.kvd(*pair, groups) for pair in sets]
    naive = [frechet.kvd(*pair) for pair in sets]
    error = np.std(grouped) / np.sqrt(len(sets))
    self.assertLess(abs(np.mean(grouped)), 4 * error)
    self.assertGreater(np.mean(naive), 8 * error)

  def test_the_same_films_have_a_kvd_of_zero_where_groups_say_so(self):
    x = normal(8, 30)
    # fp64 sums of kernels of order 10.
    self.assertAlmostEqual(
        frechet.kvd(x, x, (range(8), range(8))), 0, places=12
    )
    self.assertLess(frechet.kvd(x, x), -0.1)  # Of unrelated sets: too alike.

  @parameterized.parameters(frechet.fvd, frechet.kvd)
  def test_neither_order_nor_roles_matter(self, metric):
    x, y = normal(12, 20), normal(9, 20, seed=1, mean=0.2)
    expected = metric(x, y)
    # fp64 sums in another order.
    self.assertAlmostEqual(
        metric(x[::-1], y[[3, 1, 2, 0, *range(4, 9)]]), expected, places=9
    )
    self.assertAlmostEqual(metric(y, x), expected, places=9)


class ErrorBarTest(parameterized.TestCase):

  @parameterized.parameters(True, False)
  def test_the_standard_error_is_the_spread_of_repeated_draws(self, paired):
    n = 30
    drawn, claimed = [], []
    for seed in range(120):
      x, y = normal(n, 5, 2 * seed), normal(n, 5, 2 * seed + 1, mean=0.7)
      groups = None
      if paired:  # What is common to both does not count.
        y = x + 0.3 * y
        groups = range(n), range(n)
      drawn.append(frechet.kvd(x, y, groups))
      claimed.append(frechet.standard_error(frechet.kvd, x, y, groups))
    # 120 draws know a deviation to 7 %; the jackknife is somewhat too large.
    ratio = np.sqrt(np.mean(np.square(claimed))) / np.std(drawn)
    self.assertBetween(ratio, 0.8, 1.35)

  def test_many_clips_are_left_out_in_blocks(self):
    calls = []

    def metric(x, y, groups):
      calls.append((len(x), len(y)))
      return frechet.kvd(x, y, groups)

    frechet.standard_error(metric, normal(60), normal(60, seed=1))
    self.assertLen(calls, 20)
    self.assertEqual(set(calls), {(57, 57)})

  def test_two_films_have_no_standard_error(self):
    self.assertTrue(
        np.isnan(frechet.standard_error(frechet.fvd, normal(2), normal(9)))
    )

  @parameterized.parameters(3, 4, 21)
  def test_three_films_have_one_whatever_the_others(self, n):
    value = frechet.standard_error(frechet.fvd, normal(3), normal(n, seed=1))
    self.assertGreater(value, 0)

  @parameterized.parameters(frechet.fvd, frechet.kvd)
  def test_the_truth_is_exactly_at_the_floor(self, metric):
    x = normal(24, 30)
    labels = np.arange(24) // 2
    found = frechet.matched(metric, x, x, (labels, labels))
    self.assertEqual(found.value, found.floor)
    self.assertEqual(found.size, 12)

  @parameterized.parameters(frechet.fvd, frechet.kvd)
  def test_worse_films_are_above_the_floor(self, metric):
    x, y = normal(24, 30), normal(40, 30, seed=1)
    same = frechet.matched(metric, x, y)
    worse = frechet.matched(metric, x, 1.6 * y)
    self.assertGreater(worse.value, 1.2 * worse.floor)
    self.assertEqual(same.floor, frechet.matched(metric, x, y).floor)
    self.assertLess(
        abs(same.value - same.floor), 0.3 * abs(worse.value - worse.floor)
    )


class InputTest(parameterized.TestCase):

  def test_windows_are_the_successive_clips_of_a_film(self):
    film = np.arange(40)[:, None, None, None] * np.ones((2, 3, 3), np.uint8)
    clips = frechet.windows(film, 16, 8)
    self.assertEqual(clips.shape, (4, 16, 2, 3, 3))
    np.testing.assert_array_equal(clips[:, 0, 0, 0, 0], [0, 8, 16, 24])
    np.testing.assert_array_equal(clips[3], film[24:])
    self.assertLen(frechet.windows(film), 2)

  def test_a_film_that_is_too_short_is_named(self):
    with self.assertRaisesRegex(UserError, 'film of 15 frames.*window of 16'):
      frechet.windows(np.zeros((15, 2, 2, 3)))

  @parameterized.parameters(frechet.fvd, frechet.kvd)
  def test_one_film_is_too_few(self, metric):
    with self.assertRaisesRegex(UserError, '2 generated films.*there are 1'):
      metric(normal(5), normal(1))
    with self.assertRaisesRegex(UserError, '2 real films.*there are 0'):
      metric(normal(0), normal(5))

  def test_clips_of_one_film_are_too_few(self):
    with self.assertRaisesRegex(UserError, 'generated clips of 2 films'):
      frechet.kvd(normal(4), normal(4), (range(4), [9] * 4))
    with self.assertRaisesRegex(UserError, '2 real films.*too few.*floor'):
      frechet.matched(frechet.fvd, normal(2), normal(9))

  def test_wrong_arrays_are_told(self):
    with self.assertRaisesRegex(ValueError, r'\(4, 6\) and \(4, 7\)'):
      frechet.fvd(normal(4), normal(4, 7))
    with self.assertRaisesRegex(ValueError, 'generated films are not finite'):
      frechet.kvd(normal(4), normal(4) * np.nan)
    with self.assertRaisesRegex(ValueError, r'groups are \(3,\).*for 4 and 4'):
      frechet.kvd(normal(4), normal(4), (range(3), range(4)))


if __name__ == '__main__':
  absltest.main()

"""Image metrics against scikit-image, plain loops and known answers."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.evaluate import image_metrics


def noisy_pair(shape=(24, 40, 3)):
  rng = np.random.default_rng(0)
  x = rng.integers(0, 256, shape, dtype=np.uint8)
  x[:, :20] //= 2
  y = np.clip(x + rng.normal(0, 20, x.shape), 0, 255).astype(np.uint8)
  return x, y


def ssim_by_loops(x, y):
  """Equation (2) as the paper writes it, window by window."""
  grid = np.arange(11) - 5
  window = np.exp(-(grid[:, None] ** 2 + grid**2) / (2 * 1.5**2))
  window /= window.sum()
  scores = []
  for c in range(x.shape[-1]):
    for i in range(x.shape[0] - 10):
      for j in range(x.shape[1] - 10):
        a = x[i : i + 11, j : j + 11, c]
        b = y[i : i + 11, j : j + 11, c]
        ma, mb = (window * a).sum(), (window * b).sum()
        va = (window * (a - ma) ** 2).sum()
        vb = (window * (b - mb) ** 2).sum()
        cov = (window * (a - ma) * (b - mb)).sum()
        scores.append(
            (2 * ma * mb + 1e-4)
            * (2 * cov + 9e-4)
            / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
        )
  return np.mean(scores)


class PsnrTest(parameterized.TestCase):

  def test_a_tenth_everywhere_is_20_db(self):
    x = np.full((2, 3, 8, 8, 3), 0.5)
    np.testing.assert_allclose(image_metrics.psnr(x, x + 0.1), 20, rtol=1e-12)

  def test_it_agrees_with_scikit_image(self):
    # skimage 0.26.0: peak_signal_noise_ratio(x, y) of these bytes.
    np.testing.assert_allclose(
        image_metrics.psnr(*noisy_pair()), 22.524374090472907, rtol=1e-12
    )

  def test_bytes_and_floats_of_the_same_frames_agree(self):
    x, y = noisy_pair()
    self.assertEqual(
        image_metrics.psnr(x, y), image_metrics.psnr(x / 255, y / 255)
    )

  def test_equal_frames_are_finite_and_any_other_is_lower(self):
    x, _ = noisy_pair((64, 64, 3))
    y = x.copy()
    y[0, 0, 0] ^= 1
    self.assertEqual(image_metrics.psnr(x, x), 100)
    self.assertLess(image_metrics.psnr(x, y), 90)

  @parameterized.parameters(image_metrics.psnr, image_metrics.ssim)
  def test_there_is_one_number_per_frame(self, metric):
    x, y = noisy_pair((2, 3, 16, 16, 3))
    scores = metric(x, y)
    self.assertEqual(scores.shape, (2, 3))
    # Summation order may differ between one frame and many.
    np.testing.assert_allclose(scores[1, 2], metric(x[1, 2], y[1, 2]), 1e-12)

  @parameterized.parameters(
      (np.full((8, 8, 3), 200.0), r'\[200, 200\]'),
      (np.full((8, 8, 3), -0.5), r'\[-0.5, -0.5\]'),
      (np.zeros((8, 8, 3), np.int32), 'int32'),
      (np.zeros((8, 9, 3)), r'\(8, 9, 3\)'),
  )
  def test_other_ranges_and_shapes_are_refused(self, frames, message):
    with self.assertRaisesRegex(ValueError, message):
      image_metrics.psnr(frames, np.zeros((8, 8, 3)))


class SsimTest(absltest.TestCase):

  def test_it_agrees_with_scikit_image(self):
    # skimage 0.26.0: structural_similarity(x / 255, y / 255, sigma=1.5,
    # gaussian_weights=True, use_sample_covariance=False, channel_axis=-1,
    # data_range=1.0).
    np.testing.assert_allclose(
        image_metrics.ssim(*noisy_pair()), 0.9266012085458214, rtol=1e-12
    )

  def test_it_is_the_mean_over_windows_that_the_paper_defines(self):
    x, y = noisy_pair((14, 17, 3))
    # E[x^2] - E[x]^2 cancels some digits against the two-pass variance.
    np.testing.assert_allclose(
        image_metrics.ssim(x, y), ssim_by_loops(x / 255, y / 255), rtol=1e-9
    )

  def test_equal_frames_score_one(self):
    x, _ = noisy_pair()
    np.testing.assert_allclose(image_metrics.ssim(x, x), 1, rtol=1e-12)

  def test_frames_smaller_than_the_window_are_refused(self):
    with self.assertRaisesRegex(ValueError, '10x16'):
      image_metrics.ssim(np.zeros((10, 16, 3)), np.zeros((10, 16, 3)))


class BootstrapTest(absltest.TestCase):

  def test_the_interval_covers_the_truth_as_often_as_it_says(self):
    rng = np.random.default_rng(0)
    # 400 experiments in one call: axis 1 is resampled together.
    _, low, high = image_metrics.bootstrap_mean(rng.normal(size=(50, 400)))
    coverage = np.mean((low < 0) & (0 < high))
    # 95 %, less what a percentile interval of 50 values loses, +-2.5 %.
    self.assertBetween(coverage, 0.90, 0.98)

  def test_it_is_a_function_of_values_and_seed(self):
    values = np.random.default_rng(1).normal(size=20)
    self.assertEqual(
        image_metrics.bootstrap_mean(values, seed=3),
        image_metrics.bootstrap_mean(values, seed=3),
    )

  def test_what_comes_in_groups_is_resampled_in_groups(self):
    values = np.random.default_rng(0).normal(size=12)
    groups = ['a', 'b', 'c', 'd']
    # Three copies of everything tell nothing new, if they are known as copies.
    copies = image_metrics.bootstrap_mean(
        np.tile(values[:4], 3), groups=np.tile(groups, 3)
    )
    np.testing.assert_allclose(
        copies, image_metrics.bootstrap_mean(values[:4]), atol=1e-12
    )
    # Groups of different sizes: the mean stays that of all values.
    mean, low, high = image_metrics.bootstrap_mean(
        values, groups=['a'] * 9 + ['b', 'c', 'd']
    )
    self.assertAlmostEqual(mean, values.mean())
    self.assertBetween(mean, low, high)

  def test_the_interval_of_a_median_covers_the_truth_too(self):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
      median, low, high = image_metrics.bootstrap_median(
          rng.exponential(size=51), num_resamples=400
      )
      self.assertBetween(median, low, high)
      covered.append(low < np.log(2) < high)
    # 95 %, less what 51 values and 400 resamples lose, +-3 %.
    self.assertBetween(np.mean(covered), 0.89, 0.99)

  def test_the_median_of_groups_is_resampled_in_groups(self):
    values, groups = [1.0, 1.0, 1.0, 5.0, 5.0], list('aaabb')
    self.assertEqual(
        tuple(map(float, image_metrics.bootstrap_median(values, groups))),
        (1, 1, 5),
    )

  def test_a_function_of_means_is_resampled_as_a_whole(self):
    values = np.random.default_rng(0).gamma(2, size=(2, 12))
    groups = np.repeat(np.arange(6), 2)
    np.testing.assert_allclose(
        image_metrics.bootstrap_of_means(lambda m: m[0], values, groups),
        image_metrics.bootstrap_mean(values[0], groups),
    )
    # Both halves of a ratio are drawn together: twice is always twice.
    twice = np.stack([2 * values[0], values[0]])
    np.testing.assert_allclose(
        image_metrics.bootstrap_of_means(lambda m: m[0] / m[1], twice), 2
    )
    ratio, low, high = image_metrics.bootstrap_of_means(
        lambda m: m[0] / m[1], values
    )
    self.assertAlmostEqual(ratio, values[0].sum() / values[1].sum())
    self.assertBetween(ratio, low, high)

  def test_one_clip_has_no_spread(self):
    mean, low, high = image_metrics.bootstrap_mean([[1.0, 2.0]])
    np.testing.assert_array_equal([mean, low, high], [[1, 2]] * 3)

  def test_no_clip_is_an_error(self):
    with self.assertRaisesRegex(ValueError, 'at least one'):
      image_metrics.bootstrap_mean([])


if __name__ == '__main__':
  absltest.main()

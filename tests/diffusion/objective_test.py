"""The regression: what it counts, and what it leaves out."""

from absl.testing import absltest
import jax
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import objective


class ObjectiveTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.v, self.target = np.float32(rng.normal(size=(2, 2, 3, 2, 2, 4)))
    self.sigma = np.float32(rng.uniform(0.1, 0.9, size=(2, 3)))
    self.scored = np.array([False, True, True])

  def loss(self, v, weight='none'):
    return objective.regression(v, self.target, self.sigma, self.scored, weight)

  def test_is_the_mean_squared_error_of_scored_frames(self):
    loss, metrics = self.loss(self.v)
    expected = np.mean((self.v - self.target)[:, 1:] ** 2)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    self.assertEqual(metrics['loss'], loss)

  def test_other_frames_have_exactly_no_gradient(self):
    gradient = jax.jit(jax.grad(lambda v: self.loss(v)[0]))(self.v)
    np.testing.assert_array_equal(gradient[:, 0], 0)
    self.assertTrue(np.all(gradient[:, 1:] != 0))

  def test_weight_x0_makes_it_the_squared_error_of_x0(self):
    loss, metrics = self.loss(self.v, 'x0')
    x = np.zeros_like(self.v)
    error = flow.x0_from_velocity(
        x, self.v, self.sigma
    ) - flow.x0_from_velocity(x, self.target, self.sigma)
    np.testing.assert_allclose(loss, np.mean(error[:, 1:] ** 2), rtol=1e-6)
    np.testing.assert_allclose(metrics['x0_error'], loss, rtol=1e-6)

  def test_weight_bsmntw_is_that_of_self_forcing_on_its_grid(self):
    grid = np.linspace(1, 0, 1001)[:-1]
    t = 1000 * 5 * grid / (1 + 4 * grid)
    expected = np.exp(-2 * ((t - 500) / 1000) ** 2)
    expected -= expected.min()
    expected *= 1000 / expected.sum()
    weight = objective.WEIGHTS['bsmntw']
    # float32, of values to 2.1; next to σ = 1 its 1 - σ is a difference.
    np.testing.assert_allclose(
        weight(np.float32(t / 1000)), expected, rtol=1e-5, atol=1e-6
    )
    self.assertAlmostEqual(float(weight(0.5)), 2.076, places=3)

  def test_weight_bsmntw_learns_nothing_from_noise_alone(self):
    self.sigma[:, 1] = 1
    gradient = jax.jit(jax.grad(lambda v: self.loss(v, 'bsmntw')[0]))(self.v)
    np.testing.assert_array_equal(gradient[:, :2], 0)
    self.assertTrue(np.all(gradient[:, 2] != 0))

  def test_weight_fused_snr_of_a_frame_alone_is_the_clipped_ratio_of_x0(self):
    sigma = np.float32([[1.0], [0.9], [0.5], [0.2], [0.0]])
    weight = objective.WEIGHTS['fused_snr'](sigma)
    clipped = [[0], [(0.1 / 0.9) ** 2], [1], [5], [5]]  # Of 16, 5 are left.
    # At σ = 0 it is a limit, taken at σ = 1e-4.
    np.testing.assert_allclose(weight, clipped * sigma**2, rtol=1e-5, atol=5e-8)

  def test_weight_fused_snr_adds_the_past_frame_by_frame(self):
    sigma = np.float32([[0.3, 0.6, 0.95, 0.4], [0.95, 0.95, 0.95, 0.05]])
    for row, found in zip(sigma, objective.WEIGHTS['fused_snr'](sigma)):
      past, expected = None, []
      for s in row:
        snr = ((1 - s) / s) ** 2
        clipped = min(snr, 5) / 5
        seen = 0 if past is None else 0.96 * past
        g = 1 - (1 - seen) * (1 - clipped)
        f = 1 - (1 - seen) * (1 - snr / 5)
        expected.append(5 * g / (1 + (5 * f) ** 0.5) ** 2)
        past = clipped if past is None else 0.96 * past + 0.04 * clipped
      np.testing.assert_allclose(found, expected, rtol=1e-5)

  def test_weight_fused_snr_counts_noise_after_clean_frames_for_more(self):
    weight = objective.WEIGHTS['fused_snr'](
        np.float32([[0.1, 0.9], [0.9, 0.9]])
    )
    self.assertGreater(weight[0, 1], 10 * weight[1, 1])
    nothing = objective.WEIGHTS['fused_snr'](np.ones((1, 3)))
    np.testing.assert_array_equal(nothing, 0)

  def test_of_no_frames_the_loss_is_zero(self):
    self.scored = np.zeros((2, 3), bool)
    self.assertEqual(self.loss(self.v)[0], 0)

  def test_noised_data_and_target_belong_together(self):
    x0 = self.v
    x, target = objective.noised(jax.random.key(0), x0, self.sigma)
    # Two roundings of values near 4.
    np.testing.assert_allclose(
        flow.x0_from_velocity(x, target, self.sigma), x0, atol=2e-6
    )
    eps = flow.eps_from_velocity(x, target, self.sigma)
    # 96 draws: the standard deviation is known to 1 / √192, times 4.
    self.assertAlmostEqual(float(np.std(eps)), 1, delta=0.29)

  def test_an_unknown_weight_names_the_key(self):
    with self.assertRaisesRegex(ValueError, "'snr'.*config.*weight"):
      self.loss(self.v, 'snr')


if __name__ == '__main__':
  absltest.main()

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

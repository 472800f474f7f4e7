"""Identities that any noise schedule must keep."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from worldsim_jax.diffusion import flow

# How each prediction leads to the velocity, and how the velocity leads back.
TO_VELOCITY = {
    'v': lambda x, v, sigma: v,
    'x0': flow.velocity_from_x0,
    'eps': flow.velocity_from_eps,
}
FROM_VELOCITY = {
    'v': lambda x, v, sigma: v,
    'x0': flow.x0_from_velocity,
    'eps': flow.eps_from_velocity,
}


class FlowTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.x0, self.eps = np.float32(rng.normal(size=(2, 2, 3, 4, 4, 5)))
    self.sigma = np.float32(rng.uniform(0.1, 0.9, size=(2, 3)))
    self.x = flow.add_noise(self.x0, self.eps, self.sigma)
    self.truth = {'x0': self.x0, 'eps': self.eps, 'v': self.eps - self.x0}

  def test_sigma_zero_is_data_and_sigma_one_is_noise(self):
    zero, one = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(
        flow.add_noise(self.x0, self.eps, zero), self.x0
    )
    np.testing.assert_array_equal(
        flow.add_noise(self.x0, self.eps, one), self.eps
    )

  def test_each_frame_has_its_own_noise_level(self):
    sigma = np.float32([[0, 1, 0], [1, 0, 1]])
    x = flow.add_noise(self.x0, self.eps, sigma)
    np.testing.assert_array_equal(x[0, 0], self.x0[0, 0])
    np.testing.assert_array_equal(x[0, 1], self.eps[0, 1])
    np.testing.assert_array_equal(x[1, 0], self.eps[1, 0])

  def test_velocity_is_the_slope_of_the_line(self):
    later = flow.add_noise(self.x0, self.eps, self.sigma + np.float32(0.1))
    np.testing.assert_allclose(
        (later - self.x) / 0.1,
        flow.velocity(self.x0, self.eps),
        atol=1e-5,  # A rounding of values near 4, divided by 0.1.
    )

  @parameterized.product(source=('v', 'x0', 'eps'), target=('v', 'x0', 'eps'))
  def test_every_prediction_implies_every_other(self, source, target):
    v = TO_VELOCITY[source](self.x, self.truth[source], self.sigma)
    found = FROM_VELOCITY[target](self.x, v, self.sigma)
    # Roundings of values near 4, divided by σ or 1 - σ, both at least 0.1.
    np.testing.assert_allclose(found, self.truth[target], atol=1e-5)

  def test_conversions_are_finite_where_the_line_says_nothing(self):
    zero, one = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    self.assertTrue(
        np.all(np.isfinite(flow.velocity_from_x0(self.x0, self.x0 + 1, zero)))
    )
    self.assertTrue(
        np.all(np.isfinite(flow.velocity_from_eps(self.eps, self.eps + 1, one)))
    )

  def test_shift_moves_towards_noise_and_keeps_the_ends(self):
    sigma = np.linspace(0, 1, 11)
    np.testing.assert_allclose(flow.shift(sigma, 1.0), sigma, rtol=1e-15)
    shifted = flow.shift(sigma, 5.0)
    np.testing.assert_array_equal(shifted[[0, -1]], [0, 1])
    self.assertTrue(np.all(shifted[1:-1] > sigma[1:-1]))

  def test_two_shifts_multiply(self):
    sigma = np.linspace(0, 1, 11)
    np.testing.assert_allclose(
        flow.shift(flow.shift(sigma, 2.0), 4.0), flow.shift(sigma, 8.0)
    )

  @parameterized.parameters(
      ((1000, 750, 500, 250), 5.0, (1000, 937.5, 833.333, 625)),
      ((1000, 750, 500, 250), 8.0, (1000, 960, 888.889, 727.273)),
      (
          (1000, 800, 600, 400, 200),
          5.0,
          (1000, 952.381, 882.353, 769.231, 555.556),
      ),
      ((1000, 757, 522), 1.0, (1000, 757, 522)),
  )
  def test_student_steps_are_warped_as_published(self, steps, s, warped):
    # Self Forcing, its ODE pairs, Rolling Forcing; CausVid does not warp.
    sigmas = flow.few_step_sigmas(steps, s)
    np.testing.assert_allclose(flow.timesteps(sigmas), warped, rtol=1e-6)

  def test_a_sampling_grid_begins_at_noise_and_stops_before_data(self):
    np.testing.assert_allclose(
        flow.sampling_sigmas(4, 5.0), [1, 0.9375, 5 / 6, 0.625], rtol=1e-6
    )

  def test_the_grids_upstream_begin_with_a_little_data(self):
    begin = lambda grid: flow.sampling_sigmas(50, 5.0, grid)[0]
    shifted = 5 * 0.999 / (1 + 4 * 0.999)
    self.assertEqual(begin('wan'), np.float32(shifted))
    self.assertEqual(begin('diffusers_unipc'), np.float32(1 - 1e-6))
    self.assertEqual(begin('diffusers_euler'), 1)

  @parameterized.parameters(*flow.GRIDS)
  def test_grids_are_constants_that_decrease(self, grid):
    sigmas = flow.sampling_sigmas(50, 5.0, grid)
    self.assertIsInstance(sigmas, np.ndarray)
    self.assertEqual((sigmas.shape, sigmas.dtype), ((50,), np.float32))
    self.assertTrue(np.all(np.diff(sigmas) < 0) and sigmas[-1] > 0)

  def test_whole_timesteps_are_rounded_down(self):
    np.testing.assert_array_equal(
        flow.whole_timesteps(4, 5.0, 'uniform'), [1000, 937, 833, 625])

  def test_training_levels_are_uniform_then_shifted_and_clipped(self):
    draw = jax.jit(flow.uniform_sigmas, static_argnums=(1, 2, 3, 4))
    plain = draw(jax.random.key(0), (1000,))
    # The mean of 1000 uniform draws is within 4 / √12000 of a half.
    self.assertAlmostEqual(plain.mean(), 0.5, delta=0.037)
    shifted = draw(jax.random.key(0), (1000,), 5.0, 0.02, 0.98)
    np.testing.assert_allclose(
        shifted,
        np.clip(flow.shift(np.asarray(plain), 5.0), 0.02, 0.98),
        rtol=1e-5,
    )

  @parameterized.parameters((5.0, 4.980), (8.0, 7.944))
  def test_levels_upstream_are_ours_rounded_to_the_nearest_of_1000(
      self, s, last
  ):
    # Upstream's grid, as its scheduler for training has it.
    grid = 1000 * flow.sampling_sigmas(1000, s).astype(np.float64)
    self.assertAlmostEqual(grid[-1], last, places=3)
    t = np.linspace(20, 980, 10_001)
    nearest = grid[np.argmin(abs(grid - t[:, None]), axis=1)]
    # The shift spreads the levels near 0 s-fold, so at most by s / 2; where a
    # context is to be clean, t = 0, upstream adds noise of the last level.
    self.assertLess(abs(nearest - t).max(), s / 2)
    self.assertGreater(abs(nearest - t).max(), 0.4 * s)

  @parameterized.parameters(
      [((750, 1000),)], [((500, 500),)], [((1001,),)], [((500, 0),)], [((),)]
  )
  def test_impossible_steps_name_the_config_key(self, timesteps):
    with self.assertRaisesRegex(ValueError, 'config.student.timesteps'):
      flow.few_step_sigmas(*timesteps, s=5.0)


if __name__ == '__main__':
  absltest.main()

"""Samplers on flows whose solution is known."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import samplers

SHAPE = (2, 3, 2, 2, 4)


BOTH = parameterized.named_parameters(
    ('euler', samplers.euler), ('unipc', samplers.unipc)
)


class ManyStepsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.x0, self.noise = np.float32(rng.normal(size=(2, *SHAPE)))

  def towards_the_datum(self, x, timesteps):
    """The true velocity where the data are a single sample."""
    return flow.velocity_from_x0(x, self.x0, timesteps / 1000)

  @parameterized.product(name=tuple(samplers.SAMPLERS), num_steps=(1, 2, 5))
  def test_a_single_datum_is_reached(self, name, num_steps):
    sampler = samplers.SAMPLERS[name]
    x = sampler.sample(
        self.towards_the_datum, self.noise, sampler.sigmas(num_steps, 3.0)
    )
    # The last step subtracts what is left of the noise, up to rounding.
    np.testing.assert_allclose(x, self.x0, atol=2e-6)

  @BOTH
  def test_steps_add_up_to_the_whole_way(self, sample):
    constant = lambda x, t: np.full(x.shape, 2, np.float32)
    x = sample(constant, self.noise, np.float32([0.9, 0.5, 0.1]))
    np.testing.assert_allclose(x, self.noise - 0.9 * 2, atol=1e-6)

  @BOTH
  def test_the_network_is_told_the_timesteps_that_are_given(self, sample):
    told = lambda x, t: np.ones(x.shape, np.float32) * t[:, :, None, None, None]
    x = sample(told, self.noise, np.float32([1.0]), timesteps_K=[7])
    np.testing.assert_allclose(x, self.noise - 7, atol=1e-6)
    x = sample(told, self.noise, np.float32([0.5]))
    np.testing.assert_allclose(x, self.noise - 0.5 * 500, rtol=1e-6)

  @BOTH
  def test_given_frames_stay_and_the_network_sees_them_clean(self, sample):
    mask = np.array([True, False, False])

    def velocity_fn(x, timesteps):
      # Wherever the network is wrong about a given frame, it is put back.
      shown = x[:, :1] - self.x0[:, :1]
      v = self.towards_the_datum(x, np.full((2, 3), 1000, np.float32))
      leaked = (
          abs(shown).sum()
          + timesteps[:, 0].sum()
          + (timesteps[:, 1:] == 0).sum()
      )
      return v + 1e3 * leaked

    x = sample(velocity_fn, self.noise, np.float32([1.0]), (mask, self.x0))
    np.testing.assert_array_equal(x[:, 0], self.x0[:, 0])
    np.testing.assert_allclose(x[:, 1:], self.x0[:, 1:], atol=1e-6)


class StatesTest(absltest.TestCase):

  def test_states_are_where_the_levels_were_and_the_end_is_eulers(self):
    start = np.float32(np.random.default_rng(0).normal(size=SHAPE))
    # A straight flow, v = 2 everywhere: x_σ = x_1 - 2 (1 - σ).
    sigmas = np.float32([1.0, 0.8, 0.7, 0.4, 0.3])
    constant = lambda x, t: np.full(x.shape, 2, np.float32)
    states = samplers.euler_states(constant, start, sigmas, [0, 2, 3])
    self.assertEqual(states.shape, (2, 4, *SHAPE[1:]))
    for i, sigma in enumerate((1.0, 0.7, 0.4, 0.0)):
      np.testing.assert_allclose(
          states[:, i], start - 2 * (1 - sigma), atol=1e-6
      )
    np.testing.assert_array_equal(
        states[:, -1], samplers.euler(constant, start, sigmas)
    )

  def test_given_frames_are_clean_in_every_state(self):
    start, x0 = np.float32(np.random.default_rng(0).normal(size=(2, *SHAPE)))
    known = (np.array([True, False, False]), x0)
    states = samplers.euler_states(
        lambda x, t: x, start, np.float32([1.0, 0.5]), [0, 1], known
    )
    np.testing.assert_array_equal(
        states[:, :, 0], np.repeat(x0[:, None, 0], 3, axis=1)
    )
    np.testing.assert_array_equal(states[:, 0, 1:], start[:, 1:])


class OrderTest(parameterized.TestCase):
  """Gaussian data of deviation s: x_σ / √((1-σ)² s² + σ²) never changes."""

  DEVIATION = 0.3

  def velocity(self, x, timesteps):
    sigma = timesteps[:, :, None, None, None] / 1000
    variance = ((1 - sigma) * self.DEVIATION) ** 2 + sigma**2
    return x * (sigma - (1 - sigma) * self.DEVIATION**2) / variance

  def error(self, name, num_steps):
    start = np.ones((1, 1, 1, 1, 1), np.float32)
    # To where a last step, which is of order 1 in any case, does not matter.
    sigmas = np.linspace(1, 0.01, num_steps, dtype=np.float32)
    x = samplers.SAMPLERS[name].sample(self.velocity, start, sigmas)
    return abs(float(x.item()) - self.DEVIATION)

  # Twice the steps of a method of order p leave 2^-p of its error.
  @parameterized.parameters(('euler', 1), ('unipc', 3))
  def test_more_steps_pay_according_to_the_order(self, name, order):
    few, many = self.error(name, 40), self.error(name, 80)
    self.assertAlmostEqual(np.log2(few / many), order, delta=0.1)

  def test_the_multistep_method_is_much_closer(self):
    self.assertLess(self.error('unipc', 80), self.error('euler', 80) / 10)


class RenoiseTest(absltest.TestCase):

  def test_level_0_is_the_data_and_level_1_is_noise_alone(self):
    x0 = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    key = jax.random.key(0)
    np.testing.assert_array_equal(samplers.renoise(key, x0, 0.0), x0)
    np.testing.assert_array_equal(
        samplers.renoise(key, x0, 1.0), samplers.renoise(key, 9 * x0, 1.0)
    )

  def test_noise_is_fresh_for_each_key(self):
    x0 = np.zeros(SHAPE, np.float32)
    one, other = (
        samplers.renoise(jax.random.key(i), x0, 0.5) for i in range(2)
    )
    self.assertTrue(np.all(one != other))


if __name__ == '__main__':
  absltest.main()

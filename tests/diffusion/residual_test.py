"""The residual parameterization: its ends, and what it tells the network."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import residual

STD = 0.5
SHAPE = (1, 2, 32, 32, 4)


def levels(sigma):
  return np.full(SHAPE[:2], sigma, np.float32)


class ResidualTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.image, self.eps, self.d, self.u = np.float32(
        rng.normal(size=(4, *SHAPE))
    )
    self.x0 = self.image + STD * self.d

  def x0_of(self, u, x, sigma):
    v = residual.velocity(u, x, self.image, levels(sigma), STD)
    return flow.x0_from_velocity(x, v, levels(sigma))

  def test_in_pure_noise_the_network_corrects_the_image(self):
    # Three roundings of values near 4.
    np.testing.assert_allclose(
        self.x0_of(self.u, self.eps, 1.0), self.image + STD * self.u, atol=2e-6
    )

  def test_clean_frames_stay_whatever_the_network_says(self):
    np.testing.assert_array_equal(self.x0_of(self.u, self.x0, 0.0), self.x0)

  @parameterized.parameters(0.0, 0.2, 0.7, 1.0)
  def test_the_network_reads_and_should_answer_unit_variance(self, sigma):
    x = flow.add_noise(self.x0, self.eps, levels(sigma))
    read = residual.network_input(x, self.image, levels(sigma), STD)
    # v is linear in u: the answer that makes it true, by its slope.
    at_zero, at_one = (
        residual.velocity(np.float32(u), x, self.image, levels(sigma), STD)
        for u in (0, 1)
    )
    answer = (self.eps - self.x0 - at_zero) / (at_one - at_zero)
    # 8192 draws: standard deviations are known to 1 / √16384, times 4.
    self.assertAlmostEqual(float(np.std(read)), 1, delta=0.032)
    self.assertAlmostEqual(float(np.std(answer)), 1, delta=0.032)

  @parameterized.parameters(0.2, 0.7)
  def test_without_a_network_it_is_the_best_linear_guess(self, sigma):
    x = flow.add_noise(self.x0, self.eps, levels(sigma))
    error = lambda u: float(np.mean((self.x0_of(u, x, sigma) - self.x0) ** 2))
    read = residual.network_input(x, self.image, levels(sigma), STD)
    for slope in (-0.1, 0.1):
      self.assertLess(error(np.float32(0)), error(slope * read))


if __name__ == '__main__':
  absltest.main()

"""SiD's formula; its gradient's proof is in gaussian_proofs_test.py."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from tests.distill import gaussians
from worldsim_jax.distill import matching
from worldsim_jax.distill import sid

KEY = jax.random.key(0)
VIDEO = np.float32(np.random.default_rng(0).normal(size=(4, 1, 1, 1, 2)))


def loss(video, networks, **changes):
  return sid.generator_loss(
      networks, gaussians.sample(video), KEY, gaussians.config(**changes))[0]


class SidTest(parameterized.TestCase):

  @parameterized.parameters(0.0, 1.0, 1.2)
  def test_is_the_form_of_texts(self, alpha):
    x, r, f = np.random.default_rng(1).normal(size=(3, 4, 1, 2, 2, 3))
    scale = np.abs(x - r).mean(axis=(1, 2, 3, 4), keepdims=True)
    expected = ((r - f) * (f - x) + (1 - alpha) * (r - f)**2) / scale
    np.testing.assert_allclose(
        sid.products(x, r, f, alpha), expected, rtol=1e-4, atol=1e-5)

  def test_agreement_of_critic_and_teacher_is_no_gradient(self):
    same = gaussians.denoiser(gaussians.MEAN, gaussians.COVARIANCE)
    found = jax.jit(jax.grad(
        lambda x: loss(x, {'teacher': same, 'critic': same})))(VIDEO)
    # What passed the teacher and what passed the critic cancel, up to the
    # rounding of their sum with the rest; terms have the scale 1 / 8.
    np.testing.assert_allclose(found, 0, atol=8 * 2**-23 / VIDEO.size)

  def test_agreement_on_the_very_sample_is_no_gradient_and_not_a_nan(self):
    found = jax.grad(lambda x: sid.products(x, x, x, 1.).sum())(VIDEO)
    np.testing.assert_array_equal(found, 0)

  def test_the_normaliser_has_no_gradient(self):
    # Samples twice as far from the teacher: the same products over a scale
    # that, were it differentiated, would add a term along sign(x - r).
    x, r, f = np.random.default_rng(1).normal(size=(3, 1, 1, 1, 1, 5))
    found = jax.grad(lambda x: sid.products(x, r, f, 1.).sum())(x)
    np.testing.assert_allclose(
        found, -(r - f) / np.abs(x - r).mean(), rtol=1e-5)

  def test_levels_of_noise_are_its_own_if_given(self):
    calls = []

    def spy(x, timesteps, unused_conditioning):
      calls.append(timesteps)
      return x

    for changes in ({}, dict(sid_min_sigma=0.4, sid_max_sigma=0.5)):
      loss(np.zeros((64, 1, 1, 1, 2), np.float32),
           {'teacher': spy, 'critic': spy}, **changes)
    stage, _, own, _ = calls
    self.assertLess(float(stage.min()), 400)
    self.assertGreater(float(stage.max()), 500)
    self.assertBetween(float(own.min()), 399.99, 400.01)
    self.assertBetween(float(own.max()), 499.99, 500.01)

  def test_its_critic_is_dmd_s(self):
    self.assertIs(sid.critic_loss, matching.denoising_loss)


if __name__ == '__main__':
  absltest.main()

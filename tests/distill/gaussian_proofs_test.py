"""DMD and SiD where all is known: Gaussian data, an affine student.

The exact critic follows the student, so what is tested are the divergences
alone.
"""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.distill import gaussians
from worldsim_jax.distill import dmd
from worldsim_jax.distill import matching
from worldsim_jax.distill import sid

D, MEAN, COVARIANCE = gaussians.D, gaussians.MEAN, gaussians.COVARIANCE
KEY = jax.random.key(0)
PARAMS = {
    'b': np.float32([-1.0, 1.0]),
    'A': np.float32([[0.5, 0.0], [0.3, 1.5]]),
}
LOSSES = {'dmd': dmd.generator_loss, 'sid': sid.generator_loss}


def noise_of(size):
  """z, and ε and σ as both losses draw them, float64."""
  rng_sigma, rng_eps = jax.random.split(KEY)
  z = np.random.default_rng(0).normal(size=(size, D)).astype(np.float32)
  nothing = gaussians.sample(jnp.zeros((size, 1, 1, 1, D)))
  sigma = matching.noise_levels(rng_sigma, size, gaussians.config())
  x, _, _ = matching.noised(
      rng_eps, nothing, nothing.video_BFHWC, jnp.ones(size))
  return z, np.float64(x[:, 0, 0, 0]), np.float64(sigma)


def closed_form(params, z, eps, sigma):
  """(x, r, f, dr/dx, df/dx, normaliser) in float64."""
  b, a = np.float64(params['b']), np.float64(params['A'])
  x = b + z @ a.T
  level = sigma[:, None]
  noisy = (1 - level) * x + level * eps
  cov = np.float64(COVARIANCE)
  r = gaussians.denoised(noisy, sigma, np.float64(MEAN), cov)
  f = gaussians.denoised(noisy, sigma, b, a @ a.T)
  k = (1 - sigma)[:, None, None]
  return (x, r, f, k * gaussians.gain(sigma, cov),
          k * gaussians.gain(sigma, a @ a.T),
          np.abs(x - r).mean(axis=1, keepdims=True))


@functools.cache
def gradient_in_x(name, **changes):
  def loss(video):
    return LOSSES[name](
        gaussians.networks(PARAMS), gaussians.sample(video), KEY,
        gaussians.config(**changes))[0]

  return jax.jit(jax.grad(loss))


class GradientTest(parameterized.TestCase):

  def assert_gradient(self, found, expected, x, scale):
    # Predictions are known to some roundings of x (|x| < 8 here), and are then
    # divided by the scale; an error of the scale is relative to the gradient.
    rounding = 32 * 2**-23 / np.minimum(scale, 1)
    off = np.abs(found[:, 0, 0, 0] * expected.size - expected)
    np.testing.assert_array_less(off, rounding * (1 + np.abs(expected)))

  @parameterized.parameters(*dmd.SCORE_WEIGHTS)
  def test_dmd_s_is_the_weighted_difference_of_scores(self, weight):
    z, eps, sigma = noise_of(32)
    x, r, f, _, _, scale = closed_form(PARAMS, z, eps, sigma)
    factor = {'normalised': 1 / scale, 'none': 1,
              'omega': (1 - sigma)[:, None] / scale}[weight]
    video = np.float32(x)[:, None, None, None]
    self.assert_gradient(
        gradient_in_x('dmd', score_weight=weight)(video), (f - r) * factor,
        x, scale)

  @parameterized.parameters(1.0, 1.2)
  def test_sid_s_passes_both_networks(self, alpha):
    z, eps, sigma = noise_of(32)
    x, r, f, dr, df, scale = closed_form(PARAMS, z, eps, sigma)
    left, right = r - f, (r - x) - alpha * (r - f)
    back = lambda jacobian, v: np.einsum('bij,bi->bj', jacobian, v)
    expected = back(dr - df, right) + back(
        dr - np.eye(D) - alpha * (dr - df), left)
    video = np.float32(x)[:, None, None, None]
    self.assert_gradient(
        gradient_in_x('sid', sid_alpha=alpha)(video), expected / scale,
        x, scale)

  @pytest.mark.slow
  def test_dmd_s_mean_is_the_gradient_of_the_divergence(self):
    """Of KL(N(b, A Aᵀ) ‖ N(m, S)), both noised to one σ, in b and A."""
    sigma, size = 0.5, 2**15
    z = np.random.default_rng(1).normal(size=(size, D)).astype(np.float32)

    def each(params):
      """d loss / d params of each sample by itself, times their number."""
      video = gaussians.student(params, z)
      gradient = jax.grad(lambda v: dmd.generator_loss(
          gaussians.networks(params), gaussians.sample(v), KEY,
          gaussians.config(score_weight='none', min_sigma=sigma,
                           max_sigma=sigma))[0])(video)
      in_x = gradient[:, 0, 0, 0] * size * D * ((1 - sigma) / sigma)**2
      return in_x, in_x[:, :, None] * z[:, None, :]

    def divergence(params):
      noised = lambda s: (1 - sigma)**2 * s + sigma**2 * jnp.eye(D)
      own = noised(params['A'] @ params['A'].T)
      target = noised(jnp.asarray(COVARIANCE))
      apart = (1 - sigma) * (params['b'] - MEAN)
      inverse = jnp.linalg.inv(target)
      return 0.5 * (jnp.trace(inverse @ own) + apart @ inverse @ apart
                    + jnp.linalg.slogdet(target)[1]
                    - jnp.linalg.slogdet(own)[1])

    expected = jax.grad(divergence)(PARAMS)
    for found, name in zip(jax.jit(each)(PARAMS), 'bA'):
      error = np.std(found, axis=0) / size**0.5
      off = np.abs(np.mean(found, axis=0) - expected[name])
      np.testing.assert_array_less(off, 5 * error)
      # And the errors are small enough to see that it is no other gradient.
      self.assertLess(error.max(), 0.02 * np.abs(expected[name]).max())


class ConvergenceTest(parameterized.TestCase):

  @parameterized.parameters(
      ('dmd', dict(score_weight='normalised')),
      ('dmd', dict(score_weight='none')),
      ('sid', dict(sid_alpha=1.0)),
  )
  def test_a_student_reaches_mean_and_covariance(self, name, changes):
    steps = 600
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))
    config = gaussians.config(**changes)

    def loss(params, fixed, rng):
      rng_z, rng_loss = jax.random.split(rng)
      video = gaussians.student(params, jax.random.normal(rng_z, (256, D)))
      return LOSSES[name](
          gaussians.networks(fixed), gaussians.sample(video), rng_loss,
          config)[0]

    def step(carry, rng):
      params, state = carry
      gradient = jax.grad(loss)(params, params, rng)
      update, state = optimizer.update(gradient, state)
      return (optax.apply_updates(params, update), state), None

    params = jax.tree.map(jnp.asarray, PARAMS)
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(
        step, carry, jax.random.split(KEY, steps)))(
            (params, optimizer.init(params)))
    # Where both agree the gradient of every sample is zero, so what remains is
    # not noise, only rounding of values near 1 and a rate that ends at zero.
    np.testing.assert_allclose(params['b'], MEAN, atol=1e-4)
    np.testing.assert_allclose(
        params['A'] @ params['A'].T, COVARIANCE, atol=1e-4)


if __name__ == '__main__':
  absltest.main()

"""SiD on networks whose predictions are known."""

import functools
import types

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.distill import divergences
from worldsim_jax.distill import matching
from worldsim_jax.distill import sid
from worldsim_jax.models.conditioning import Conditioning

B, F, H, W, C = 3, 4, 2, 2, 3
GIVEN = 1
KEY = jax.random.key(0)
VIDEO = np.random.default_rng(0).normal(size=(B, F, H, W, C)).astype('f')


def shrinking(factor, x, timesteps, conditioning):
  """Predicts x0 = factor x_σ: linear, so its gradients are known."""
  del conditioning
  return flow.velocity_from_x0(x, factor * x, timesteps / 1000)


def loss_of(video, real=.5, fake=.8, alpha=1.):
  networks = {'teacher': functools.partial(shrinking, real),
              'critic': functools.partial(shrinking, fake)}
  sample = matching.Sample(video, VIDEO, Conditioning(), GIVEN)
  config = types.SimpleNamespace(
      guidance_scale=1., shift=1., min_sigma=.02, max_sigma=.98, alpha=alpha)
  return sid.generator_loss(networks, sample, KEY, config)[0]


def noised():
  """x_σ, σ of the loss above, of generated frames."""
  rng_sigma, rng_eps = jax.random.split(KEY)
  config = types.SimpleNamespace(shift=1., min_sigma=.02, max_sigma=.98)
  sample = matching.Sample(jnp.asarray(VIDEO), VIDEO, Conditioning(), GIVEN)
  levels = matching.noise_levels(rng_sigma, B, config)
  x, _, _ = matching.noised(rng_eps, sample, jnp.asarray(VIDEO), levels)
  return x[:, GIVEN:], levels[:, None, None, None, None]


class SidTest(parameterized.TestCase):

  @parameterized.parameters(0., 1., 1.2)
  def test_it_is_the_identity_of_its_two_forms(self, alpha):
    x, _ = noised()
    made = VIDEO[:, GIVEN:]
    r, f = .5 * x, .8 * x
    scale = np.abs(made - r).mean((1, 2, 3, 4), keepdims=True)
    expected = np.mean((r - f) * ((f - made) + (1 - alpha) * (r - f)) / scale)
    found = jax.jit(functools.partial(loss_of, alpha=alpha))(VIDEO)
    # A mean of 108 products near 1, in float32.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

  def test_it_is_zero_where_the_scores_agree(self):
    found, gradient = jax.jit(jax.value_and_grad(
        functools.partial(loss_of, real=.7, fake=.7)))(VIDEO)
    self.assertEqual(found, 0)
    np.testing.assert_array_equal(gradient, 0)

  def test_the_gradient_passes_through_both_networks_and_x(self):
    x, sigma = noised()
    made = VIDEO[:, GIVEN:]
    scale = np.abs(made - .5 * x).mean((1, 2, 3, 4), keepdims=True)
    # d/dx of (r - f)(f - x), r - f = -.3 x_σ, f - x = .8 x_σ - x, where
    # dx_σ/dx = 1 - σ.
    slope = -.3 * (1 - sigma) * (.8 * x - made) - .3 * x * (
        .8 * (1 - sigma) - 1)
    expected = slope / scale / made.size
    found = jax.jit(jax.grad(loss_of))(VIDEO)
    np.testing.assert_array_equal(found[:, :GIVEN], 0)
    # v = (x - x0) / σ and back: a few roundings over σ ≥ .02.
    np.testing.assert_allclose(found[:, GIVEN:], expected, rtol=1e-3, atol=1e-6)

  def test_divergences_are_known_by_name(self):
    self.assertEqual(set(divergences.DIVERGENCES), {'dmd', 'sid'})
    for name, divergence in divergences.DIVERGENCES.items():
      self.assertTrue(callable(divergence.generator_loss), name)


if __name__ == '__main__':
  absltest.main()

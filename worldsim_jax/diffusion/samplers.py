"""Samplers: from noise to data through a list of noise levels.

Sigmas are noisiest first and end before 0; the last step always lands on σ = 0.

  euler       x ← x + (σ_next - σ) v, the flow ODE (many steps: the teacher)
  renoise     x0 ← x - σ v; x ← (1 - σ_next) x0 + σ_next ε with fresh ε, the
              consistency sampler of few-step students (DMD2, Self Forcing)
"""

import jax
import jax.numpy as jnp

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import noise


def euler(velocity_fn, noise_BFHWC, sigmas_K, known=None):
  """Integrates the flow from σ = sigmas_K[0] to 0.

  Args:
    velocity_fn: (x_BFHWC, timesteps_BF) -> v_BFHWC.
    noise_BFHWC: the starting point.
    sigmas_K: float [K].
    known: optional (mask bool [F], x0_BFHWC): frames that are given. They stay
      at σ = 0 and are put back after every step.

  Returns:
    Clean latents, like noise_BFHWC.
  """
  sigma_next_K = jnp.append(sigmas_K[1:], 0.)

  def step(x, sigmas):
    sigma, sigma_next = sigmas
    sigma_BF = jnp.full(x.shape[:2], sigma, x.dtype)
    if known is not None:
      sigma_BF = jnp.where(known[0], 0., sigma_BF)
    v = velocity_fn(x, flow.timesteps(sigma_BF))
    return _put_back(x + (sigma_next - sigma) * v, known), None

  x, _ = jax.lax.scan(
      step, _put_back(noise_BFHWC, known), (sigmas_K, sigma_next_K))
  return x


def renoise(rng, x0_BFHWC, sigma):
  """x0 at noise level σ (a scalar) with fresh noise."""
  eps = noise.normal(rng, x0_BFHWC.shape, x0_BFHWC.dtype)
  return (1 - sigma) * x0_BFHWC + sigma * eps


def _put_back(x_BFHWC, known):
  if known is None:
    return x_BFHWC
  mask_F, x0_BFHWC = known
  return jnp.where(mask_F[:, None, None, None], x0_BFHWC, x_BFHWC)

"""The regression that every denoiser is trained with.

  L = mean over scored frames of ‖ v_θ - (ε - x0) ‖² w(σ)                (1)

Weights: 'none' is w = 1; 'x0' is w = σ², which makes (1) the squared error of
x0; 'bsmntw' is what Self Forcing's code trains its baselines with, a bell
exp(-2 (σ - ½)²) less its value at the ends,

  w(σ) ∝ exp(2 σ (1 - σ)) - 1,                                           (2)

with mean 1 over the 1000 levels of upstream's grid. It is exactly 0 at σ = 1:
of frames that are noise alone nothing is learned, so it is no default.
"""

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import noise

# Upstream's levels of noise in training, with the shift of Wan 2.1 at 480p.
_GRID = flow.sampling_sigmas(flow.NUM_TIMESTEPS, 5.)


def _bsmntw(sigma):
  """Eq. (2)."""
  return (jnp.expm1(2 * sigma * (1 - sigma))
          / np.expm1(2 * _GRID * (1 - _GRID)).mean())


WEIGHTS = {'none': jnp.ones_like, 'x0': jnp.square, 'bsmntw': _bsmntw}


def noised(rng, x0_BFHWC, sigma_BF):
  """Fresh noise: returns (x_σ, the velocity target)."""
  eps = noise.normal(rng, x0_BFHWC.shape, x0_BFHWC.dtype)
  return (flow.add_noise(x0_BFHWC, eps, sigma_BF),
          flow.velocity(x0_BFHWC, eps))


def regression(v_BFHWC, target_BFHWC, sigma_BF, scored_F, weight: str):
  """Eq. (1) over the frames where scored_F is true.

  Returns:
    (loss, metrics): metrics has the loss and the squared error of x0.

  Raises:
    ValueError: for an unknown weight.
  """
  if weight not in WEIGHTS:
    raise ValueError(
        f'weight={weight!r} is not one of {tuple(WEIGHTS)} (config.*.weight).')
  error_BF = jnp.mean((v_BFHWC - target_BFHWC)**2, axis=(2, 3, 4))
  scored_BF = jnp.broadcast_to(scored_F, error_BF.shape)
  mean = lambda x: jnp.sum(x * scored_BF) / jnp.sum(scored_BF)
  loss = mean(error_BF * WEIGHTS[weight](sigma_BF))
  return loss, {'loss': loss, 'x0_error': mean(error_BF * sigma_BF**2)}

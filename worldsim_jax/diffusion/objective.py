"""The regression that every denoiser is trained with.

  L = mean over scored frames of ‖ v_θ - (ε - x0) ‖² w(σ)                (1)

Weights: 'none' is w = 1; 'x0' is w = σ², which makes (1) the squared error of
x0; 'bsmntw' is what Self Forcing's code trains its baselines with, a bell
exp(-2 (σ - ½)²) less its value at the ends,

  w(σ) ∝ exp(2 σ (1 - σ)) - 1,                                           (2)

with mean 1 over the 1000 levels of upstream's grid. It is exactly 0 at σ = 1:
of frames that are noise alone nothing is learned, so it is no default.

'fused_snr' is Diffusion Forcing's (Chen et al. 2024, arXiv 2407.01392; as
version 1.5 of its code has it): a noisy frame is easier to denoise if the
frames before it are clean. With the ratio of signal to noise of frame i,
s_i = ((1 - σ_i) / σ_i)² / 5, and the clipped one, S_i = min(s_i, 1),

  C_i = .96 C_i-1 + .04 S_i,  C_0 = S_0;    c_i = .96 C_i-1,  c_0 = 0,
  u = 1 - (1 - c) (1 - s),    U = 1 - (1 - c) (1 - S),
  w = 5 U / (1 + √(5 u))².                                               (3)

5 u and 5 U are the ratios with the past taken in. For a frame alone, w is
min(SNR, 5) σ²: the squared error of x0 times the clipped ratio, since v's error
is x0's over σ, and σ = 1 / (1 + √SNR). (Upstream's velocity is another, and its
weight 5 U / (1 + 5 u) accordingly.) It means something where a frame reads the
noisy frames before it.
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


def _fused_snr(sigma_BF):
  """Eq. (3)."""
  # At σ = 0 the ratio has a pole, and the weight its limit, 0.
  snr = ((1 - sigma_BF) / jnp.maximum(sigma_BF, 1e-4))**2 / _MAX_SNR
  clipped = jnp.minimum(snr, 1)

  def step(past, new):
    return _SNR_DECAY * past + (1 - _SNR_DECAY) * new, past

  _, past = jax.lax.scan(step, clipped[:, 0], clipped.T[1:])
  past = jnp.concatenate([jnp.zeros_like(clipped[:, :1]), past.T], axis=1)
  fused = lambda ratio: 1 - (1 - _SNR_DECAY * past) * (1 - ratio)
  return (_MAX_SNR * fused(clipped)
          / (1 + jnp.sqrt(_MAX_SNR * fused(snr)))**2)


_MAX_SNR, _SNR_DECAY = 5., 0.96
# Each a function of all levels of a clip, σ [B, F], with a weight per frame.
WEIGHTS = {'none': jnp.ones_like, 'x0': jnp.square, 'bsmntw': _bsmntw,
           'fused_snr': _fused_snr}


def noised(rng, x0_BFHWC, sigma_BF):
  """Fresh noise: returns (x_σ, the velocity target)."""
  eps = noise.normal(rng, x0_BFHWC.shape, x0_BFHWC.dtype)
  return (flow.add_noise(x0_BFHWC, eps, sigma_BF),
          flow.velocity(x0_BFHWC, eps))


def regression(v_BFHWC, target_BFHWC, sigma_BF, scored_F, weight: str):
  """Eq. (1) over the frames where scored_F is true; it may be [B, F].

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
  count = jnp.maximum(jnp.sum(scored_BF), 1)  # Of none, the loss is 0.
  mean = lambda x: jnp.sum(x * scored_BF) / count
  loss = mean(error_BF * WEIGHTS[weight](sigma_BF))
  return loss, {'loss': loss, 'x0_error': mean(error_BF * sigma_BF**2)}

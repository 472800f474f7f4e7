"""Rectified flow: the one noise convention of the project.

A sample x0 and a noise ε ~ N(0, I) are joined by a straight line,

  x_σ = (1 - σ) x0 + σ ε,            σ ∈ [0, 1]                          (1)

so σ = 0 is data and σ = 1 is noise; the network's timestep is t = 1000 σ.
The line's velocity does not depend on σ,

  v = dx_σ/dσ = ε - x0,                                                  (2)

and whichever of x0, ε, v the network predicts, (1) gives the others:

  x0 = x_σ - σ v,        ε = x_σ + (1 - σ) v,                            (3)
  v = (x_σ - x0) / σ = (ε - x_σ) / (1 - σ).

A shift s ≥ 1 spends more steps near noise, as long videos need
(Esser et al. 2024, eq. 23),

  σ' = s σ / (1 + (s - 1) σ).                                            (4)

The schedule is analytic: unlike upstream, no value is rounded to a grid of 1000
timesteps. Sigmas are per frame, [B, F]; latents are [B, F, H, W, C].
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

NUM_TIMESTEPS = 1000


def add_noise(x0_BFHWC, eps_BFHWC, sigma_BF):
  """Noises each frame to its own level, eq. (1)."""
  sigma = per_frame(sigma_BF, x0_BFHWC)
  return (1 - sigma) * x0_BFHWC + sigma * eps_BFHWC


def velocity(x0_BFHWC, eps_BFHWC):
  """The training target, eq. (2)."""
  return eps_BFHWC - x0_BFHWC


def x0_from_velocity(x_BFHWC, v_BFHWC, sigma_BF):
  """The clean latents that a velocity implies, eq. (3)."""
  return x_BFHWC - per_frame(sigma_BF, x_BFHWC) * v_BFHWC


def eps_from_velocity(x_BFHWC, v_BFHWC, sigma_BF):
  """The noise that a velocity implies, eq. (3)."""
  return x_BFHWC + (1 - per_frame(sigma_BF, x_BFHWC)) * v_BFHWC


def velocity_from_x0(x_BFHWC, x0_BFHWC, sigma_BF, min_sigma: float = 1e-3):
  """The velocity that points to given clean latents, eq. (3).

  Args:
    x_BFHWC: noisy latents.
    x0_BFHWC: predicted clean latents.
    sigma_BF: noise levels.
    min_sigma: below it the division would only amplify rounding.
  """
  sigma = jnp.maximum(per_frame(sigma_BF, x_BFHWC), min_sigma)
  return (x_BFHWC - x0_BFHWC) / sigma


def velocity_from_eps(x_BFHWC, eps_BFHWC, sigma_BF, max_sigma: float = 0.999):
  """The velocity that given noise implies, eq. (3).

  Args:
    x_BFHWC: noisy latents.
    eps_BFHWC: predicted noise.
    sigma_BF: noise levels; at 1 the noise says nothing about the data.
    max_sigma: above it the division would only amplify rounding.
  """
  sigma = jnp.minimum(per_frame(sigma_BF, x_BFHWC), max_sigma)
  return (eps_BFHWC - x_BFHWC) / (1 - sigma)


def shift(sigma, s: float):
  """Moves sigmas towards noise, eq. (4); s = 1 leaves them."""
  return s * sigma / (1 + (s - 1) * sigma)


def timesteps(sigma):
  """The network's time input, t = 1000 σ in [0, 1000]."""
  return NUM_TIMESTEPS * sigma


def uniform_sigmas(rng, shape, s: float = 1., minimum: float = 0.,
                   maximum: float = 1.) -> jax.Array:
  """Training noise levels: uniform, shifted by (4), then clipped."""
  sigma = shift(jax.random.uniform(rng, shape), s)
  return jnp.clip(sigma, minimum, maximum)


def sampling_sigmas(num_steps: int, s: float,
                    grid: str = 'uniform') -> np.ndarray:
  """Grid of a many-step sampler, noisiest first, without a final 0.

  A NumPy array, float32, so that it is a constant wherever it is asked for.

  Args:
    num_steps: K.
    s: the shift, eq. (4).
    grid: a key of GRIDS.
  """
  return GRIDS[grid](num_steps, s).astype(np.float32)


def whole_timesteps(num_steps: int, s: float, grid: str) -> np.ndarray:
  """1000 σ rounded down, as the UniPC schedulers upstream tell the network."""
  return np.floor(NUM_TIMESTEPS * GRIDS[grid](num_steps, s)).astype(np.float32)


def _uniform_grid(num_steps, s):
  return shift(np.linspace(1., 0., num_steps, endpoint=False), s)


def _wan_grid(num_steps, s):
  return shift(np.linspace(1 - _LEAST, 0., num_steps, endpoint=False), s)


def _diffusers_unipc_grid(num_steps, s):
  sigma = shift(np.linspace(1., _LEAST, num_steps, endpoint=False), s)
  return np.minimum(sigma, 1 - 1e-6)  # Its logarithms need a little data.


def _diffusers_euler_grid(num_steps, s):
  # The end of the grid is shifted twice, once as the least of 1000 levels.
  return shift(np.linspace(1., shift(_LEAST, s), num_steps), s)


_LEAST = 1 / NUM_TIMESTEPS
# Sigmas of many-step samplers, (num_steps, s) -> float64 [num_steps]:
GRIDS = {
    'uniform': _uniform_grid,  # from 1, as Self Forcing's ODE pairs
    'wan': _wan_grid,  # from 0.999 before the shift: Wan's own samplers
    'diffusers_unipc': _diffusers_unipc_grid,  # its UniPCMultistepScheduler
    'diffusers_euler': _diffusers_euler_grid,  # FlowMatchEulerDiscreteScheduler
}


def few_step_sigmas(timesteps: tuple[int, ...], s: float) -> np.ndarray:
  """Warped sigmas of a few-step student, noisiest first, without the final 0.

  A NumPy array, so that it is a constant wherever it is asked for.

  Args:
    timesteps: unwarped, in (0, 1000], strictly decreasing: (1000, 750, 500).
    s: the shift that the teacher was trained with (5 for Wan 2.1 at 480p).

  Raises:
    ValueError: if the timesteps do not decrease or leave (0, 1000].
  """
  if list(timesteps) != sorted(set(timesteps), reverse=True):
    raise ValueError(
        f'timesteps={timesteps} must strictly decrease '
        '(config.student.timesteps).')
  if not timesteps or not 0 < timesteps[-1] <= timesteps[0] <= NUM_TIMESTEPS:
    raise ValueError(
        f'timesteps={timesteps} must lie in (0, 1000] '
        '(config.student.timesteps).')
  return shift(np.asarray(timesteps, np.float32) / NUM_TIMESTEPS, s)


def per_frame(sigma_BF, like_BFHWC):
  """Per-frame values with axes added, so that they broadcast over latents."""
  chex.assert_equal_shape_prefix([sigma_BF, like_BFHWC], 2)
  return sigma_BF[:, :, None, None, None]

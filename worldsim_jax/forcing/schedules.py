"""Sampling matrices: in which order the frames of a video lose their noise.

Chen et al. 2024 (Diffusion Forcing, arXiv 2407.01392, Alg. 2): a model trained
with a level per frame may denoise frames in any order. A matrix has a row per
step and a column per chunk, and holds σ. Each chunk walks through the same K
levels and 0, and begins d_i steps after the first one,

  σ[m, i] = level[clip(m - d_i, 0, K)],  level = (σ_1 > .. > σ_K, 0),    (1)

  full_sequence   d_i = 0               all at once
  autoregressive  d_i = K i             a chunk begins when the last is clean
  pyramid         d_i = ⌊delay · i⌋     in between: the nearer, the clearer
  trapezoid       d_i = ⌊delay · min(i, n - 1 - i)⌋   both ends first

For three chunks and two levels, 1 and ½, pyramid with a delay of 1 is

  1 1 1 / ½ 1 1 / 0 ½ 1 / 0 0 ½ / 0 0 0.

From one row to the next every frame takes the step of DDIM that its two levels
say, in flow terms Euler's,

  x ← x + (σ[m + 1] - σ[m]) v_θ(x, σ[m] | noisy past).                   (2)

Stabilisation: what is clean, given or made, may be shown to the model with a
little noise and told so, σ = s > 0. Its own small errors then look like what it
knows from training: noise, which is not to be trusted.
"""

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import noise
from worldsim_jax.forcing import sequences
from worldsim_jax.forcing import windows
from worldsim_jax.models.conditioning import Conditioning

# d_i of eq. (1), from (i as an array [n], K, delay).
DELAYS = {
    'full_sequence': lambda i, steps, delay: 0 * i,
    'autoregressive': lambda i, steps, delay: steps * i,
    'pyramid': lambda i, steps, delay: np.floor(delay * i),
    'trapezoid': lambda i, steps, delay: np.floor(
        delay * np.minimum(i, i[::-1])),
}


def matrix(name: str, sigmas_K, num_chunks: int, *,
           delay: float = 1.) -> np.ndarray:
  """A sampling matrix, eq. (1).

  Args:
    name: a key of DELAYS.
    sigmas_K: levels, noisiest first, without the final 0.
    num_chunks: columns.
    delay: steps between a chunk's beginning and the next one's, ≥ 0; only of
      pyramid and trapezoid.

  Returns:
    float32 [K + max d + 1, num_chunks]; all at σ_1 first, all at 0 last.

  Raises:
    ValueError: for another name, or a delay < 0.
  """
  if name not in DELAYS:
    raise ValueError(
        f'sampling matrix {name!r} is not one of {tuple(DELAYS)} '
        '(config.evaluate.matrix).')
  if delay < 0:
    raise ValueError(f'delay={delay} of a sampling matrix must not be < 0 '
                     '(config.evaluate.matrix_delay).')
  levels = np.append(np.asarray(sigmas_K, np.float32), np.float32(0))
  steps = len(levels) - 1
  delays_N = DELAYS[name](np.arange(num_chunks), steps, delay).astype(int)
  rows = np.arange(steps + delays_N.max() + 1)
  return levels[np.clip(rows[:, None] - delays_N, 0, steps)]


def sample(velocity_fn, params, context_BFHWC, conditioning: Conditioning, rng,
           matrix_RN, *, chunk: int, stabilisation_sigma: float = 0.,
           guidance_scale: float = 1.):
  """Makes the chunks that follow a context, eq. (2); one program for all rows.

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context) -> v,
      block-causal.
    params: of the model.
    context_BFHWC: c clean latent frames; a multiple of the chunk, or none.
    conditioning: of context and new frames, without image.
    rng: for the noise.
    matrix_RN: a column per new chunk, see `matrix`.
    chunk: frames per column.
    stabilisation_sigma: s, at which clean frames are seen.
    guidance_scale: 1 is none.

  Returns:
    [B, N · chunk, H, W, C].

  Raises:
    ValueError: if the chunk does not divide the context.
  """
  batch, given = context_BFHWC.shape[:2]
  sequences.check_context(given, chunk)
  rows_RF = np.pad(np.repeat(matrix_RN, chunk, axis=1), ((0, 0), (given, 0)))
  rng_start, rng_seen = jax.random.split(rng)
  shape = (batch, rows_RF.shape[1], *context_BFHWC.shape[2:])
  start = noise.normal(rng_start, shape).at[:, :given].set(context_BFHWC)
  # The same in every step: a frame of the past does not flicker.
  eps = noise.normal(rng_seen, shape)

  def step(x, now):
    sigma_F, next_F = now
    added_F = jnp.where(sigma_F == 0, stabilisation_sigma, 0.)
    seen = flow.add_noise(x, eps, jnp.broadcast_to(added_F, shape[:2]))
    v = sequences.noisy_past(
        velocity_fn, params, seen,
        jnp.broadcast_to(sigma_F + added_F, shape[:2]), conditioning, chunk,
        guidance_scale)
    return x + (next_F - sigma_F)[:, None, None, None] * v, None

  x, _ = jax.lax.scan(step, start, (rows_RF[:-1], rows_RF[1:]))
  return x[:, given:]


def extend(velocity_fn, params, context_BFHWC, conditioning: Conditioning, rng,
           matrix_RN, *, chunk: int, num_frames: int, **how):
  """Continues a video by `num_frames`, window after window.

  Args: as in `sample` and `windows.slide`; a window is the context and the
    columns of the matrix.
  """
  def make(context, conditioning, rng):
    return sample(velocity_fn, params, context, conditioning, rng, matrix_RN,
                  chunk=chunk, **how)

  window = context_BFHWC.shape[1] + matrix_RN.shape[1] * chunk
  return windows.slide(make, context_BFHWC, conditioning, rng,
                       num_frames=num_frames, window=window)

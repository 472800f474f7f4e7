"""A causal model's pass over a whole clip: what a chunk is given of the past.

Without a cache all chunks go through the model at once, each at its level:

  clean past  v_θ(x_i, σ_i | x0_<i)           the sequence is [clean; noisy], as
              `attention.context.teacher_forcing` lays it out: what a cache
              gives to one chunk after the other.
  noisy past  v_θ(x_i, σ_i | x_<i, σ_<i)      the noisy frames alone, under the
              block-causal mask (Diffusion Forcing; CausVid).

Besides attention there is a second way into the past: the image stream, the
frame that a chunk continues from, to which the residual parameterization
predicts the difference. With a noisy past the clean frame would be a leak: at
σ_j = 1 nothing of frame j may be known. Leaving the stream unknown unless
σ_j = 0 would not leak, but levels are drawn from a continuum, so the model
would never see an image, and then stream with one before every chunk. x_j
itself, called an image of x0_j, would have the residual start from noise, which
the network must first learn to take out again. So the stream holds what
(x_j, σ_j) tell of the frame (`batches.image_before_chunks`, eq. 1), computed
from what attention may read anyway. It is the clean frame at σ_j = 0, as in
streaming and teacher forcing, and unknown at σ_j = 1, as before the first
chunk; samplers compute it by the same function from where they are.
"""

import functools

import jax
import jax.numpy as jnp

from worldsim_jax.attention import context as contexts
from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import guidance
from worldsim_jax.forcing import batches


def noisy_past(velocity_fn, params, x_BFHWC, sigma_BF, conditioning,
               chunk: int, guidance_scale: float = 1., context=None):
  """v of every frame, each chunk reading itself and the chunks before.

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context) -> v.
    params: of the model.
    x_BFHWC: latents, each frame at its own level.
    sigma_BF: in [0, 1]; 0 for frames that are given.
    conditioning: of these frames, without image.
    chunk: frames denoised together; divides F.
    guidance_scale: 1 is none.
    context: what is read of the past; default: all of it.

  Returns:
    [B, F, H, W, C].
  """
  image = batches.image_before_chunks(x_BFHWC, chunk, sigma_BF)
  context = context or contexts.block_causal(x_BFHWC.shape[1], chunk)
  return _guided(
      velocity_fn, params, x_BFHWC, sigma_BF, conditioning.with_image(*image),
      context, guidance_scale)


def clean_past(velocity_fn, params, clean_BFHWC, x_BGHWC, sigma_BG,
               conditioning, chunk: int, guidance_scale: float = 1.):
  """v of a clip's last G frames, each chunk reading a clean past and itself.

  Args:
    velocity_fn, params, chunk, guidance_scale: as above.
    clean_BFHWC: all frames of the clip. The last chunk is read by none.
    x_BGHWC: its last G frames, noisy; G is a multiple of the chunk.
    sigma_BG: their levels.
    conditioning: of all F frames, without image.

  Returns:
    [B, G, H, W, C].
  """
  frames, noisy = clean_BFHWC.shape[1], x_BGHWC.shape[1]
  context = contexts.teacher_forcing(frames, chunk, frames - noisy)
  conditioning = conditioning.with_image(
      *batches.image_before_chunks(clean_BFHWC, chunk))
  clean = clean_BFHWC[:, :-chunk]
  join = functools.partial(jnp.concatenate, axis=1)
  v = _guided(
      velocity_fn, params, join([clean, x_BGHWC]),
      join([jnp.zeros(clean.shape[:2]), sigma_BG]),
      conditioning.at_frames(context.positions), context, guidance_scale)
  return v[:, clean.shape[1]:]


def chunk_indices(rng, shape_BF, chunk: int, num_levels: int):
  """The index of a level for each chunk, uniform in 0..K-1; int [B, F]."""
  batch, frames = shape_BF
  index = jax.random.randint(rng, (batch, frames // chunk), 0, num_levels)
  return jnp.repeat(index, chunk, axis=1)


def check_context(context_frames: int, chunk: int):
  """Raises ValueError if the context ends within a chunk."""
  if context_frames % chunk:
    raise ValueError(
        f'chunk={chunk} must divide context_frames={context_frames} '
        '(config.student.chunk, config.student.context_frames).')


def _guided(velocity_fn, params, x, sigma_BF, conditioning, context, scale):
  denoiser = guidance.guided(
      lambda x, t, condition: velocity_fn(params, x, t, condition, context),
      conditioning, conditioning.unconditional(), scale)
  return denoiser(x, flow.timesteps(sigma_BF))

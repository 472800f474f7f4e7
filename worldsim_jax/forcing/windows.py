"""How a bidirectional model makes long video: window after window.

Each window holds the last frames of what is there, clean, and new frames that
are denoised together over many steps. This is the teacher's sampler; it cannot
act on an action before the whole window is known.
"""

import jax
import jax.numpy as jnp

from worldsim_jax.diffusion import guidance
from worldsim_jax.diffusion import noise
from worldsim_jax.diffusion import samplers
from worldsim_jax.forcing import batches
from worldsim_jax.models.conditioning import Conditioning


def continue_window(velocity_fn, params, context_BFHWC, conditioning, rng,
                    sigmas_K, *, window: int, guidance_scale: float = 1.,
                    sample=samplers.euler):
  """Makes the frames of one window that follow its context.

  Args:
    velocity_fn: (params, x, timesteps, conditioning) -> v, bidirectional.
    params: of the model.
    context_BFHWC: c clean latent frames.
    conditioning: of all `window` frames, without image.
    rng: for the initial noise.
    sigmas_K: see samplers.euler.
    window: frames per window, more than c.
    guidance_scale: 1 is none.
    sample: of samplers.SAMPLERS.

  Returns:
    [B, window - c, H, W, C].
  """
  batch, given = context_BFHWC.shape[:2]
  shape = (batch, window, *context_BFHWC.shape[2:])
  x0 = jnp.zeros(shape).at[:, :given].set(context_BFHWC)
  conditioning = conditioning.with_image(
      *batches.image_before_future(x0, given))
  denoiser = guidance.guided(
      lambda x, t, condition: velocity_fn(params, x, t, condition),
      conditioning, conditioning.unconditional(), guidance_scale)
  video = sample(denoiser, noise.normal(rng, shape), sigmas_K,
                 known=(jnp.arange(window) < given, x0))
  return video[:, given:]


def extend(velocity_fn, params, context_BFHWC, conditioning: Conditioning, rng,
           sigmas_K, *, num_frames: int, window: int,
           guidance_scale: float = 1., sample=samplers.euler):
  """Continues a video by `num_frames`, a scan over windows.

  Args: as above; the conditioning is of context and new frames. Where the last
    window reaches beyond, its conditioning repeats and its frames are dropped.
  """
  given = context_BFHWC.shape[1]
  stride = window - given
  num_windows = -(-num_frames // stride)
  conditioning = conditioning.pad_frames(given + num_windows * stride)

  def body(context, index):
    made = continue_window(
        velocity_fn, params, context,
        conditioning.frames(index * stride, window),
        jax.random.fold_in(rng, index), sigmas_K, window=window,
        guidance_scale=guidance_scale, sample=sample)
    latest = jnp.concatenate([context, made], axis=1)[:, -given:]
    return latest, made

  _, made = jax.lax.scan(body, context_BFHWC, jnp.arange(num_windows))
  made = jnp.moveaxis(made, 0, 1)
  video = made.reshape(
      context_BFHWC.shape[0], num_windows * stride, *context_BFHWC.shape[2:])
  return video[:, :num_frames]

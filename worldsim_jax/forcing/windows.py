"""How a bidirectional model makes long video: window after window.

Each window holds the last frames of what is there, clean, and new frames that
are denoised together over many steps. This is the teacher's sampler; it cannot
act on an action before the whole window is known. Sampling by a matrix slides
its windows in the same way (schedules.py).
"""

import functools

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
  denoiser, known = after_context(
      velocity_fn, params, context_BFHWC, conditioning, window=window,
      guidance_scale=guidance_scale)
  start = noise.normal(rng, known[1].shape)
  video = sample(denoiser, start, sigmas_K, known=known)
  return video[:, context_BFHWC.shape[1]:]


def after_context(velocity_fn, params, context_BFHWC, conditioning, *,
                  window: int, guidance_scale: float = 1.):
  """What samplers need to make the frames of a window after its context.

  Args: as in `continue_window`.

  Returns:
    The guided (x, timesteps) -> v, and `known` as `samplers.euler` has it.
  """
  batch, given = context_BFHWC.shape[:2]
  x0 = jnp.zeros((batch, window, *context_BFHWC.shape[2:]))
  x0 = x0.at[:, :given].set(context_BFHWC)
  conditioning = conditioning.with_image(
      *batches.image_before_future(x0, given))
  denoiser = guidance.guided(
      functools.partial(velocity_fn, params), conditioning,
      conditioning.unconditional(), guidance_scale)
  return denoiser, (jnp.arange(window) < given, x0)


def extend(velocity_fn, params, context_BFHWC, conditioning: Conditioning, rng,
           sigmas_K, *, num_frames: int, window: int,
           guidance_scale: float = 1., sample=samplers.euler):
  """Continues a video by `num_frames`.

  Args: as above and in `slide`.
  """
  def make(context, conditioning, rng):
    return continue_window(
        velocity_fn, params, context, conditioning, rng, sigmas_K,
        window=window, guidance_scale=guidance_scale, sample=sample)

  return slide(make, context_BFHWC, conditioning, rng, num_frames=num_frames,
               window=window)


def slide(make, context_BFHWC, conditioning: Conditioning, rng, *,
          num_frames: int, window: int):
  """Continues a video by `num_frames`, a scan over windows.

  Args:
    make: (context, conditioning of a window, rng) -> its new frames,
      [B, window - c, H, W, C].
    context_BFHWC: c clean latent frames. The next window's context is the last
      c frames that there are.
    conditioning: of context and new frames. Where the last window reaches
      beyond, its conditioning repeats and its frames are dropped.
    rng: folded with the number of the window.
    num_frames: to be made.
    window: frames per window, more than c.

  Returns:
    [B, num_frames, H, W, C].
  """
  given = context_BFHWC.shape[1]
  stride = window - given
  num_windows = -(-num_frames // stride)
  conditioning = conditioning.pad_frames(given + num_windows * stride)

  def body(context, index):
    made = make(context, conditioning.frames(index * stride, window),
                jax.random.fold_in(rng, index))
    latest = jnp.concatenate([context, made], axis=1)[:, -given:]
    return latest, made

  _, made = jax.lax.scan(body, context_BFHWC, jnp.arange(num_windows))
  made = jnp.moveaxis(made, 0, 1)
  video = made.reshape(
      context_BFHWC.shape[0], num_windows * stride, *context_BFHWC.shape[2:])
  return video[:, :num_frames]

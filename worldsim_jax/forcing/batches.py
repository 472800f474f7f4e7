"""From a batch of records to what the losses need.

A batch is a dict: `latents` [B, F, H, W, C], and optionally `actions` [B, F, A]
and `text` [B, L, C_text]. The first frames of a clip are its context: given,
never generated, never in a loss.
"""

import jax.numpy as jnp

from worldsim_jax.diffusion import flow
from worldsim_jax.models.conditioning import Conditioning


def conditioning(batch) -> Conditioning:
  """The streams of a batch, without images, which depend on the paradigm."""
  return Conditioning(
      text=batch.get('text'), actions=batch.get('actions')).headed()


def last_frames(batch, num_frames: int):
  """The batch of a clip's last frames, for losses that see only them."""
  return {name: x if name == 'text' else x[:, -num_frames:]
          for name, x in batch.items()}


def image_before_chunks(latents_BFHWC, chunk: int, sigma_BF=None):
  """For each frame the latest frame before its chunk, and its mask.

  With `sigma_BF` the past is only seen noisy (Diffusion Forcing), and the image
  is what x_σ tells of that frame: the best linear guess of latents of variance
  1, whose mask m is the share of the variance that it explains,

    y = (1 - σ) / n² · x_σ,    m = (1 - σ)² / n²,    n² = (1 - σ)² + σ²,   (1)

  so that a frame at σ = 0 is given as it is, m = 1, and noise is no image at
  all, m = 0. Between frames that correlate by r, the residual x0 - y has the
  variance 1 - (2 r - 1) m: for r ≥ ½ never more than x0 has, while x_σ in place
  of y would make it twice that at σ = 1.

  Args:
    latents_BFHWC: clean, or x_σ with sigma_BF.
    chunk: frames denoised together.
    sigma_BF: noise levels in [0, 1], or None if all is clean.

  Returns:
    [B, F, H, W, C] and [B, F]; zeros for the first chunk, which has no past.
  """
  frames = jnp.arange(latents_BFHWC.shape[1])
  index_F = frames // chunk * chunk - 1
  if sigma_BF is None:
    return _gather(latents_BFHWC, index_F)
  variance_BF = (1 - sigma_BF)**2 + sigma_BF**2
  guess = flow.per_frame((1 - sigma_BF) / variance_BF, latents_BFHWC)
  explained_BF = (1 - sigma_BF)**2 / variance_BF
  image, mask_BF = _gather(guess * latents_BFHWC, index_F)
  return image, mask_BF * explained_BF[:, jnp.maximum(index_F, 0)]


def image_before_future(latents_BFHWC, context_frames):
  """The same for a clip whose frames after the context are made at once.

  Args:
    latents_BFHWC: a clip.
    context_frames: int or traced scalar, 1 ≤ c < F. Frames from c on continue
      from frame c - 1; a context frame continues from the one before it.
  """
  frames = jnp.arange(latents_BFHWC.shape[1])
  return _gather(latents_BFHWC, jnp.minimum(frames, context_frames) - 1)


def group_actions(actions_BPA, time_stride: int):
  """Actions per pixel frame to actions per latent frame.

  Args:
    actions_BPA: normalised; action p led to pixel frame p. P = 1 + s (F - 1).
    time_stride: s, pixel frames per latent frame. Latent frame f stands for
      pixel frames s (f - 1) + 1 .. s f, the first one for frame 0 alone.

  Returns:
    [B, F, s A].
  """
  missing = -actions_BPA.shape[1] % time_stride
  padded = jnp.pad(actions_BPA, ((0, 0), (missing, 0), (0, 0)))
  batch, frames, components = padded.shape
  return padded.reshape(
      batch, frames // time_stride, time_stride * components)


def _gather(latents_BFHWC, index_F):
  known_F = (index_F >= 0).astype(latents_BFHWC.dtype)
  image = latents_BFHWC[:, jnp.maximum(index_F, 0)]
  image *= known_F[:, None, None, None]
  mask = jnp.broadcast_to(known_F, latents_BFHWC.shape[:2])
  return image, mask

"""The rollout: how a causal student makes video, in training and in streaming.

Video is made chunk by chunk. A chunk starts as noise and is denoised in a few
steps with fresh noise in between (Self Forcing, Huang et al. 2025, Alg. 1),

  x0 = x_σk - σk v_θ(x_σk, σk | cache),    x_σ(k+1) = (1 - σ) x0 + σ ε,

up to an exit step: the last one when sampling, a random one in training. Then
the clean chunk passes through the model once more, at σ ≈ 0, and its keys and
values are written into the cache. Gradients:

  - steps before the exit step run without gradient, in a loop whose trip count
    is a traced value, so one program serves every exit step;
  - the exit step is differentiable in the parameters;
  - cache and earlier frames are constants: the gradient of a later chunk with
    respect to an earlier one is exactly zero. (The paper says so; upstream's
    code lets it leak through the cache.)
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import context as contexts
from worldsim_jax.attention import kv_cache
from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import samplers
from worldsim_jax.forcing import batches
from worldsim_jax.models.conditioning import Conditioning


class Sampling(NamedTuple):
  """How a student samples.

  Attributes:
    sigmas: NumPy float32 [K], noisiest first, see flow.few_step_sigmas.
    chunk: latent frames per chunk.
    context_sigma: noise level at which clean chunks are written to the cache.
  """
  sigmas: np.ndarray
  chunk: int
  context_sigma: float = 0.


@flax.struct.dataclass
class RolloutState:
  """A video in progress: its cache, and its latest frame [B, H, W, C]."""
  cache: kv_cache.KVCache
  last_frame: jax.Array


def start(velocity_fn, params, cache, context_BFHWC, conditioning: Conditioning,
          sampling: Sampling) -> RolloutState:
  """Writes the given context frames into an empty cache.

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context, cache).
    params: of the student.
    cache: empty, for the batch of the context.
    context_BFHWC: clean latents; F is a multiple of the chunk.
    conditioning: of these frames, without image.
    sampling: see above.
  """
  frames = context_BFHWC.shape[1]
  image = batches.image_before_chunks(context_BFHWC, sampling.chunk)
  # σ = 0 whatever the context_sigma: given frames are clean.
  timesteps = jnp.zeros(context_BFHWC.shape[:2])
  _, kv = velocity_fn(
      params, context_BFHWC, timesteps, conditioning.with_image(*image),
      contexts.block_causal(frames, sampling.chunk), cache)
  return jax.lax.stop_gradient(
      RolloutState(cache.append(kv), context_BFHWC[:, -1]))


def generate_chunk(velocity_fn, params, state: RolloutState, noise_BFHWC,
                   conditioning: Conditioning, sampling: Sampling, exit_step,
                   rng) -> tuple[RolloutState, jax.Array]:
  """Makes the next chunk.

  Args:
    velocity_fn, params: as in `start`.
    state: the video so far.
    noise_BFHWC: standard normal; F is the chunk size.
    conditioning: of these frames, without image.
    sampling: see above.
    exit_step: index of the last denoising step to run, 0..K-1; may be traced.
    rng: for the noise between steps.

  Returns:
    The state with the chunk in its cache, and the chunk [B, F, H, W, C].
  """
  frames = noise_BFHWC.shape[:2]
  image = jnp.broadcast_to(state.last_frame[:, None], noise_BFHWC.shape)
  conditioning = conditioning.with_image(image, jnp.ones(frames, image.dtype))

  sigmas = jnp.asarray(sampling.sigmas)

  def denoise(params, x, step):
    sigma_BF = jnp.full(frames, sigmas[step])
    v, _ = velocity_fn(params, x, flow.timesteps(sigma_BF), conditioning, None,
                       state.cache)
    return flow.x0_from_velocity(x, v, sigma_BF)

  frozen = jax.lax.stop_gradient(params)

  def step_without_gradient(step, x):
    return samplers.renoise(jax.random.fold_in(rng, step),
                            denoise(frozen, x, step), sigmas[step + 1])

  x = jax.lax.fori_loop(
      0, exit_step, step_without_gradient, jax.lax.stop_gradient(noise_BFHWC))
  x0 = denoise(params, jax.lax.stop_gradient(x), exit_step)

  clean = samplers.renoise(jax.random.fold_in(rng, len(sampling.sigmas)),
                           jax.lax.stop_gradient(x0), sampling.context_sigma)
  timesteps = jnp.full(frames, flow.timesteps(sampling.context_sigma))
  _, kv = velocity_fn(frozen, clean, timesteps, conditioning, None, state.cache)
  state = RolloutState(state.cache.append(kv), x0[:, -1])
  return jax.lax.stop_gradient(state), x0


def rollout(velocity_fn, params, state: RolloutState, noise_BFHWC,
            conditioning: Conditioning, sampling: Sampling, exit_step,
            rng) -> tuple[RolloutState, jax.Array]:
  """Makes F frames, a scan over chunks of `generate_chunk`.

  Args:
    noise_BFHWC: standard normal for all F frames; F is a multiple of the chunk.
    conditioning: of these F frames.
    (others: as in `generate_chunk`; the exit step is the same for every chunk.)

  Returns:
    The final state and the video [B, F, H, W, C].
  """
  num_chunks = _num_chunks(noise_BFHWC.shape[1], sampling.chunk)

  def body(state, chunk):
    start_frame = chunk * sampling.chunk
    noise = jax.lax.dynamic_slice_in_dim(
        noise_BFHWC, start_frame, sampling.chunk, axis=1)
    return generate_chunk(
        velocity_fn, params, state, noise,
        conditioning.frames(start_frame, sampling.chunk), sampling, exit_step,
        jax.random.fold_in(rng, chunk))

  state, chunks = jax.lax.scan(body, state, jnp.arange(num_chunks))
  video = jnp.moveaxis(chunks, 0, 1)  # [B, chunks, chunk, H, W, C]
  return state, video.reshape(noise_BFHWC.shape)


def _num_chunks(num_frames: int, chunk: int) -> int:
  if num_frames % chunk:
    raise ValueError(f'chunk={chunk} must divide the {num_frames} frames of a '
                     'rollout (config.student.chunk).')
  return num_frames // chunk

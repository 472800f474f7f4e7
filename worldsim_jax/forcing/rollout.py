"""The rollout: how a causal student makes video, in training and in streaming.

Video is made chunk by chunk. A chunk starts as noise and is denoised in a few
steps with fresh noise in between (Self Forcing, Huang et al. 2025, Alg. 1),

  x0 = x_σk - σk v_θ(x_σk, σk | cache),    x_σ(k+1) = (1 - σ) x0 + σ ε,

up to an exit step: the last one when sampling, a random one in training. Then
the clean chunk passes through the model once more, at σ ≈ 0, and its keys and
values are written into the cache. Gradients:

  - all passes run without gradient, in a loop whose trip count is a traced
    value, so one program serves every exit step;
  - the exit step is differentiable in the parameters. Its backward pass takes
    all chunks at once: their inputs are known by then, and so is the cache,
    which holds what each of them read. Kept for it are those two, instead of a
    cache per chunk (6 GiB, for 21 frames of Wan 1.3B), and parameters that are
    split between devices are gathered once, not once per chunk;
  - cache and earlier frames are constants: the gradient of a later chunk with
    respect to an earlier one is exactly zero. (The paper says so; upstream's
    code lets it leak through the cache.)
"""

import functools
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


def mean_passes(sampling: Sampling) -> float:
  """Passes per chunk, over all exit steps: 1 to K, and one that is clean."""
  return (len(sampling.sigmas) + 1) / 2 + 1


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
  state, x0, _ = _generate_chunk(
      velocity_fn, params, state, noise_BFHWC, conditioning, sampling,
      exit_step, rng)
  return state, x0


def _generate_chunk(velocity_fn, params, state, noise_BFHWC, conditioning,
                    sampling, exit_step, rng):
  """As `generate_chunk`, and what the exit step denoised."""
  frames = noise_BFHWC.shape[:2]
  image = jnp.broadcast_to(state.last_frame[:, None], noise_BFHWC.shape)
  conditioning = conditioning.with_image(image, jnp.ones(frames, image.dtype))
  num_steps = len(sampling.sigmas)
  # The noise level of every pass; the last one is of the clean chunk.
  sigmas = jnp.append(jnp.asarray(sampling.sigmas), sampling.context_sigma)

  def one_pass(index, carry):
    """All passes are one program, which is the better part of a compilation."""
    x, x0, _ = carry
    is_clean = index > exit_step
    level = jnp.where(is_clean, num_steps, index)
    key = jax.random.fold_in(rng, jnp.where(is_clean, num_steps, index - 1))
    seen = jnp.where(index == 0, noise_BFHWC,
                     samplers.renoise(key, x0, sigmas[level]))
    sigma_BF = jnp.full(frames, sigmas[level])
    v, kv = velocity_fn(params, seen, flow.timesteps(sigma_BF), conditioning,
                        None, state.cache)
    made = flow.x0_from_velocity(seen, v, sigma_BF)
    return (jnp.where(is_clean, x, seen), jnp.where(is_clean, x0, made), kv)

  nothing = jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype),
      jax.eval_shape(lambda: one_pass(0, (noise_BFHWC, noise_BFHWC, None))[2]))
  x, x0, kv = jax.lax.fori_loop(
      0, exit_step + 2, one_pass, (noise_BFHWC, noise_BFHWC, nothing))
  return RolloutState(state.cache.append(kv), x0[:, -1]), x0, x


def rollout(velocity_fn, params, state: RolloutState, noise_BFHWC,
            conditioning: Conditioning, sampling: Sampling, exit_step,
            rng, *, given: int) -> tuple[RolloutState, jax.Array]:
  """Makes F frames, a scan over chunks; differentiable in the parameters.

  Args:
    state: whose cache has a slot for every frame of the video.
    noise_BFHWC: standard normal for all F frames; F is a multiple of the chunk.
    conditioning: of these F frames.
    given: frames that the state's cache holds already, a multiple of the chunk.
    (others: as in `generate_chunk`; the exit step is the same for every chunk.)

  Returns:
    The final state and the video [B, F, H, W, C].

  Raises:
    ValueError: if the cache has no slot for every frame of the video.
  """
  num_frames = noise_BFHWC.shape[1]
  num_chunks = _num_chunks(num_frames, sampling.chunk)
  context = contexts.cached_chunks(
      given, num_frames, sampling.chunk, state.cache.num_slots)
  frozen, state, noise_BFHWC = jax.lax.stop_gradient(
      (params, state, noise_BFHWC))

  def body(state, chunk):
    start_frame = chunk * sampling.chunk
    noise = jax.lax.dynamic_slice_in_dim(
        noise_BFHWC, start_frame, sampling.chunk, axis=1)
    image = jnp.broadcast_to(state.last_frame[:, None], noise.shape)
    state, x0, x = _generate_chunk(
        velocity_fn, frozen, state, noise,
        conditioning.frames(start_frame, sampling.chunk), sampling, exit_step,
        jax.random.fold_in(rng, chunk))
    return state, (x0, x, image)

  state, made = jax.lax.scan(body, state, jnp.arange(num_chunks))
  video, noisy, image = (  # From [chunks, B, chunk, H, W, C].
      jnp.moveaxis(x, 0, 1).reshape(noise_BFHWC.shape) for x in made)
  conditioning = conditioning.with_image(image, jnp.ones(image.shape[:2]))
  sigma = jnp.asarray(sampling.sigmas)[exit_step]

  exit_steps = _known_value(functools.partial(_denoise, velocity_fn))
  return state, exit_steps(
      video, params, noisy, sigma, conditioning, context, state.cache)


def _denoise(velocity_fn, params, x, sigma, conditioning, context, cache):
  sigma_BF = jnp.full(x.shape[:2], sigma)
  v, _ = velocity_fn(params, x, flow.timesteps(sigma_BF), conditioning, context,
                     cache)
  return flow.x0_from_velocity(x, v, sigma_BF)


def _known_value(fn):
  """fn(params, *inputs) whose value is known; computed for its gradient only.

  fn must not close over arrays of the program.

  Returns:
    A function (value, params, *inputs) -> value with the gradient of fn with
    respect to params.
  """
  @jax.custom_vjp
  def known(value, params, *inputs):
    del params, inputs
    return value

  def forward(value, params, *inputs):
    return value, (params, inputs)

  def backward(kept, gradient):
    params, inputs = kept
    _, pullback = jax.vjp(lambda params: fn(params, *inputs), params)
    return None, *pullback(gradient), *[None] * len(inputs)

  known.defvjp(forward, backward)
  return known


def _num_chunks(num_frames: int, chunk: int) -> int:
  if num_frames % chunk:
    raise ValueError(f'chunk={chunk} must divide the {num_frames} frames of a '
                     'rollout (config.student.chunk).')
  return num_frames // chunk

"""The rollout: how a causal student makes video, in training and in streaming.

Video is made chunk by chunk. A chunk starts as noise and is denoised through a
list of noise levels (Self Forcing, Huang et al. 2025, Alg. 1),

  x0 = x_σk - σk v_θ(x_σk, σk | cache),                                  (1)
  x_σ(k+1) = (1 - σ(k+1)) x0 + σ(k+1) ε         'renoise', ε fresh,      (2)
  x_σ(k+1) = x_σk + (σ(k+1) - σk) v             'euler', the flow ODE,   (3)

up to an exit step: the last one when sampling, a random one in training. (2) is
for students distilled to a few steps, (3) for those that are not. Then the
clean chunk passes through the model once more, at σ ≈ 0, and its keys and
values are written into the cache. Gradients:

  - all passes run without gradient, in a loop whose trip count is a traced
    value, so one program serves every exit step;
  - the exit step is differentiable in the parameters, see `exit_pass`; of a
    long rollout only that of the last frames;
  - cache and earlier frames are constants: the gradient of a later chunk with
    respect to an earlier one is exactly zero. (The paper says so; upstream's
    code lets it leak through the cache.)

A cache that is shorter than the video rolls on in training as it does in
streaming: it is the same function that makes the chunks. For a recurrent model
(models/recurrent.py) the cache is its state, one latent: every pass over a
chunk begins with the state before it, and only that over the clean chunk moves
it on. Nothing grows with the video, and the state never holds all of it.
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
from worldsim_jax.diffusion import guidance
from worldsim_jax.diffusion import samplers
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import exit_pass
from worldsim_jax.models import build
from worldsim_jax.models import recurrent
from worldsim_jax.models.conditioning import Conditioning

STEPS = ('renoise', 'euler')


class Sampling(NamedTuple):
  """How a student samples.

  Attributes:
    sigmas: NumPy float32 [K], noisiest first, see flow.few_step_sigmas (or, for
      many steps, flow.sampling_sigmas).
    chunk: latent frames per chunk.
    context_sigma: the noise level that the network is told when clean chunks
      are written to the cache.
    context_noise: the one that they have then; None for the same. Upstream adds
      noise in training only, so its inference is context_noise=0; and its
      training adds σ = 0.00498 where it tells 0, the end of its grid.
    step: from one level to the next, of STEPS: eq. (2) or (3).
    guidance_scale: w of v_uncond + w (v - v_uncond); 1 is none. With another,
      the cache holds both halves, see `cache_batch`.
  """
  sigmas: np.ndarray
  chunk: int
  context_sigma: float = 0.
  context_noise: float | None = None
  step: str = 'renoise'
  guidance_scale: float = 1.


def of_config(config) -> Sampling:
  """How the student of config.student samples."""
  student = config.student
  return Sampling(
      build.student_sigmas(config), student.chunk, student.context_sigma,
      step=student.get('step', 'renoise'))


@flax.struct.dataclass
class RolloutState:
  """A video in progress: its cache, its latest frame [B, H, W, C], and where
  that one's view heads, [B] (Conditioning.heading)."""
  cache: kv_cache.KVCache | recurrent.RecurrentState
  last_frame: jax.Array
  heading: jax.Array

  def next(self, cache, frames_BFHWC, conditioning) -> 'RolloutState':
    """After frames whose heading the conditioning has, if they have any."""
    heading = conditioning.heading
    return RolloutState(
        cache, frames_BFHWC[:, -1],
        self.heading if heading is None else heading[:, -1])


class _Chunk(NamedTuple):
  """A chunk, what its exit step denoised, and what was written to the cache."""
  x0: jax.Array
  noisy: jax.Array
  kv: kv_cache.KeyValues | recurrent.States


def mean_passes(sampling: Sampling) -> float:
  """Passes per chunk, over all exit steps: 1 to K, and one that is clean."""
  return (len(sampling.sigmas) + 1) / 2 + 1


def cache_batch(sampling: Sampling, batch: int) -> int:
  """The batch of the cache for that many videos: with guidance, twice that."""
  return batch if sampling.guidance_scale == 1. else 2 * batch


def start(velocity_fn, params, cache, context_BFHWC, conditioning: Conditioning,
          sampling: Sampling) -> RolloutState:
  """Writes the given context frames into an empty cache.

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context, cache).
    params: of the student.
    cache: empty, for the batch of the context (see `cache_batch`).
    context_BFHWC: clean latents; F is a multiple of the chunk.
    conditioning: of these frames, without image.
    sampling: see above.

  Raises:
    ValueError: if chunk, frames and cache do not fit together.
  """
  velocity_fn = _guided(velocity_fn, sampling, conditioning)
  _check_batch(cache, sampling, len(context_BFHWC))
  image = batches.image_before_chunks(context_BFHWC, sampling.chunk)
  conditioning = conditioning.headed().with_image(*image)
  batch, frames = context_BFHWC.shape[:2]

  def write(cache, first, size):
    return _written(
        velocity_fn, params, cache,
        jax.lax.dynamic_slice_in_dim(context_BFHWC, first, size, 1),
        conditioning.frames(first, size), sampling)

  if cache.takes(frames):
    cache = write(cache, 0, frames)
  else:
    cache, _ = jax.lax.scan(
        lambda cache, i: (write(cache, i * sampling.chunk, sampling.chunk), ()),
        cache, jnp.arange(_num_chunks(frames, sampling.chunk)))
  state = RolloutState(cache, context_BFHWC[:, -1], jnp.zeros(batch))
  return jax.lax.stop_gradient(state.next(cache, context_BFHWC, conditioning))


def tell(velocity_fn, params, state: RolloutState, chunk_BFHWC,
         conditioning: Conditioning, sampling: Sampling) -> RolloutState:
  """Writes a given chunk into a video in progress, instead of making one.

  Args:
    chunk_BFHWC: clean latents; F is the chunk size.
    conditioning: of these frames, without image.
    (others: as in `generate_chunk`.)
  """
  _check_batch(state.cache, sampling, len(chunk_BFHWC))
  conditioning = conditioning.headed(state.heading)
  cache = _written(
      _guided(velocity_fn, sampling, conditioning), params, state.cache,
      chunk_BFHWC, conditioning.with_image(*_image(state, chunk_BFHWC)),
      sampling)
  return jax.lax.stop_gradient(state.next(cache, chunk_BFHWC, conditioning))


def _written(velocity_fn, params, cache, x_BFHWC, conditioning, sampling):
  """The cache with whole chunks of given frames more."""
  # σ = 0 whatever the context_sigma: given frames are clean.
  _, kv = velocity_fn(
      params, x_BFHWC, jnp.zeros(x_BFHWC.shape[:2]), conditioning,
      contexts.block_causal(x_BFHWC.shape[1], sampling.chunk), cache)
  return cache.append(kv)


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

  Raises:
    ValueError: if exit step, chunk and cache do not fit together.
  """
  _check_exit_step(exit_step, sampling, num_chunks=None)
  _check_batch(state.cache, sampling, len(noise_BFHWC))
  state, made = _generate_chunk(
      _guided(velocity_fn, sampling, conditioning), params, state, noise_BFHWC,
      conditioning, sampling, exit_step, rng)
  return state, made.x0


def _generate_chunk(velocity_fn, params, state, noise_BFHWC, conditioning,
                    sampling, exit_step, rng) -> tuple[RolloutState, _Chunk]:
  """As `generate_chunk`, of a velocity_fn with guidance; more is returned."""
  frames = noise_BFHWC.shape[:2]
  conditioning = conditioning.headed(state.heading).with_image(
      *_image(state, noise_BFHWC))
  num_steps = len(sampling.sigmas)
  # The noise level of every pass; the last one is of the clean chunk.
  sigmas = jnp.append(jnp.asarray(sampling.sigmas), sampling.context_sigma)
  added = sigmas
  if sampling.context_noise is not None:
    added = sigmas.at[-1].set(sampling.context_noise)

  def one_pass(index, carry):
    """All passes are one program, which is the better part of a compilation."""
    x, x0, _ = carry
    is_clean = index > exit_step
    level = jnp.where(is_clean, num_steps, index)
    key = jax.random.fold_in(rng, jnp.where(is_clean, num_steps, index - 1))
    seen = samplers.renoise(key, x0, added[level])
    if sampling.step == 'euler':
      previous = sigmas[jnp.maximum(index - 1, 0)]
      seen = jnp.where(is_clean, seen, samplers.euler_step(
          x, x0, previous, sigmas[level]))
    seen = jnp.where(index == 0, noise_BFHWC, seen)
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
  return (state.next(state.cache.append(kv), x0, conditioning),
          _Chunk(x0, x, kv))


def rollout(velocity_fn, params, state: RolloutState, noise_BFHWC,
            conditioning: Conditioning, sampling: Sampling, exit_step,
            rng, *, given: int, gradient_frames: int | None = None
            ) -> tuple[RolloutState, jax.Array]:
  """Makes F frames, a scan over chunks; differentiable in the parameters.

  Args:
    state: whose cache may be shorter than the video: then it rolls on.
    noise_BFHWC: standard normal for all F frames; F is a multiple of the chunk.
    conditioning: of these F frames.
    exit_step: of all chunks, or one for each, int [F / chunk]; may be traced.
    given: frames of the video before these, a multiple of the chunk; the
      state's cache has seen them.
    gradient_frames: only so many frames at the end are differentiable, a
      multiple of the chunk; None for all of them.
    (others: as in `generate_chunk`.)

  Returns:
    The final state and the video [B, F, H, W, C].

  Raises:
    ValueError: if exit step, chunk, frames and cache do not fit together.
  """
  num_frames, chunk = noise_BFHWC.shape[1], sampling.chunk
  num_chunks = _num_chunks(num_frames, chunk)
  first = num_chunks - _gradient_chunks(gradient_frames, num_frames, chunk)
  _check_exit_step(exit_step, sampling, num_chunks)
  _check_batch(state.cache, sampling, len(noise_BFHWC))
  exit_steps = jnp.broadcast_to(exit_step, (num_chunks,))
  conditioning = conditioning.headed(state.heading)
  velocity_fn = _guided(velocity_fn, sampling, conditioning)
  frozen, state, noise_BFHWC = jax.lax.stop_gradient(
      (params, state, noise_BFHWC))
  make = functools.partial(
      _make_chunks, velocity_fn, frozen, noise_BFHWC, conditioning, sampling,
      exit_steps, rng)

  early = noise_BFHWC[:, :0]
  if first:
    state, (early, *_) = make(state, 0, first)
  before, rolls = state.cache, not state.cache.holds(given + num_frames)
  state, (video, noisy, image, kv) = make(state, first, num_chunks, rolls)
  conditioning = conditioning.frames(first * chunk, video.shape[1]).with_image(
      image, jnp.ones(image.shape[:2]))
  sigmas = jnp.asarray(sampling.sigmas)[exit_steps[first:]]
  sigma_BF = jnp.broadcast_to(jnp.repeat(sigmas, chunk), video.shape[:2])
  if rolls:
    gradient_of, past = exit_pass.chunk_by_chunk, (before, kv)
  else:
    context = contexts.cached_chunks(
        given + first * chunk, video.shape[1], chunk, state.cache.num_slots)
    gradient_of, past = exit_pass.all_at_once, (context, state.cache)
  video = exit_pass.known_value(functools.partial(gradient_of, velocity_fn))(
      video, params, noisy, sigma_BF, conditioning, *past)
  return state, jnp.concatenate([early, video], axis=1)


def _make_chunks(velocity_fn, params, noise_BFHWC, conditioning, sampling,
                 exit_steps, rng, state, first: int, end: int,
                 keeps_kv: bool = False):
  """Chunks first .. end-1 of a rollout, without gradient.

  Returns:
    The state after them, and (video, what the exit steps denoised, images), all
    [B, F, H, W, C], with each chunk's update of the cache, stacked, or None.
  """
  size = sampling.chunk

  def body(state, now):
    index, exit_step = now
    noise = jax.lax.dynamic_slice_in_dim(noise_BFHWC, index * size, size, 1)
    image, _ = _image(state, noise)
    state, made = _generate_chunk(
        velocity_fn, params, state, noise,
        conditioning.frames(index * size, size), sampling, exit_step,
        jax.random.fold_in(rng, index))
    kv = made.kv if keeps_kv else None
    return state, ((made.x0, made.noisy, image), kv)

  state, (frames, kv) = jax.lax.scan(
      body, state, (jnp.arange(first, end), exit_steps[first:end]))
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(
      len(noise_BFHWC), -1, *noise_BFHWC.shape[2:])
  return state, (*map(join, frames), kv)


def _image(state, like_BFHWC):
  """The image that a chunk continues from, and its mask."""
  image = jnp.broadcast_to(state.last_frame[:, None], like_BFHWC.shape)
  return image, jnp.ones(like_BFHWC.shape[:2], image.dtype)


def _guided(velocity_fn, sampling, conditioning):
  """The same function with guidance; its cache then holds both halves."""
  if sampling.step not in STEPS:
    raise ValueError(f'Sampling.step={sampling.step!r} is not one of {STEPS}.')
  scale = sampling.guidance_scale
  if cache_batch(sampling, 1) == 1:
    return velocity_fn
  if conditioning.text is None and conditioning.actions is None:
    raise ValueError(
        f'Sampling.guidance_scale={scale} guides by text or actions, and there '
        'are neither: it must be 1 for this model.')

  def fn(params, x, timesteps, conditioning, context, cache):
    one = lambda x, t, given: velocity_fn(params, x, t, given, context, cache)
    return guidance.guided(one, conditioning, conditioning.unconditional(),
                           scale)(x, timesteps)

  return fn


def _check_exit_step(exit_step, sampling, num_chunks: int | None):
  """Values can only be checked where they are known."""
  shapes = [()] + [(n,) for n in [num_chunks] if n is not None]
  if jnp.shape(exit_step) not in shapes:
    raise ValueError(
        f'exit_step has shape {jnp.shape(exit_step)}; a rollout takes one for '
        f'all, or one for each of its {num_chunks} chunks.')
  num_steps = len(sampling.sigmas)
  if isinstance(exit_step, jax.core.Tracer):
    return
  if np.any(np.less(exit_step, 0) | np.greater_equal(exit_step, num_steps)):
    raise ValueError(
        f'exit_step={exit_step} must be one of the {num_steps} denoising steps '
        f'0 to {num_steps - 1} (config.student.timesteps).')


def _check_batch(cache, sampling, batch: int):
  found, wanted = cache.batch, cache_batch(sampling, batch)
  if found != wanted:
    raise ValueError(
        f'a cache for {found} videos was given for {batch}; with guidance_scale'
        f'={sampling.guidance_scale} it must be for {wanted} '
        '(rollout.cache_batch).')


def _num_chunks(num_frames: int, chunk: int) -> int:
  if chunk < 1 or num_frames < 1 or num_frames % chunk:
    raise ValueError(f'chunk={chunk} must divide the {num_frames} frames of a '
                     'rollout (config.student.chunk).')
  return num_frames // chunk


def _gradient_chunks(gradient_frames, num_frames: int, chunk: int) -> int:
  frames = num_frames if gradient_frames is None else gradient_frames
  if not 0 < frames <= num_frames or frames % chunk:
    raise ValueError(
        f'gradient_frames={frames} must be a multiple of chunk={chunk}, at '
        f'most the {num_frames} frames of a rollout.')
  return frames // chunk

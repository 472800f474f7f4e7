"""A student of two layers with random weights, and how it streams.

Sizes: two frames of context and six new ones, of two by three tokens.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import kv_cache
from worldsim_jax.diffusion import samplers
from worldsim_jax.forcing import rollout
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.models.transformer import VideoTransformer

B, H, W, C, A = 1, 2, 3, 3, 3
GIVEN, NEW = 2, 6
SIGMAS = np.float32([1.0, 0.9, 0.6])
KEY = 5


def draw(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


CONTEXT, NOISE = draw(B, GIVEN, H, W, C), draw(B, NEW, H, W, C, seed=1)
ACTIONS = Conditioning(actions=draw(B, GIVEN + NEW, A, seed=2))
MODEL = VideoTransformer(
    dim=16,
    ffn_dim=32,
    num_heads=2,
    num_layers=2,
    latent_channels=C,
    patch=(1, 1),
    action_dim=A,
    image=True,
    compass=90.,
)


def velocity_fn(params, *args):
  return MODEL.apply({'params': params}, *args)


@functools.cache
def random_params(seed=0):
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(
      MODEL.init, jax.random.key(0), CONTEXT, np.zeros((B, GIVEN))
  )
  return jax.tree.map(
      lambda s: np.float32(0.2 * rng.normal(size=s.shape)), shapes['params']
  )


def empty_cache(num_slots, batch=B, sink=0, relative=False):
  return kv_cache.empty(
      num_layers=2,
      batch=batch,
      num_slots=num_slots,
      tokens_per_frame=H * W,
      num_heads=2,
      head_dim=8,
      sink=sink,
      relative=relative,
  )


def started(sampling, cache, given=ACTIONS):
  """A video whose context is in the cache."""
  start = jax.jit(
      functools.partial(rollout.start, velocity_fn, sampling=sampling)
  )
  return start(random_params(), cache, CONTEXT, given.frames(0, GIVEN))


def streamed(sampling, state, exit_steps):
  """The same video chunk by chunk, as a stream makes it."""
  chunk = sampling.chunk

  @jax.jit
  def one_chunk(state, index, exit_step):
    cut = lambda x: jax.lax.dynamic_slice_in_dim(x, index * chunk, chunk, 1)
    return rollout.generate_chunk(
        velocity_fn, random_params(), state, cut(NOISE),
        ACTIONS.frames(GIVEN + index * chunk, chunk), sampling, exit_step,
        jax.random.fold_in(jax.random.key(KEY), index),
    )

  made = []
  for index, exit_step in enumerate(exit_steps):
    state, x0 = one_chunk(state, index, exit_step)
    made.append(x0)
  return state, np.concatenate(made, axis=1)


def rolled_out(sampling, state, exit_steps, params=None, noise=NOISE, **kwargs):
  """The same video as training makes it."""
  return rollout.rollout(
      velocity_fn, random_params() if params is None else params, state, noise,
      ACTIONS.frames(GIVEN, NEW), sampling, exit_steps, jax.random.key(KEY),
      given=GIVEN, **kwargs,
  )


@jax.jit
def denoised(params, x, sigma, given, cache, weight):
  """x0 and keys and values of a pass; the gradient of sum(weight x0)."""

  def total(params):
    timesteps = jnp.full(x.shape[:2], 1000 * sigma)
    v, kv = velocity_fn(params, x, timesteps, given, None, cache)
    x0 = x - sigma * v
    return jnp.sum(weight * x0), (x0, kv)

  gradient, made = jax.grad(total, has_aux=True)(params)
  return made, gradient


def written_out(state, weight, sampling, exit_steps):
  """Self Forcing in loops, for students without context noise.

  Returns:
    The video, and the gradient of sum(weight video): that of each chunk's exit
    step, whose input and cache are constants.
  """
  params, chunk, made, gradients = random_params(), sampling.chunk, [], []
  for index, exit_step in enumerate(exit_steps):
    now = slice(index * chunk, (index + 1) * chunk)
    image = jnp.broadcast_to(state.last_frame[:, None], (B, chunk, H, W, C))
    given = ACTIONS.headed().frames(GIVEN + index * chunk, chunk).with_image(
        image, jnp.ones((B, chunk))
    )
    pass_of = lambda x, sigma: denoised(
        params, x, sigma, given, state.cache, weight[:, now]
    )
    key = jax.random.fold_in(jax.random.key(KEY), index)
    x = NOISE[:, now]
    for step in range(exit_step + 1):
      (x0, _), gradient = pass_of(x, sampling.sigmas[step])
      if step < exit_step:
        x = samplers.renoise(
            jax.random.fold_in(key, step), x0, sampling.sigmas[step + 1]
        )
    (_, kv), _ = pass_of(x0, np.float32(0))
    state = state.next(state.cache.append(kv), x0, given)
    made.append(x0)
    gradients.append(gradient)
  return jnp.concatenate(made, axis=1), jax.tree.map(
      lambda *x: sum(x), *gradients
  )

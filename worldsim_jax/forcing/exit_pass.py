"""The gradient of a rollout, computed after it.

When a rollout is done, the input x_σ, the noise level and the past of every
chunk are known, and constants. So what carries the gradient,

  x0(θ) = x_σ - σ v_θ(x_σ, σ | cache),                                   (1)

is one more pass per chunk, whose value is known, too: only its gradient is
computed, when the backward pass asks for it. In two ways, by the cache:

  all at once     a cache that holds the whole video at its end holds what each
                  chunk read. One pass over all frames, and a mask. Parameters
                  that are split between devices are gathered once
  chunk by chunk  a rolling cache has forgotten by then what the first chunks
                  read, and with relative positions the same frame lies at
                  another distance for every chunk. The rollout's keys and
                  values are written into its first cache once more; before each
                  write, it is what that chunk read

Kept for it are inputs and keys and values, instead of a cache per chunk.
"""

import jax
import jax.numpy as jnp

from worldsim_jax.attention import kv_cache
from worldsim_jax.diffusion import flow
from worldsim_jax.parallel import layout


def known_value(gradient_of):
  """A differentiable function of parameters whose value is known.

  Args:
    gradient_of: (cotangent, params, *inputs) -> gradient, like params. It must
      not close over arrays of the program.

  Returns:
    A function (value, params, *inputs) -> value. Inputs have no gradient.
  """
  @jax.custom_vjp
  def known(value, params, *inputs):
    del params, inputs
    return value

  def forward(value, params, *inputs):
    return value, (params, inputs)

  def backward(kept, cotangent):
    params, inputs = kept
    gradient = gradient_of(cotangent, params, *inputs)
    return None, gradient, *[None] * len(inputs)

  known.defvjp(forward, backward)
  return known


def all_at_once(velocity_fn, cotangent_BFHWC, params, x_BFHWC, sigma_BF,
                conditioning, context, cache: kv_cache.KVCache):
  """The gradient of eq. (1) for frames that are one call of the network.

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context, cache).
    cotangent_BFHWC: of the frames' x0.
    params: of the student.
    x_BFHWC, sigma_BF: what the exit steps denoised, from which noise levels.
    conditioning: of these frames, with image.
    context: who reads what of the cache, see contexts.cached_chunks; None where
      all frames read all of it.
    cache: that holds what they read.

  Returns:
    The gradient, like params.
  """
  def denoise(params):
    v, _ = velocity_fn(params, x_BFHWC, flow.timesteps(sigma_BF), conditioning,
                       context, cache)
    return flow.x0_from_velocity(x_BFHWC, v, sigma_BF)

  return jax.vjp(denoise, params)[1](cotangent_BFHWC)[0]


def chunk_by_chunk(velocity_fn, cotangent_BFHWC, params, x_BFHWC, sigma_BF,
                   conditioning, cache, chunks):
  """The same, for a cache that rolls on while the frames are made.

  Args:
    cache: as it was before the first of these frames; a KVCache, or the state
      of a recurrent model, which is forgotten at every frame.
    chunks: what was written after each chunk: its updates, stacked.
    (others: as above)
  """
  num_chunks = len(jax.tree.leaves(chunks)[0])
  size = x_BFHWC.shape[1] // num_chunks

  def add_chunk(carry, inputs):
    cache, total = carry
    index, kv = inputs
    cut = lambda y: jax.lax.dynamic_slice_in_dim(y, index * size, size, 1)
    gradient = all_at_once(
        velocity_fn, cut(cotangent_BFHWC), params, cut(x_BFHWC), cut(sigma_BF),
        conditioning.frames(index * size, size), None, cache)
    # Split like the parameters, or every device would sum up all of it.
    total = layout.constrain(jax.tree.map(jnp.add, total, gradient))
    return (cache.append(kv), total), None

  start = (cache, jax.tree.map(jnp.zeros_like, params))
  (_, total), _ = jax.lax.scan(
      add_chunk, start, (jnp.arange(num_chunks), chunks))
  return total

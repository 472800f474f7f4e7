"""Attention over a sequence that is split between devices.

Each device of the mesh's `context` axis holds some tokens of *every* frame, so
frame masks, per-frame modulation and the KV cache are the same on all of them,
and every device has the same work under any mask. Three cases:

  cross       keys are another sequence, which all devices have: no exchange;
              queries that do not divide are on all devices, too
  all-to-all  heads are split instead of tokens for the time of the attention
              (DeepSpeed Ulysses, Jacobs et al. 2023): when heads divide
  ring        keys and values travel around; softmax is accumulated block by
              block (Liu et al. 2023): for any number of heads

The accumulation keeps, per query, the largest logit m, the sum l of e^(s - m)
and the sum o of e^(s - m) v; a block with m', l', o' joins as

  M = max(m, m'),  l ← l e^(m - M) + l' e^(m' - M),  o likewise.         (1)

In the end, out = o / l.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from worldsim_jax.parallel import layout

# A large finite logit: a row without keys gives a mean, never a NaN.
MASKED = -1e30
_AXIS = 'context'
_TOKENS, _HEADS = 2, 3  # Dimensions of [B, F, N, H, D].


def attend(local, q_BFNHD, k_BGMHD, v_BGMHD, mask_FG, key_mask_BM, bias_HNM,
           implementation: str = 'auto'):
  """Runs `local` where all pairs that it needs are on one device.

  Args:
    local: (q, k, v, mask_FG, key_mask_BM, bias_HNM) -> out, for what is on one
      device.
    implementation: of `local`; the ring is its own.
    (others: as in `attention.attend`; whole arrays, split or not.)

  Raises:
    ValueError: if the context axis does not divide the tokens of a frame that
      reads its own sequence, or a kernel was asked for where only the ring can
      be.
  """
  sizes = layout.ambient_sizes()
  if math.prod(sizes.values()) == 1:
    return local(q_BFNHD, k_BGMHD, v_BGMHD, mask_FG, key_mask_BM, bias_HNM)
  context = sizes.get(_AXIS, 1)
  tokens, heads = q_BFNHD.shape[_TOKENS], q_BFNHD.shape[_HEADS]
  is_cross = (key_mask_BM is not None or bias_HNM is not None
              or k_BGMHD.shape[_TOKENS] != tokens)
  is_divided = context > 1 and tokens % context == 0
  if context > 1 and not is_divided and not is_cross:
    raise ValueError(
        f'{tokens} tokens of a frame cannot be split over {context} devices '
        '(config.mesh.context).')
  batch = layout.batch_axes(len(q_BFNHD))
  # Kernels are not split by the compiler: each gets what its device holds.
  split_heads = layout.dividing(heads, ('tensor',), sizes)
  split_tokens = _AXIS if is_divided else None
  queries = PartitionSpec(batch, None, split_tokens, split_heads)
  keys = PartitionSpec(batch, None, None, split_heads) if is_cross else queries
  own_heads = heads // (sizes['tensor'] if split_heads else 1)
  is_ring = context > 1 and not is_cross and own_heads % context != 0
  if is_ring and implementation not in ('auto', 'xla'):
    raise ValueError(
        f'attention implementation={implementation!r} (config.model.attention) '
        f'is no ring, and {own_heads} heads of a device do not divide by '
        f'config.mesh.context={context}.')
  if is_cross or context == 1:
    run = local
  elif is_ring:
    run = _ring
  else:
    run = functools.partial(_all_to_all, local)
  # A constant mask stays a constant; any other is an argument like the rest.
  constant = None if isinstance(mask_FG, jax.Array) else mask_FG
  others = (mask_FG if constant is None else None, key_mask_BM, bias_HNM)
  specs = (PartitionSpec(), PartitionSpec(batch),
           PartitionSpec(split_heads, split_tokens))
  specs = tuple(spec if x is not None else None
                for x, spec in zip(others, specs))

  def manual(q, k, v, mask, key_mask, bias):
    return run(q, k, v, constant if mask is None else mask, key_mask, bias)

  return jax.shard_map(
      manual, in_specs=(queries, keys, keys, *specs), out_specs=queries,
      check_vma=False)(q_BFNHD, k_BGMHD, v_BGMHD, *others)


def _all_to_all(local, q, k, v, mask_FG, *unused_of_cross):
  """Tokens to heads, attention, heads to tokens."""
  exchange = functools.partial(lax.all_to_all, axis_name=_AXIS, tiled=True)
  q, k, v = (exchange(x, split_axis=_HEADS, concat_axis=_TOKENS)
             for x in (q, k, v))
  out = local(q, k, v, mask_FG, None, None)
  return exchange(out, split_axis=_TOKENS, concat_axis=_HEADS)


def _ring(q_BFNHD, k_BGNHD, v_BGNHD, mask_FG, *unused_of_cross):
  """Eq. (1), with keys and values passed on after each block."""
  size = lax.axis_size(_AXIS)
  neighbours = [(i, (i + 1) % size) for i in range(size)]
  scale = q_BFNHD.shape[-1] ** -0.5

  @jax.checkpoint
  def block(carry, keys_values):
    largest, total, out = carry
    k, v = keys_values
    logits = jnp.einsum('bfnhd,bgmhd->bhfngm', q_BFNHD * scale, k,
                        preferred_element_type=jnp.float32)
    if mask_FG is not None:
      logits = jnp.where(jnp.asarray(mask_FG)[:, None, :, None], logits,
                         MASKED)
    new = jnp.maximum(largest, lax.stop_gradient(logits.max((-2, -1))))
    weights = jnp.exp(logits - new[..., None, None])
    kept = jnp.exp(largest - new)
    total = total * kept + weights.sum((-2, -1))
    values = jnp.einsum('bhfngm,bgmhd->bhfnd', weights.astype(v.dtype), v,
                        preferred_element_type=jnp.float32)
    return new, total, out * kept[..., None] + values

  def step(carry, _):
    accumulated, keys_values = carry
    accumulated = block(accumulated, keys_values)
    keys_values = lax.ppermute(keys_values, _AXIS, neighbours)
    return (accumulated, keys_values), None

  batch, frames, tokens, heads, dim = q_BFNHD.shape
  rows = (batch, heads, frames, tokens)
  nothing = (jnp.full(rows, MASKED), jnp.zeros(rows), jnp.zeros((*rows, dim)))
  ((_, total, out), _), _ = lax.scan(
      step, (nothing, (k_BGNHD, v_BGNHD)), length=size)
  out = out / total[..., None]
  return out.transpose(0, 2, 3, 1, 4).astype(q_BFNHD.dtype)

"""Attention over a sequence that is split between devices.

Each device of the mesh's `context` axis holds some tokens of *every* frame, so
frame masks, per-frame modulation and the KV cache are the same on all of them,
and every device has the same work under any mask. Four cases:

  cross       keys are another sequence, which all devices have: no exchange;
              queries that do not divide are on all devices, too
  all-to-all  heads are split instead of tokens for the time of the attention
              (DeepSpeed Ulysses, Jacobs et al. 2023): when heads divide
  ring        keys and values travel around; softmax is accumulated block by
              block (Liu et al. 2023): for any number of heads
  gathered    every device reads all keys for its own queries: for a Mixture of
              Contexts where heads do not divide. Each has equally many tokens
              of every shot, so the work is equal, too

The accumulation keeps, per query, the largest logit m, the sum l of e^(s - m)
and the sum o of e^(s - m) v; a block with m', l', o' joins as

  M = max(m, m'),  l ← l e^(m - M) + l' e^(m' - M),  o likewise.         (1)

In the end, out = o / l.
"""

import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import chunks
from worldsim_jax.parallel import layout

# A large finite logit: a row without keys gives a mean, never a NaN.
MASKED = -1e30
_AXIS = 'context'
_TOKENS, _HEADS = 2, 3  # Dimensions of [B, F, N, H, D].


class Selected(NamedTuple):
  """What says which pairs count; at most one of mask_FG, key_mask_BM, mixture.

  Attributes:
    mask_FG, key_mask_BM, bias_HNM, mixture: as in `attention.attend`.
  """
  mask_FG: jax.Array | np.ndarray | None = None
  key_mask_BM: jax.Array | None = None
  bias_HNM: jax.Array | None = None
  mixture: moc.Mixture | None = None


def query_split(tokens: int, heads: int) -> chunks.Split:
  """How devices share the queries of a Mixture of Contexts.

  Args:
    tokens: of a frame.
    heads: of the model.
  """
  sizes = layout.ambient_sizes()
  context = sizes.get(_AXIS, 1)
  is_shared = tokens % context == 0 and own_heads(heads, sizes) % context
  return chunks.Split(context if is_shared else 1, tokens)


def attend(local, q_BFNHD, k_BGMHD, v_BGMHD, selected: Selected,
           implementation: str = 'auto'):
  """Runs `local` where all pairs that it needs are on one device.

  Args:
    local: (q, k, v, Selected) -> out, for what is on one device.
    selected: of whole arrays.
    implementation: of `local`; the ring is its own.
    (others: as in `attention.attend`; whole arrays, split or not.)

  Raises:
    ValueError: if the context axis does not divide the tokens of a frame that
      reads its own sequence, or a kernel was asked for where only the ring can
      be.
  """
  sizes = layout.ambient_sizes()
  if math.prod(sizes.values()) == 1:
    return local(q_BFNHD, k_BGMHD, v_BGMHD, selected)
  context = sizes.get(_AXIS, 1)
  tokens, heads = q_BFNHD.shape[_TOKENS], q_BFNHD.shape[_HEADS]
  is_cross = (selected.key_mask_BM is not None or selected.bias_HNM is not None
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
  run = local
  if context > 1 and not is_cross:
    run = _of_own_sequence(
        local, own_heads(heads, sizes), context, selected, implementation)
  # A constant mask stays a constant; any other is an argument like the rest.
  is_constant = isinstance(selected.mask_FG, np.ndarray)
  arrays = selected._replace(mask_FG=None) if is_constant else selected
  specs = _specs(arrays, batch, split_heads, split_tokens)

  def manual(q, k, v, arrays):
    if is_constant:
      arrays = arrays._replace(mask_FG=selected.mask_FG)
    return run(q, k, v, arrays)

  return jax.shard_map(
      manual, in_specs=(queries, keys, keys, specs), out_specs=queries,
      check_vma=False)(q_BFNHD, k_BGMHD, v_BGMHD, arrays)


def of_whole_heads(fn, arrays_BXHD, others):
  """fn where devices have all tokens of some samples and heads.

  What is computed of each head by itself stays on its device: left to the
  compiler, operands of a sort are gathered from all.

  Args:
    fn: (arrays, others) -> a tree of [B, H, ...].
    arrays_BXHD: a tuple of whole arrays, split or not.
    others: a tree of what all devices have.
  """
  sizes = layout.ambient_sizes()
  if math.prod(sizes.values()) == 1:
    return fn(arrays_BXHD, others)
  batch, heads = layout.batch_axes(len(arrays_BXHD[0])), arrays_BXHD[0].shape[2]
  split = layout.dividing(heads, ('tensor', _AXIS), sizes)
  out = jax.shard_map(
      fn, in_specs=(PartitionSpec(batch, None, split), PartitionSpec()),
      out_specs=PartitionSpec(batch, split), check_vma=False)(
          arrays_BXHD, others)
  # As keys are split, or these would be moved to where the results are.
  spec = PartitionSpec(batch, layout.dividing(heads, ('tensor',), sizes))
  return jax.tree.map(
      lambda x: lax.with_sharding_constraint(x, spec), out)


def _of_own_sequence(local, heads: int, context: int, selected: Selected,
                     implementation: str):
  """(q, k, v, Selected) -> out of what a device holds: with its exchanges."""
  if heads % context == 0:
    return functools.partial(_all_to_all, local)
  lack = (f'{heads} heads of a device do not divide by config.mesh.context='
          f'{context}')
  if selected.mixture is not None:
    if selected.mixture.selection_BHKT is not None:
      raise ValueError(f'{lack}, which recalling from a cache needs.')
    return functools.partial(_gathered, local)
  if implementation not in ('auto', 'xla'):
    raise ValueError(
        f'attention implementation={implementation!r} (config.model.attention) '
        f'is no ring, and {lack}.')
  return _ring


def own_heads(heads: int, sizes) -> int:
  """Heads of a device, before any are exchanged for tokens."""
  split = layout.dividing(heads, ('tensor',), sizes)
  return heads // (sizes['tensor'] if split else 1)


def _specs(selected: Selected, batch, split_heads, split_tokens) -> Selected:
  """How each array of a selection is split."""
  specs = Selected(
      PartitionSpec(), PartitionSpec(batch),
      PartitionSpec(split_heads, split_tokens), None)
  specs = Selected(*(None if x is None else spec
                     for x, spec in zip(selected, specs)))
  if selected.mixture is None:
    return specs
  mixture = jax.tree.map(lambda _: PartitionSpec(batch), selected.mixture)
  return specs._replace(mixture=_of_heads(
      mixture, lambda _: PartitionSpec(batch, split_heads)))


def _of_heads(mixture, f):
  """A mixture with f of what it has for each head, [B, H, ...]."""
  of = lambda x: None if x is None else f(x)
  return mixture.replace(rng_BH=of(mixture.rng_BH),
                         selection_BHKT=of(mixture.selection_BHKT))


def _all_to_all(local, q, k, v, selected: Selected):
  """Tokens to heads, attention, heads to tokens."""
  exchange = functools.partial(lax.all_to_all, axis_name=_AXIS, tiled=True)
  if selected.mixture is not None:
    heads = q.shape[_HEADS] // lax.axis_size(_AXIS)
    own = lambda x: lax.dynamic_slice_in_dim(
        x, lax.axis_index(_AXIS) * heads, heads, axis=1)
    selected = selected._replace(mixture=_of_heads(selected.mixture, own))
  q, k, v = (exchange(x, split_axis=_HEADS, concat_axis=_TOKENS)
             for x in (q, k, v))
  out = local(q, k, v, selected)
  return exchange(out, split_axis=_TOKENS, concat_axis=_HEADS)


def _gathered(local, q, k, v, selected: Selected):
  """All keys and values for the device's own queries, with their own dice."""
  k, v = (lax.all_gather(x, _AXIS, axis=_TOKENS, tiled=True) for x in (k, v))
  if selected.mixture.rng_BH is not None:
    fold = jax.vmap(jax.vmap(
        lambda rng: jax.random.fold_in(rng, lax.axis_index(_AXIS))))
    selected = selected._replace(mixture=selected.mixture.replace(
        rng_BH=fold(selected.mixture.rng_BH)))
  return local(q, k, v, selected)


def _ring(q_BFNHD, k_BGNHD, v_BGNHD, selected: Selected):
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
    if selected.mask_FG is not None:
      allowed = jnp.asarray(selected.mask_FG)[:, None, :, None]
      logits = jnp.where(allowed, logits, MASKED)
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

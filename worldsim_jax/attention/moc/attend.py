"""The entry of Mixture of Contexts.

`implementation`:
  'xla'        loops of XLA over blocks; runs everywhere, made for CPUs
  'pallas'     kernels for TPUs
  'reference'  the definition, with a mask over all pairs of tokens
  'auto'       'pallas' on devices and for heads that it is made for, else 'xla'
An explicit choice that cannot run raises, it never falls back.
"""

from typing import NamedTuple

import chex
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from worldsim_jax.attention.moc import chunks as chunks_lib
from worldsim_jax.attention.moc import executors
from worldsim_jax.attention.moc import mixture
from worldsim_jax.attention.moc import packing
from worldsim_jax.attention.moc import reference
from worldsim_jax.attention.moc import routing as routing_lib
from worldsim_jax.attention.moc.executors import blocks as blocks_lib
from worldsim_jax.attention.moc.executors import pallas_tpu
from worldsim_jax.attention.moc.executors import xla
from worldsim_jax.parallel import layout

IMPLEMENTATIONS = ('auto', 'xla', 'pallas', 'reference')
# For remat: recomputed scores may choose otherwise where two are nearly equal,
# and the backward pass must be that of the forward pass.
SELECTION = 'moc_selection'


class Plan(NamedTuple):
  """All that depends on the chunks only: once for all layers.

  Attributes:
    table: of the sequence.
    shot_BT: int32, of each token.
    chunk_BT: int32, of each token.
    anchors: what is always read.
    chunks: keys packed chunk by chunk.
  """
  table: chunks_lib.ChunkTable
  shot_BT: jax.Array
  chunk_BT: jax.Array
  anchors: packing.Anchors
  chunks: packing.Packing


def plan(table: chunks_lib.ChunkTable, rules: chunks_lib.Rules,
         num_tokens: int, blocks: blocks_lib.Blocks) -> Plan:
  """Packs a sequence.

  Args:
    table: its chunks.
    rules: who reads what always.
    num_tokens: T.
    blocks: sizes of tiles and blocks.

  Raises:
    ValueError: if the table does not fit, see chunks.check.
  """
  chunks_lib.check(table, rules, num_tokens)
  is_video = jnp.asarray(table.kind) == chunks_lib.VIDEO
  numbers = jnp.arange(table.num_chunks)
  return Plan(
      table, table.shot_of_token(num_tokens), table.chunk_of_token(num_tokens),
      packing.anchors(table, rules, num_tokens, blocks.anchor_tile,
                      blocks.anchor_block),
      packing.pack(table, jnp.where(is_video, numbers, -1), table.num_chunks,
                   num_tokens, blocks.chunk_block))


def attend(q_BTHD, k_BTHD, v_BTHD, plan: Plan, rules: chunks_lib.Rules,
           routing: routing_lib.Routing, blocks: blocks_lib.Blocks,
           implementation: str = 'auto', rng=None, interpret=False):
  """Attention of every token over its anchors and k chunks of its choice.

  Args:
    q_BTHD, k_BTHD, v_BTHD: float32 or bfloat16.
    plan: of `plan`, with the same rules and blocks.
    rules: who reads what always, and may be routed where.
    routing: how many chunks are chosen.
    blocks: sizes of tiles and blocks.
    implementation: see the module docstring.
    rng: key of this step and layer, for dropping; None at inference.
    interpret: for 'pallas', see executors.pallas_tpu.executor.

  Returns:
    [B, T, H, D] in the dtype of q; 0 for padding.
  """
  chex.assert_equal_shape([q_BTHD, k_BTHD, v_BTHD])
  routing.check()
  implementation = chosen(
      implementation, q_BTHD.shape[-1], q_BTHD.dtype, bool(interpret))
  selection = checkpoint_name(routing_lib.select(
      q_BTHD, routing_lib.descriptors(
          k_BTHD, plan.chunk_BT, plan.table.num_chunks),
      plan.table, rules, routing, plan.shot_BT, rng), SELECTION)
  if implementation == 'reference':
    return reference.attend(
        q_BTHD, k_BTHD, v_BTHD, plan.table, rules, selection)
  batch, tokens, heads, dim = q_BTHD.shape
  by_anchors, by_chunks = _executors(implementation, blocks, interpret)
  fold = lambda x: x.swapaxes(1, 2).reshape(batch * heads, tokens, dim)
  out = mixture.mixture(
      by_anchors, by_chunks, fold(q_BTHD), fold(k_BTHD), fold(v_BTHD),
      plan.anchors, plan.chunks,
      selection.reshape(batch * heads, -1, tokens))
  return out.reshape(batch, heads, tokens, dim).swapaxes(1, 2)


def chosen(implementation: str, head_dim: int, dtype,
           interpret: bool = False) -> str:
  """The implementation that runs.

  Raises:
    ValueError: if it is unknown or cannot run here or for such heads.
  """
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f'implementation={implementation!r} is not one of '
                     f'{IMPLEMENTATIONS} (config.moc.implementation).')
  is_tpu = layout.platform() == 'tpu' or interpret
  fits = (head_dim % pallas_tpu.LANES == 0
          and dtype in (jnp.bfloat16, jnp.float32))
  if implementation == 'auto':
    return 'pallas' if is_tpu and fits else 'xla'
  if implementation == 'pallas' and not is_tpu:
    raise ValueError(
        "implementation='pallas' needs a TPU, this is a "
        f'{layout.platform()} (config.moc.implementation).')
  if implementation == 'pallas' and not fits:
    raise ValueError(
        f"implementation='pallas' needs heads of a multiple of "
        f'{pallas_tpu.LANES} channels in float32 or bfloat16, these have '
        f'{head_dim} in {jnp.dtype(dtype).name} (config.model.dim, '
        'config.model.num_heads).')
  return implementation


def _executors(implementation: str, blocks: blocks_lib.Blocks, interpret):
  sizes = ((blocks.anchor_tile, blocks.anchor_block),
           (blocks.chunk_tile, blocks.chunk_block))
  if implementation == 'pallas':
    return [pallas_tpu.executor(*size, interpret) for size in sizes]
  return [xla.executor(*size) for size in sizes]

"""The entry of Mixture of Contexts.

`implementation`:
  'xla'        loops of XLA over blocks; runs everywhere, made for CPUs
  'pallas'     kernels: Mosaic's for TPUs, Triton's for NVIDIA GPUs
  'reference'  the definition, with a mask over all pairs of tokens
  'auto'       'pallas' on devices and for heads that it is made for, else
               'xla', or on a CPU for few tokens 'reference'
An explicit choice that cannot run raises, it never falls back.
"""

import chex
import flax.struct
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from worldsim_jax.attention.moc import chunks as chunks_lib
from worldsim_jax.attention.moc import mixture as mix
from worldsim_jax.attention.moc import packing
from worldsim_jax.attention.moc import reference
from worldsim_jax.attention.moc import routing as routing_lib
from worldsim_jax.attention.moc.executors import blocks as blocks_lib
from worldsim_jax.attention.moc.executors import pallas_gpu
from worldsim_jax.attention.moc.executors import pallas_tpu
from worldsim_jax.attention.moc.executors import xla
from worldsim_jax.parallel import layout

IMPLEMENTATIONS = ('auto', 'xla', 'pallas', 'reference')
# For parallel/flops.py, which cannot see how often a loop is gone through: is
# never run.
COUNTED = 'counted'
# For remat: recomputed scores may choose otherwise where two are nearly equal,
# and the backward pass must be that of the forward pass.
SELECTION = 'moc_selection'
# Of so few pairs of a query and a key all take a CPU less time than loops over
# blocks do (5 times at 288², 1.3 at 512², 0.7 at 800²), and compile sooner.
FEW_PAIRS = 512**2
# Channels of a head that kernels take, by platform, and in words.
_HEADS = {
    'tpu': (lambda dim: dim % pallas_tpu.LANES == 0,
            f'a multiple of {pallas_tpu.LANES}'),
    'gpu': (lambda dim: dim in pallas_gpu.HEAD_DIMS,
            ' or '.join(map(str, pallas_gpu.HEAD_DIMS)))}


@flax.struct.dataclass
class Plan:
  """All that depends on the chunks only: once for all layers.

  Attributes:
    table: of the keys.
    queries: their table; the same, or of other tokens with the same shots.
    shot_BT: int32, of each query.
    chunk_BS: int32, of each key.
    anchors: what is always read.
    chunks: keys packed chunk by chunk.
    rules: who reads what always, and may be routed where.
    blocks: sizes of tiles and blocks.
  """
  table: chunks_lib.ChunkTable
  queries: chunks_lib.ChunkTable
  shot_BT: jax.Array
  chunk_BS: jax.Array
  anchors: packing.Anchors
  chunks: packing.Packing
  rules: chunks_lib.Rules = flax.struct.field(pytree_node=False)
  blocks: blocks_lib.Blocks = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Mixture:
  """What attention is told of chunks.

  Attributes:
    plan: of `plan`.
    rng_BH: keys of this step and layer, for dropping; None at inference.
    routing: how many chunks are chosen.
    implementation: see the module docstring.
    keys: that a query reads in the mean, for counting FLOPs.
    selection_BHKT: int32, what each query reads besides its anchors, if it was
      chosen before; then nothing is routed.
  """
  plan: Plan
  rng_BH: jax.Array | None = None
  routing: routing_lib.Routing = flax.struct.field(
      pytree_node=False, default=routing_lib.Routing(1))
  implementation: str = flax.struct.field(pytree_node=False, default='auto')
  keys: int = flax.struct.field(pytree_node=False, default=0)
  selection_BHKT: jax.Array | None = None


def plan(table: chunks_lib.ChunkTable, rules: chunks_lib.Rules,
         num_tokens: int, blocks: blocks_lib.Blocks,
         split: chunks_lib.Split = chunks_lib.Split()) -> Plan:
  """Packs a sequence.

  Args:
    table: its chunks.
    rules: who reads what always.
    num_tokens: of the keys.
    blocks: sizes of tiles and blocks.
    split: the queries are those of one device.

  Raises:
    ValueError: if the table does not fit, see chunks.check.
  """
  chunks_lib.check(table, rules, num_tokens, split)
  return plan_between(table.part(split.parts), num_tokens // split.parts, table,
                      num_tokens, rules, blocks)


def plan_between(queries: chunks_lib.ChunkTable, num_queries: int,
                 table: chunks_lib.ChunkTable, num_keys: int,
                 rules: chunks_lib.Rules, blocks: blocks_lib.Blocks) -> Plan:
  """The same for queries that have a table of their own, with the same shots.

  Args:
    queries: table of the queries.
    num_queries: their tokens.
    table: of the keys.
    num_keys: their tokens.
    rules, blocks: as above.
  """
  is_video = jnp.asarray(table.kind) == chunks_lib.VIDEO
  numbers = jnp.arange(table.num_chunks)
  return Plan(
      table, queries, queries.shot_of_token(num_queries),
      table.chunk_of_token(num_keys),
      packing.anchors(table, queries, rules, num_keys, num_queries,
                      blocks.anchor_tile, blocks.anchor_block),
      packing.pack(table, jnp.where(is_video, numbers, -1), table.num_chunks,
                   num_keys, blocks.chunk_block), rules, blocks)


def attend(q_BTHD, k_BSHD, v_BSHD, mixture: Mixture, interpret=False):
  """Attention of every token over its anchors and k chunks of its choice.

  Args:
    q_BTHD: float32 or bfloat16; of all tokens, or of the plan's part of them.
    k_BSHD, v_BSHD: of all tokens.
    mixture: see above.
    interpret: for 'pallas', see executors.pallas_tpu.executor.

  Returns:
    [B, T, H, D] in the dtype of q; 0 for padding.
  """
  plan = mixture.plan
  chex.assert_equal_shape([k_BSHD, v_BSHD])
  if mixture.selection_BHKT is not None:
    return attend_selected(
        q_BTHD, k_BSHD, v_BSHD, mixture.selection_BHKT, mixture, interpret)
  mixture.routing.check()
  means = routing_lib.descriptors(
      k_BSHD, plan.chunk_BS, plan.table.num_chunks)
  selection = checkpoint_name(routing_lib.select(
      q_BTHD, means, plan.table, plan.rules, mixture.routing, plan.shot_BT,
      mixture.rng_BH), SELECTION)
  return attend_selected(q_BTHD, k_BSHD, v_BSHD, selection, mixture, interpret)


def attend_selected(q_BTHD, k_BSHD, v_BSHD, selection_BHKT, mixture: Mixture,
                    interpret=False):
  """The same with chunks that were chosen before.

  Args:
    selection_BHKT: of `routing.select`; the mixture's own routing is not asked.
    (others: as above.)
  """
  plan = mixture.plan
  implementation = chosen(mixture.implementation, q_BTHD.shape[-1],
                          q_BTHD.dtype, bool(interpret),
                          pairs=q_BTHD.shape[1] * k_BSHD.shape[1])
  if implementation == COUNTED:
    return _counted(q_BTHD, k_BSHD, v_BSHD, mixture.keys)
  if implementation == 'reference':
    return reference.attend(
        q_BTHD, k_BSHD, v_BSHD, plan.table, plan.rules, selection_BHKT,
        plan.queries)
  batch, tokens, heads, dim = q_BTHD.shape
  # Small products of bfloat16 took a CPU thirty times as long (jax 0.10). An
  # interpreted kernel computes as it does on its device.
  is_slow = layout.platform() == 'cpu' and not interpret
  dtype = jnp.float32 if is_slow else q_BTHD.dtype
  fold = lambda x: x.swapaxes(1, 2).reshape(batch * heads, -1, dim).astype(
      dtype)
  by_anchors, by_chunks = _executors(implementation, plan.blocks, interpret)
  out = mix.mixture(
      by_anchors, by_chunks, fold(q_BTHD), fold(k_BSHD), fold(v_BSHD),
      plan.anchors, plan.chunks,
      selection_BHKT.reshape(batch * heads, -1, tokens))
  out = out.reshape(batch, heads, tokens, dim).swapaxes(1, 2)
  return out.astype(q_BTHD.dtype)


def _counted(q_BTHD, k_BSHD, v_BSHD, keys: int):
  """As many products as a mixture does, but over other keys."""
  k, v = k_BSHD[:, :keys], v_BSHD[:, :keys]
  return jnp.einsum('bhts,bshd->bthd', jnp.einsum(
      'bthd,bshd->bhts', q_BTHD, k), v)


def chosen(implementation: str, head_dim: int, dtype,
           interpret: bool = False, pairs: int = 0) -> str:
  """The implementation that runs.

  Args:
    implementation: what is asked for.
    head_dim, dtype: of queries.
    interpret: whether kernels are interpreted.
    pairs: queries times keys; 0 for many.

  Raises:
    ValueError: if it is unknown or cannot run here or for such heads.
  """
  if implementation == COUNTED:
    return implementation
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f'implementation={implementation!r} is not one of '
                     f'{IMPLEMENTATIONS} (config.moc.implementation).')
  platform = 'tpu' if interpret else layout.platform()
  takes, wanted = _HEADS.get(platform, (lambda unused_dim: False, ''))
  fits = takes(head_dim) and dtype in (jnp.bfloat16, jnp.float32)
  if implementation == 'auto':
    is_small = platform == 'cpu' and 0 < pairs <= FEW_PAIRS
    return 'pallas' if fits else 'reference' if is_small else 'xla'
  if implementation == 'pallas' and platform not in _HEADS:
    raise ValueError(
        "implementation='pallas' needs a TPU or an NVIDIA GPU, this is a "
        f'{platform} (config.moc.implementation).')
  if implementation == 'pallas' and not fits:
    raise ValueError(
        f"implementation='pallas' needs heads of {wanted} "
        f'channels in float32 or bfloat16, these have {head_dim} in '
        f'{jnp.dtype(dtype).name} (config.model.dim, config.model.num_heads).')
  return implementation


def _executors(implementation: str, blocks: blocks_lib.Blocks, interpret):
  sizes = ((blocks.anchor_tile, blocks.anchor_block),
           (blocks.chunk_tile, blocks.chunk_block))
  if implementation == 'xla':
    return [xla.executor(*size) for size in sizes]
  if layout.platform() == 'gpu' and not interpret:
    return [pallas_gpu.executor(*size, warps=blocks.warps) for size in sizes]
  return [pallas_tpu.executor(*size, blocks.part, interpret, runs)
          for size, runs in zip(sizes, (False, True))]

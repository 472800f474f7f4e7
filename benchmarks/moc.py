"""Mixture of Contexts beside dense attention, by the length of the sequence.

One layer's attention of a film whose shots have 1/8 of its tokens each, chunks
of 1/16 of a shot and k = 3, or on a GPU the paper's 1,280 tokens and k = 5;
forwards, and forwards with gradients. In one run and in turns:

  dense   all tokens read all: on a CPU in blocks of queries, each computed
          anew for the gradient, so that memory is linear here as well; on a
          GPU cuDNN's flash attention
  moc     the mixture, with queries that have nothing in common: each chooses
          chunks of its own
  alike   the same with queries that are nearly one: they choose alike

`keys_read` is counted from the ranges of the plan: what a query reads on the
average, in shares of the sequence; the reciprocal is the least that a perfect
implementation would gain. `temporary_mib` is what XLA allocates beside
arguments and results.

On a GPU `sizes` has the seconds of the shortest film with its gradient by the
sizes of tiles and blocks, in turns, of which moc_gpu_static counts registers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import routing
from worldsim_jax.attention.moc.executors import blocks as blocks_lib
from worldsim_jax.parallel import layout

SHOTS = 8
BOTH = 'forward and backward'
# Tiles, blocks and warps.
GPU_SIZES = (128, 64, 8), (128, 128, 8), (64, 128, 8), (64, 64, 8), (64, 64, 4)
QUERIES_AT_ONCE = 512  # of the dense one on a CPU
# Platform: lengths, heads, channels, dtype, tokens of a chunk (0: 1/16 of a
# shot), k.
CASES = {
    'cpu': ((8192, 16384, 32768, 65536), 2, 64, jnp.float32, 0, 3),
    'gpu': ((32768, 65536, 180224), 12, 128, jnp.bfloat16, 1280, 5)}


def benchmark(options):
  """A row per length and direction."""
  lengths, *case = CASES.get(layout.platform(), CASES['cpu'])
  return [row for tokens in lengths
          for row in _rows(tokens, *case, options.repeats)]


def details(options) -> dict:
  """What a GPU's sizes of tiles and blocks are worth."""
  if layout.platform() != 'gpu':
    return {}
  lengths, *case = CASES['gpu']
  return {'sizes': by_size(lengths[0], *case, GPU_SIZES, options.repeats)}


def by_size(tokens, heads, dim, dtype, chunk, top_k, sizes, repeats):
  """A row per (tile, block, warps): seconds, forwards with gradients."""
  qkv = _drawn(tokens, heads, dim, dtype)
  programs = {}
  for size in sizes:
    tile, block, warps = size
    mixture = _mixture(tokens, chunk, top_k, blocks_lib.Blocks(
        tile, block, tile, block, warps=warps))
    compiled, args = _program(
        functools.partial(moc.attend, mixture=mixture), BOTH, *qkv)
    programs[size] = functools.partial(compiled, *args)
  seconds = timing.seconds(programs, repeats)
  return [{'tile': tile, 'block': block, 'warps': warps, 'tokens': tokens}
          | timing.spread('seconds', seconds[tile, block, warps])
          for tile, block, warps in sizes]


def _mixture(tokens, chunk, top_k, blocks) -> moc.Mixture:
  shot = tokens // SHOTS
  table = chunks.table([chunks.of_shots(
      [shot] * SHOTS, chunk or shot // 16)])
  plan = jax.jit(lambda: moc.plan(table, chunks.Rules(), tokens, blocks))()
  return moc.Mixture(plan, routing=routing.Routing(top_k))


def _drawn(tokens, heads, dim, dtype):
  draw = lambda n: jax.random.normal(
      jax.random.key(n), (1, tokens, heads, dim), dtype)
  return draw(0), draw(1), draw(2)


def _rows(tokens, heads, dim, dtype, chunk, top_k, repeats):
  mixture = _mixture(tokens, chunk, top_k, blocks_lib.of_device(chunk, top_k))
  sparse = functools.partial(moc.attend, mixture=mixture)
  qkv = _drawn(tokens, heads, dim, dtype)
  # All queries are within a percent of one.
  alike = (qkv[0][:, :1] + 0.01 * qkv[0], *qkv[1:])
  for direction in 'forward', BOTH:
    made = {name: _program(fn, direction, *args) for name, fn, args in (
        ('dense', dense, qkv), ('moc', sparse, qkv), ('alike', sparse, alike))}
    seconds = timing.seconds(
        {name: functools.partial(program, *args)
         for name, (program, args) in made.items()}, repeats)
    row = {'tokens': tokens, 'direction': direction,
           'keys_read': keys_read(mixture, *qkv[:2])}
    for name, (program, _) in made.items():
      row[f'{name}_temporary_mib'] = round(
          program.memory_analysis().temp_size_in_bytes / 2**20, 1)
    for name in 'moc', 'alike':
      row |= timing.spread(f'ratio_dense_to_{name}', timing.ratios(
          seconds['dense'], seconds[name]))
    if layout.platform() != 'cpu':  # A shared CPU's seconds say little.
      row |= {f'{name}_seconds': float(np.median(s))
              for name, s in seconds.items()}
    yield row


def _program(fn, direction: str, *args):
  """(compiled, its arguments)."""
  run = fn
  if direction != 'forward':
    run = jax.grad(lambda *qkv: jnp.sum(fn(*qkv).astype(jnp.float32)**2),
                   argnums=(0, 1, 2))
  return jax.jit(run).lower(*args).compile(), args


def dense(q_BTHD, k_BTHD, v_BTHD):
  """Attention of all tokens to all."""
  if layout.platform() == 'gpu':
    return jax.nn.dot_product_attention(
        q_BTHD, k_BTHD, v_BTHD, implementation='cudnn')
  heads = lambda x: x[0].swapaxes(0, 1)  # [H, T, D]
  q, k, v = map(heads, (q_BTHD, k_BTHD, v_BTHD))
  scale = q.shape[-1]**-0.5

  @jax.checkpoint
  def of_block(q_QD, k_TD, v_TD):
    return jax.nn.softmax(q_QD @ k_TD.T * scale, axis=-1) @ v_TD

  def of_head(qkv):
    q, k, v = qkv
    blocks = q.reshape(-1, min(QUERIES_AT_ONCE, len(q)), q.shape[-1])
    return jax.lax.map(lambda q: of_block(q, k, v), blocks).reshape(q.shape)

  return jax.lax.map(of_head, (q, k, v)).swapaxes(0, 1)[None]


def keys_read(mixture: moc.Mixture, q, k) -> float:
  """Keys that a query reads, mean, over all keys of the sequence."""
  plan, tokens = mixture.plan, q.shape[1]
  blocks = np.asarray(plan.anchors.keys.valid)[0]
  queries = np.asarray(plan.anchors.queries.valid)[0]
  start, count = (np.asarray(x)[0] for x in plan.anchors.read)
  before = np.append(0, np.cumsum(blocks))
  anchors = (before[start + count] - before[start]).sum(-1) @ queries
  means = routing.descriptors(k, plan.chunk_BS, plan.table.num_chunks)
  chosen = np.asarray(jax.jit(lambda q, means: routing.select(
      q, means, plan.table, plan.rules, mixture.routing,
      plan.shot_BT))(q, means))
  sizes = np.append(np.asarray(plan.table.size)[0], 0)  # EMPTY is the last.
  routed = sizes[chosen].sum() / (chosen.shape[0] * chosen.shape[1])
  return float((anchors + routed) / tokens**2)

"""The executor for NVIDIA GPUs: three Pallas kernels (Triton).

A program per head and tile; it loops over the blocks that the tile reads, in
global memory, so that its time follows the length of its list. Sums are held in
registers, in float32: how many rows and warps have room for them is what
`python -m benchmarks.run moc_gpu_static` asks the compiler. Of float32, whose
products the matrix units do not take, a program works on a part of a tile.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
import jax.numpy as jnp

from worldsim_jax.attention.moc import executors
from worldsim_jax.attention.moc import packing

HEAD_DIMS = 64, 128  # Triton's blocks are powers of two.
# Rows of float32 at a time, and warps: without spilling.
FLOAT32_ROWS, FLOAT32_WARPS = 32, 4


class Launch(NamedTuple):
  """How programs run.

  Attributes:
    warps: of a program, 32 threads each.
    stages: loads that are under way at a time.
    interpret: True to run the programs step by step, anywhere.
  """
  warps: int = 8
  stages: int = 2
  interpret: bool = False


def executor(tile: int, block: int, **launch):
  """Of tiles and blocks of these sizes, powers of two from 16 on.

  Args:
    tile, block: rows of queries and of keys that a program works on at a time.
    **launch: of Launch.
  """
  bound = lambda f: functools.partial(
      f, tile=tile, block=block, launch=Launch(**launch))
  return executors.Executor(
      bound(forward), bound(backward_queries), bound(backward_keys), tile,
      block)


def forward(q_GQD, keys: executors.Keys, read: packing.Ranges, *, tile: int,
            block: int, launch: Launch):
  """See executors.Executor."""
  heads, rows, dim = q_GQD.shape
  return _call(
      _forward_kernel, 'moc_forward', keys, read, tile, block, launch,
      tiles=(q_GQD,), wholes=(keys.k, keys.v),
      outputs=(jax.ShapeDtypeStruct((heads, rows, dim), q_GQD.dtype),
               jax.ShapeDtypeStruct((heads, rows), jnp.float32)))


def backward_queries(q_GQD, keys: executors.Keys, read: packing.Ranges,
                     do_GQD, lse_GQ, delta_GQ, *, tile: int, block: int,
                     launch: Launch):
  """See executors.Executor."""
  dq, = _call(
      _dq_kernel, 'moc_dq', keys, read, tile, block, launch,
      tiles=(q_GQD, do_GQD, lse_GQ, delta_GQ), wholes=(keys.k, keys.v),
      outputs=(jax.ShapeDtypeStruct(q_GQD.shape, jnp.float32),))
  return dq


def backward_keys(q_GQD, keys: executors.Keys, readers: packing.Ranges,
                  do_GQD, lse_GQ, delta_GQ, read=None, *, tile: int, block: int,
                  launch: Launch):
  """See executors.Executor."""
  del read
  return _call(
      _dkv_kernel, 'moc_dkv', keys, readers, block, tile, launch,
      tiles=(keys.k, keys.v), wholes=(q_GQD, do_GQD, lse_GQ, delta_GQ),
      outputs=(jax.ShapeDtypeStruct(keys.k.shape, jnp.float32),) * 2)


def _call(kernel, name: str, keys: executors.Keys, ranges: packing.Ranges,
          rows: int, part: int, launch: Launch, *, tiles, wholes, outputs):
  """A program for each head and each `rows` rows of the tiles.

  Args:
    kernel: of references: starts and counts [R] of the program's list, valid
      [n], then its rows of the tiles, all rows of the wholes, its outputs; and
      of `part`, the rows of each thing in its list.
    tiles, wholes: arrays [G, rows, ...].
    outputs: shapes, like tiles.
  """
  heads, valid_Mn = len(tiles[0]), keys.valid
  if tiles[0].dtype == jnp.float32:
    rows, part, ranges, valid_Mn = _finer(rows, part, ranges, valid_Mn)
    launch = launch._replace(warps=FLOAT32_WARPS)
  tables, n, _ = ranges.start.shape
  m = functools.partial(
      executors.table_of, num_heads=heads, num_tables=tables)
  valid = functools.partial(executors.table_of, num_heads=heads,
                            num_tables=len(valid_Mn))
  of_list = pl.BlockSpec((None, None, ranges.start.shape[2]),
                         lambda t, g: (m(g), t, 0))
  own = lambda x: pl.BlockSpec(
      (None, rows, *x.shape[2:]), lambda t, g: (g, t, 0)[:x.ndim])
  whole = lambda x: pl.BlockSpec(
      (None, *x.shape[1:]), lambda t, g: (g, 0, 0)[:x.ndim])
  # Programs that run beside each other are of one head, and share its keys in
  # the cache.
  return pl.pallas_call(
      functools.partial(kernel, part=part), grid=(n, heads),
      in_specs=[of_list, of_list,
                pl.BlockSpec((None, valid_Mn.shape[1]),
                             lambda t, g: (valid(g), 0)),
                *map(own, tiles), *map(whole, wholes)],
      out_specs=[*map(own, outputs)], out_shape=outputs, name=name,
      compiler_params=plgpu.CompilerParams(
          num_warps=launch.warps, num_stages=launch.stages),
      interpret=launch.interpret,
  )(ranges.start, ranges.count, valid_Mn, *tiles, *wholes)


def _finer(rows: int, part: int, ranges: packing.Ranges, valid_Mn):
  """The same lists for tiles, and of parts, that are cut to FLOAT32_ROWS rows.

  What is valid is of parts; where parts are tiles, as for dk and dv, it is not
  looked at.
  """
  tiles, parts = (max(size // FLOAT32_ROWS, 1) for size in (rows, part))
  ranges = packing.Ranges(*(
      jnp.repeat(x * parts, tiles, axis=1) for x in ranges))
  part //= parts
  valid = jnp.clip(
      valid_Mn[..., None] - part * jnp.arange(parts), 0, part)
  return rows // tiles, part, ranges, valid.reshape(len(valid), -1)


def _forward_kernel(start_ref, count_ref, valid_ref, q_ref, k_ref, v_ref,
                    out_ref, lse_ref, *, part: int):
  q = q_ref[...]
  tile, dim = q.shape

  def step(n, carry):
    largest, total, out = carry
    b, rows = _nth(start_ref, count_ref, n, part)
    s = _logits(q, k_ref[rows, :], valid_ref[b])
    new = jnp.maximum(largest, s.max(axis=1))
    p = jnp.exp2(s - new[:, None])
    kept = jnp.exp2(largest - new)
    v = v_ref[rows, :]
    out = out * kept[:, None] + _dot(p.astype(v.dtype), v)
    return new, total * kept + p.sum(axis=1), out

  largest, total, out = lax.fori_loop(
      0, _length(count_ref), step,
      (jnp.full((tile,), executors.NOTHING), jnp.zeros((tile,)),
       jnp.zeros((tile, dim))))
  some = jnp.where(total > 0, total, 1.)
  out_ref[...] = (out / some[:, None]).astype(out_ref.dtype)
  lse_ref[...] = jnp.where(
      total > 0, largest + jnp.log2(some), executors.NOTHING)


def _dq_kernel(start_ref, count_ref, valid_ref, q_ref, do_ref, lse_ref,
               delta_ref, k_ref, v_ref, dq_ref, *, part: int):
  q, do, lse, delta = q_ref[...], do_ref[...], lse_ref[...], delta_ref[...]

  def step(n, dq):
    b, rows = _nth(start_ref, count_ref, n, part)
    k = k_ref[rows, :]
    p = jnp.exp2(_logits(q, k, valid_ref[b]) - lse[:, None])
    ds = p * (_dot(do, v_ref[rows, :].T) - delta[:, None])
    return dq + _dot(ds.astype(k.dtype), k)

  dq_ref[...] = lax.fori_loop(
      0, _length(count_ref), step, jnp.zeros(q.shape, jnp.float32))


def _dkv_kernel(start_ref, count_ref, unused_valid_ref, k_ref, v_ref, q_ref,
                do_ref, lse_ref, delta_ref, dk_ref, dv_ref, *, part: int):
  # Rows that are no tokens get gradients that nobody takes.
  k, v = k_ref[...], v_ref[...]

  def step(n, carry):
    dk, dv = carry
    _, rows = _nth(start_ref, count_ref, n, part)
    q, do = q_ref[rows, :], do_ref[rows, :]
    p = jnp.exp2(_dot(k, q.T) - lse_ref[rows][None])
    ds = p * (_dot(v, do.T) - delta_ref[rows][None])
    return (dk + _dot(ds.astype(q.dtype), q),
            dv + _dot(p.astype(do.dtype), do))

  zeros = jnp.zeros(k.shape, jnp.float32)
  dk_ref[...], dv_ref[...] = lax.fori_loop(
      0, _length(count_ref), step, (zeros, zeros))


def _length(count_ref):
  return sum(count_ref[jnp.int32(r)] for r in range(count_ref.shape[0]))


def _nth(start_ref, count_ref, n, size: int):
  """The nth part of the list, and the rows that it has."""
  ranges = [jnp.int32(r) for r in range(start_ref.shape[0])]
  part = packing.nth([start_ref[r] for r in ranges],
                     [count_ref[r] for r in ranges], n)
  return part, pl.ds(part * size, size)


def _logits(q, k, num_valid):
  """[tile, block]; NOTHING in columns that are no tokens."""
  s = _dot(q, k.T)
  column = lax.broadcasted_iota(jnp.int32, s.shape, 1)
  return jnp.where(column < num_valid, s, executors.NOTHING)


def _dot(a, b):
  precision = 'highest' if a.dtype == jnp.float32 else None
  return jnp.dot(a, b, precision=precision,
                 preferred_element_type=jnp.float32)

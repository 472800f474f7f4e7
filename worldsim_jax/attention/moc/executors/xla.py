"""The executor for any device that XLA compiles for: loops over blocks.

The loops have as many turns as there are blocks to read, so work is skipped,
not masked. Meant for CPUs, where a product of two blocks fills the machine.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from worldsim_jax.attention.moc import executors
from worldsim_jax.attention.moc import packing

_NT = (((1,), (1,)), ((), ()))  # a bᵀ
_NN = (((1,), (0,)), ((), ()))  # a b
_TN = (((0,), (0,)), ((), ()))  # aᵀ b
_dot = functools.partial(
    lax.dot_general, preferred_element_type=jnp.float32)


def executor(tile: int, block: int) -> executors.Executor:
  """Of tiles and blocks of these sizes."""
  bound = lambda f: functools.partial(f, tile=tile, block=block)
  return executors.Executor(
      bound(forward), bound(backward_queries), bound(backward_keys), tile,
      block)


def forward(q_GQD, keys: executors.Keys, read: packing.Ranges, *, tile: int,
            block: int):
  """See executors.Executor."""
  heads, rows, dim = q_GQD.shape

  def of_tile(at):
    g, t = at
    m = executors.table_of(g, heads, len(read.start))
    q = _rows(q_GQD, g, t, tile)

    def step(n, carry):
      largest, total, out = carry
      b = packing.nth(read.start[m, t], read.count[m, t], n)
      s = _logits(q, keys, g, b, block)
      new = jnp.maximum(largest, s.max(axis=1, keepdims=True))
      p = jnp.exp2(s - new)
      kept = jnp.exp2(largest - new)
      v = _rows(keys.v, g, b, block)
      return (new, total * kept + p.sum(axis=1, keepdims=True),
              out * kept + _dot(p.astype(v.dtype), v, _NN))

    column = lambda value: jnp.full((tile, 1), value, jnp.float32)
    largest, total, out = lax.fori_loop(
        0, read.count[m, t].sum(), step,
        (column(executors.NOTHING), column(0.), jnp.zeros((tile, dim))))
    some = jnp.where(total > 0, total, 1.)
    lse = jnp.where(total > 0, largest + jnp.log2(some), executors.NOTHING)
    return (out / some).astype(q.dtype), lse[:, 0]

  out, lse = lax.map(of_tile, _grid(heads, rows // tile))
  return out.reshape(q_GQD.shape), lse.reshape(heads, rows)


def backward_queries(q_GQD, keys: executors.Keys, read: packing.Ranges,
                     do_GQD, lse_GQ, delta_GQ, *, tile: int, block: int):
  """See executors.Executor."""
  heads, rows, dim = q_GQD.shape

  def of_tile(at):
    g, t = at
    m = executors.table_of(g, heads, len(read.start))
    rows_of = [_rows(x, g, t, tile)
               for x in (q_GQD, do_GQD, lse_GQ, delta_GQ)]

    def step(n, dq):
      b = packing.nth(read.start[m, t], read.count[m, t], n)
      _, ds = _probabilities(*rows_of, keys, g, b, block)
      k = _rows(keys.k, g, b, block)
      return dq + _dot(ds.astype(k.dtype), k, _NN)

    return lax.fori_loop(
        0, read.count[m, t].sum(), step, jnp.zeros((tile, dim)))

  return lax.map(of_tile, _grid(heads, rows // tile)).reshape(q_GQD.shape)


def backward_keys(q_GQD, keys: executors.Keys, readers: packing.Ranges,
                  do_GQD, lse_GQ, delta_GQ, read=None, *, tile: int,
                  block: int):
  """See executors.Executor."""
  del read
  heads, rows, dim = keys.k.shape

  def of_block(at):
    g, b = at
    m = executors.table_of(g, heads, len(readers.start))

    def step(n, carry):
      dk, dv = carry
      t = packing.nth(readers.start[m, b], readers.count[m, b], n)
      q, do, lse, delta = (_rows(x, g, t, tile)
                           for x in (q_GQD, do_GQD, lse_GQ, delta_GQ))
      p, ds = _probabilities(q, do, lse, delta, keys, g, b, block)
      return (dk + _dot(ds.astype(q.dtype), q, _TN),
              dv + _dot(p.astype(do.dtype), do, _TN))

    zeros = jnp.zeros((block, dim))
    return lax.fori_loop(
        0, readers.count[m, b].sum(), step, (zeros, zeros))

  dk, dv = lax.map(of_block, _grid(heads, rows // block))
  return dk.reshape(keys.k.shape), dv.reshape(keys.v.shape)


def _probabilities(q, do, lse, delta, keys, g, b, block):
  """p and ds of eq. (1), both [tile, block]."""
  p = jnp.exp2(_logits(q, keys, g, b, block) - lse[:, None])
  dp = _dot(do, _rows(keys.v, g, b, block), _NT)
  return p, p * (dp - delta[:, None])


def _logits(q, keys, g, b, block):
  """[tile, block]; rows of the block that are no tokens have NOTHING."""
  s = _dot(q, _rows(keys.k, g, b, block), _NT)
  valid = keys.valid[executors.table_of(g, len(keys.k), len(keys.valid)), b]
  return jnp.where(jnp.arange(block) < valid, s, executors.NOTHING)


def _rows(x, g, i, size: int):
  """Rows i size .. (i + 1) size of x[g]."""
  start = (g, i * size) + (0,) * (x.ndim - 2)
  return lax.dynamic_slice(x, start, (1, size, *x.shape[2:]))[0]


def _grid(heads: int, n: int):
  """All (g, i), as two arrays."""
  return tuple(x.ravel() for x in jnp.meshgrid(
      jnp.arange(heads), jnp.arange(n), indexing='ij'))

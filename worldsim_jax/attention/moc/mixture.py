"""Attention to anchors and chosen chunks: two branches, one softmax.

With o_b and lse_b of each branch b (the anchors, and every slot of a query),

  lse = log2 Σ_b 2^lse_b,        o = Σ_b 2^(lse_b - lse) o_b               (1)

Backwards a branch needs the merged lse and o only: its probabilities are then
those of the whole softmax, and gradients of branches add up (MoBA's algebra,
Lu et al. 2025). Kept for the backward pass: q, k, v, o, lse and the selection.
Nothing is differentiated but q, k and v.
"""

import functools
import math

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from worldsim_jax.attention import splash
from worldsim_jax.attention.moc import executors
from worldsim_jax.attention.moc import gather
from worldsim_jax.attention.moc import packing

# Elements of gathered queries that may be held; heads are taken in groups.
MOST_GATHERED = 2**27


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def mixture(by_anchors: executors.Executor, by_chunks: executors.Executor,
            q_GTD, k_GTD, v_GTD, anchors: packing.Anchors,
            chunks: packing.Packing, selection_GKT):
  """softmax(q kᵀ / √D) v over what each query reads.

  Args:
    by_anchors, by_chunks: what computes each branch.
    q_GTD, k_GTD, v_GTD: G heads of samples, samples outside.
    anchors: of each sample.
    chunks: keys packed chunk by chunk, of each sample.
    selection_GKT: of `routing.select`.

  Returns:
    [G, T, D] in the dtype of q; 0 for tokens that are not packed.
  """
  return _forward(by_anchors, by_chunks, q_GTD, k_GTD, v_GTD, anchors, chunks,
                  selection_GKT)[0]


def _forward(by_anchors, by_chunks, q_GTD, k_GTD, v_GTD, anchors, chunks,
             selection_GKT):
  q = (q_GTD * (math.log2(math.e) * q_GTD.shape[-1]**-0.5)).astype(q_GTD.dtype)
  out, lse = by_anchors.forward(
      packing.take(q, anchors.queries.token),
      _keys(k_GTD, v_GTD, anchors.keys), anchors.read)
  of_anchors = _of_tokens((out, lse), anchors.queries.row)
  heads = len(q_GTD) // len(chunks.row)
  of_heads = jax.tree.map(lambda x: jnp.repeat(x, heads, axis=0), chunks)

  def of_chunks(group):
    q, k, v, chunks, selection, out, lse = group
    rows = gather.gather(selection, chunks, by_chunks.tile)
    found = by_chunks.forward(
        packing.take(q, rows.token), _keys(k, v, chunks), rows.read)
    slots = [_of_tokens(found, row) for row in rows.row.swapaxes(0, 1)]
    return _merged([(out, lse), *slots])

  out, lse = _by_groups(
      of_chunks, by_chunks, selection_GKT, q_GTD.shape[-1],
      (q, k_GTD, v_GTD, of_heads, selection_GKT, *of_anchors))
  out, lse = (checkpoint_name(x, splash.RESIDUALS)
              for x in (out.astype(q_GTD.dtype), lse))
  return out, (q_GTD, k_GTD, v_GTD, anchors, chunks, selection_GKT, out, lse)


def _backward(by_anchors, by_chunks, kept, do_GTD):
  q_GTD, k_GTD, v_GTD, anchors, chunks, selection_GKT, out, lse = kept
  scale = q_GTD.shape[-1]**-0.5
  q = (q_GTD * (math.log2(math.e) * scale)).astype(q_GTD.dtype)
  delta = jnp.sum(out.astype(jnp.float32) * do_GTD.astype(jnp.float32), axis=-1)
  of_queries = (do_GTD, lse, delta)
  heads = len(q_GTD) // len(chunks.row)
  of_heads = jax.tree.map(lambda x: jnp.repeat(x, heads, axis=0), chunks)
  gradients = _branch_gradients(
      by_anchors, q, k_GTD, v_GTD, of_queries, anchors.queries.token,
      anchors.keys, anchors.read, anchors.readers)
  of_anchors = [packing.take(x, row) for x, row in zip(gradients, (
      anchors.queries.row, anchors.keys.row, anchors.keys.row))]

  def of_chunks(group):
    q, k, v, of_queries, chunks, selection, (dq, dk, dv) = group
    rows = gather.gather(selection, chunks, by_chunks.tile)
    dq_rows, dk_rows, dv_rows = _branch_gradients(
        by_chunks, q, k, v, of_queries, rows.token, chunks, rows.read,
        rows.readers)
    for row in rows.row.swapaxes(0, 1):
      dq += packing.take(dq_rows, row)
    return (dq, dk + packing.take(dk_rows, chunks.row),
            dv + packing.take(dv_rows, chunks.row))

  dq, dk, dv = _by_groups(
      of_chunks, by_chunks, selection_GKT, q_GTD.shape[-1],
      (q, k_GTD, v_GTD, of_queries, of_heads, selection_GKT, of_anchors))
  return ((dq * scale).astype(q.dtype), (dk * math.log(2)).astype(k_GTD.dtype),
          dv.astype(v_GTD.dtype), None, None, None)


mixture.defvjp(_forward, _backward)


def _keys(k_GTD, v_GTD, packed: packing.Packing) -> executors.Keys:
  return executors.Keys(packing.take(k_GTD, packed.token),
                        packing.take(v_GTD, packed.token), packed.valid)


def _branch_gradients(executor, q, k, v, of_queries, token, keys, read,
                      readers):
  """Of packed rows: dq, dk, dv."""
  rows = [packing.take(x, token) for x in (q, *of_queries)]
  keys = _keys(k, v, keys)
  return (executor.backward_queries(rows[0], keys, read, *rows[1:]),
          *executor.backward_keys(rows[0], keys, readers, *rows[1:], read))


def _of_tokens(of_rows, row_MT):
  """(o, lse) of the rows that tokens have; (0, NOTHING) of those without."""
  out, lse = of_rows
  is_there = row_MT < lse.shape[1]
  is_there = jnp.repeat(is_there, len(lse) // len(row_MT), axis=0)
  return (packing.take(out, row_MT),
          jnp.where(is_there, packing.take(lse, row_MT), executors.NOTHING))


def _merged(branches):
  """Eq. (1), in float32."""
  largest = functools.reduce(jnp.maximum, (lse for _, lse in branches))
  total = sum(jnp.exp2(lse - largest) for _, lse in branches)
  lse = largest + jnp.log2(total)
  out = sum(jnp.exp2(own - lse)[..., None] * out.astype(jnp.float32)
            for out, own in branches)
  return out, lse


def _by_groups(f, executor, selection_GKT, dim: int, arguments):
  """f of as many heads at once as MOST_GATHERED allows, one group at a time."""
  heads, slots, tokens = selection_GKT.shape
  most = MOST_GATHERED // (slots * (tokens + executor.tile) * dim)
  size = max(n for n in range(1, heads + 1)
             if heads % n == 0 and (n <= most or n == 1))
  if size == heads:
    return f(arguments)
  split = lambda x: x.reshape(-1, size, *x.shape[1:])
  out = jax.lax.map(f, jax.tree.map(split, arguments))
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)


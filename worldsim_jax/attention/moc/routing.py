"""Which chunks a query remembers: the top k by q · mean(K_ω) (eq. 3).

Candidates of a query are the chunks of video that it does not read anyway: of
earlier shots if `Rules.causal`, else of all others. Ties go to the chunk that
comes first. A query with fewer than k candidates leaves slots empty.

The choice has no gradient: neither scores nor descriptors reach the output but
through the keys and values of what was chosen (a test holds it).

In training two disturbances keep the router from starving chunks (Sec. 3.2).
The paper publishes neither number, hence both are off by default:

  drop-off  of the n ≤ k chunks that a query chose ⌊p n⌋, p ~ U(0, drop_off),
            are removed
  drop-in   m ~ Poisson(drop_in) random candidates are added, at most
            MOST_DROPPED_IN

Their dice depend on the head's key and on the query's place only, so they fall
alike however heads and samples are spread over devices. Where queries are
spread, they fall otherwise.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from worldsim_jax.attention.moc import chunks as chunks_lib

EMPTY = -1
MOST_DROPPED_IN = 2
QUERIES_AT_ONCE = 1024  # Scores of so many queries with all chunks are held.


class Routing(NamedTuple):
  """How many chunks are chosen.

  Attributes:
    top_k: chunks of a query, k.
    drop_off: largest part of them that is removed, 0 to 1.
    drop_in: mean number of random ones, 0 to MOST_DROPPED_IN.
  """
  top_k: int
  drop_off: float = 0.
  drop_in: float = 0.

  def num_slots(self) -> int:
    """K: columns of a selection."""
    return self.top_k + (MOST_DROPPED_IN if self.drop_in else 0)

  def check(self):
    """Raises ValueError if a number is none."""
    if self.top_k < 1:
      raise ValueError(f'top_k={self.top_k} must be at least 1 '
                       '(config.moc.top_k).')
    if not 0 <= self.drop_off <= 1 or self.drop_in < 0:
      raise ValueError(
          f'drop_off={self.drop_off} must be in 0..1 and '
          f'drop_in={self.drop_in} at least 0 (config.moc.drop_off, drop_in).')
    if self.drop_in > MOST_DROPPED_IN:
      raise ValueError(
          f'drop_in={self.drop_in} must be at most {MOST_DROPPED_IN}, as many '
          'as are ever added to a query (config.moc.drop_in).')


def descriptors(k_BTHD, chunk_BT, num_chunks: int):
  """The mean key of each chunk, float32 [B, C, H, D]; 0 for empty ones."""
  sums, counts = pooled(k_BTHD, chunk_BT, num_chunks)
  return sums / jnp.maximum(counts, 1)[..., None, None]


def pooled(k_BTHD, chunk_BT, num_chunks: int):
  """Sums of keys [B, C, H, D] and numbers of tokens [B, C], both float32.

  A cache keeps them, and adds to them what it appends.
  """
  total = lambda x, chunk: jax.ops.segment_sum(x, chunk, num_chunks)
  k_BTHD = jax.lax.stop_gradient(k_BTHD).astype(jnp.float32)
  ones = jnp.ones(chunk_BT.shape, jnp.float32)
  return jax.vmap(total)(k_BTHD, chunk_BT), jax.vmap(total)(ones, chunk_BT)


def candidates(table: chunks_lib.ChunkTable, rules: chunks_lib.Rules, shot_BT):
  """bool [B, T, C]: chunks that queries of these shots may be routed to."""
  shot = jnp.asarray(table.shot)[:, None]
  own = shot_BT[..., None]
  is_video = (jnp.asarray(table.kind) == chunks_lib.VIDEO) & (table.size > 0)
  is_past = shot < own - rules.window
  is_future = (shot > own + rules.window) & (own >= 0)
  return is_video[:, None] & (
      is_past if rules.causal else is_past | is_future)


def select(q_BTHD, descriptors_BCHD, table: chunks_lib.ChunkTable,
           rules: chunks_lib.Rules, routing: Routing, shot_BT, rng_BH=None):
  """The chunks that each query of each head reads besides its anchors.

  Args:
    q_BTHD: queries.
    descriptors_BCHD: of `descriptors`.
    table: of the keys.
    rules: who may be routed where.
    routing: how many.
    shot_BT: int32, the shot of each query; a query of shot GLOBAL is routed
      nowhere if causal.
    rng_BH: keys of this layer and step, for dropping; None at inference.

  Returns:
    int32 [B, H, K, T], each chunk at most once, EMPTY in unused slots.
  """
  queries = q_BTHD.shape[1]
  size = min(QUERIES_AT_ONCE, queries)
  padded = -(-queries // size) * size
  descriptors_BCHD = jax.lax.stop_gradient(descriptors_BCHD)
  blocks = lambda x: jnp.moveaxis(
      jnp.pad(x, ((0, 0), (0, padded - queries)) + ((0, 0),) * (x.ndim - 2))
      .reshape(len(x), -1, size, *x.shape[2:]), 1, 0)

  def of_block(block):
    i, q, shot_BQ = block
    scores = jnp.einsum(
        'bqhd,bchd->bhqc', q.astype(jnp.float32), descriptors_BCHD,
        precision='highest')
    allowed = candidates(table, rules, shot_BQ)[:, None]
    chosen = _top(jnp.where(allowed, scores, -jnp.inf), routing.top_k)
    if rng_BH is None:
      return chosen
    disturbed = functools.partial(_disturbed, routing=routing, block=i)
    return jax.vmap(jax.vmap(disturbed))(
        chosen, jnp.broadcast_to(allowed, scores.shape), rng_BH)

  chosen = jax.lax.map(
      of_block, (jnp.arange(padded // size),
                 blocks(jax.lax.stop_gradient(q_BTHD)), blocks(shot_BT)))
  n, b, h, q, slots = chosen.shape
  chosen = chosen.transpose(1, 2, 4, 0, 3).reshape(b, h, slots, n * q)
  return chosen[..., :queries]


def _top(scores, k: int):
  """Indices of the k largest finite scores, the first of equals first."""
  found = min(k, scores.shape[-1])
  values, chosen = jax.lax.top_k(scores, found)
  chosen = jnp.where(jnp.isfinite(values), chosen, EMPTY).astype(jnp.int32)
  return jnp.pad(chosen, ((0, 0),) * (chosen.ndim - 1) + ((0, k - found),),
                 constant_values=EMPTY)


def _disturbed(chosen, allowed, rng, routing: Routing, block):
  """Some of a head's chosen chunks removed, some candidates added."""
  rngs = jax.random.split(jax.random.fold_in(rng, block), 4)
  rows = (*chosen.shape[:-1], 1)
  part = jax.random.uniform(rngs[0], rows) * routing.drop_off
  is_chosen = chosen != EMPTY
  dice = jax.random.uniform(rngs[1], chosen.shape)
  dice = jnp.where(is_chosen, dice, jnp.inf)  # Empty slots come last.
  rank = jnp.sum(dice[..., None, :] < dice[..., None], axis=-1)
  count = is_chosen.sum(axis=-1, keepdims=True)
  kept = jnp.where(rank < jnp.floor(part * count), EMPTY, chosen)
  if not routing.drop_in:
    return kept
  number = jax.random.poisson(rngs[2], routing.drop_in, rows)
  dice = jax.random.uniform(rngs[3], allowed.shape)
  added = _top(jnp.where(allowed, dice, -jnp.inf), MOST_DROPPED_IN)
  added = jnp.where(jnp.arange(MOST_DROPPED_IN) < number, added, EMPTY)
  is_new = ~(added[..., None] == kept[..., None, :]).any(axis=-1)
  return jnp.concatenate([kept, jnp.where(is_new, added, EMPTY)], axis=-1)

"""Queries, gathered chunk by chunk.

A pair is a query and one of the chunks that it chose. Pairs are brought into
the order of their chunks by a counting sort: chunk c begins with a new tile at
row start_c, and a pair's row is

  start_c + #{pairs of chunk c with an earlier query}.                     (1)

A tile then reads the blocks of one chunk. T K pairs of C chunks need at most
⌊T K / tile⌋ + C tiles, so nothing is ever dropped; tiles that are not needed
read nothing and cost nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from worldsim_jax.attention.moc import packing
from worldsim_jax.attention.moc import routing

QUERIES_AT_ONCE = 512


class Gathered(NamedTuple):
  """Where pairs went, of each of G heads of samples.

  Attributes:
    token: int32 [G, Q], the query in each row; T in rows of none.
    row: int32 [G, K, T], of each pair; Q for an empty slot.
    read: blocks of keys that each tile reads, [G, n, 1].
    readers: tiles that read each block of keys, [G, n', 1].
  """
  token: jax.Array
  row: jax.Array
  read: packing.Ranges
  readers: packing.Ranges


def gather(selection_GKT, keys: packing.Packing, tile: int) -> Gathered:
  """Sorts the pairs of a selection by chunk.

  Args:
    selection_GKT: chunks, each at most once per query; samples outside, heads
      inside.
    keys: packed chunk by chunk, of each sample.
    tile: rows of a tile.
  """
  heads = len(selection_GKT) // len(keys.first)
  per_head = lambda x: jnp.repeat(x, heads, axis=0)
  return jax.vmap(lambda *x: _of_head(*x, tile))(
      selection_GKT, *map(per_head, (keys.first, keys.count, keys.unit)))


def _of_head(selection_KT, first_C, blocks_C, unit_N, tile: int):
  slots, tokens = selection_KT.shape
  chunks = len(first_C)
  num_tiles = slots * tokens // tile + chunks
  num_rows = num_tiles * tile
  earlier_KT, pairs_C = _ranks(selection_KT, chunks)
  tiles_C = -(-pairs_C // tile)
  last_C = jnp.cumsum(tiles_C)
  start_C = last_C - tiles_C
  is_empty = selection_KT == routing.EMPTY
  row = jnp.where(is_empty, num_rows,
                  start_C[selection_KT] * tile + earlier_KT)  # Eq. (1)
  token = jnp.full(num_rows, tokens, jnp.int32).at[row.ravel()].set(
      jnp.tile(jnp.arange(tokens, dtype=jnp.int32), slots), mode='drop')
  chunk = jnp.searchsorted(last_C, jnp.arange(num_tiles), side='right')
  ranges = lambda start, count, i: packing.Ranges(*(
      x.at[i].get(mode='fill', fill_value=0)[:, None].astype(jnp.int32)
      for x in (start, count)))
  return Gathered(
      token, row.astype(jnp.int32), ranges(first_C, blocks_C, chunk),
      ranges(start_C, tiles_C, unit_N))


def _ranks(selection_KT, chunks: int):
  """Of each pair how many of its chunk come earlier, and pairs of each chunk.

  Queries are counted some at a time: no array has T C elements.
  """
  slots, tokens = selection_KT.shape
  size = min(QUERIES_AT_ONCE, tokens)
  missing = -tokens % size
  blocks = jnp.pad(selection_KT, ((0, 0), (0, missing)),
                   constant_values=routing.EMPTY)
  blocks = blocks.reshape(slots, -1, size).swapaxes(0, 1)

  def count(before_C, chosen_KQ):
    # At most one slot of a query is of a chunk: the sum over slots is 0 or 1.
    is_of_KQC = chosen_KQ[..., None] == jnp.arange(chunks)
    chose_QC = is_of_KQC.sum(axis=0, dtype=jnp.int32)
    earlier_QC = before_C + jnp.cumsum(chose_QC, axis=0) - chose_QC
    rank_KQ = jnp.sum(is_of_KQC * earlier_QC, axis=-1)
    return before_C + chose_QC.sum(axis=0), rank_KQ

  pairs_C, ranks = jax.lax.scan(
      count, jnp.zeros(chunks, jnp.int32), blocks)
  return ranks.swapaxes(0, 1).reshape(slots, -1)[:, :tokens], pairs_C

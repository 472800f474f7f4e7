"""Tokens in whole blocks, and the ranges of blocks that tiles read.

Executors know nothing of chunks and shots. They are given blocks of keys, tiles
of queries, and for each tile a few ranges of whole blocks. A *unit* is what
begins with a new block and is padded to whole ones:

  anchors   queries: shots.  keys: texts in front, in the order of their shots,
            then the video of each shot. So what a shot always reads is at most
            three ranges: its shot (and window), texts, global texts
  routed    queries: of each chunk, the tokens that chose it. keys: chunks

Who reads a block, which the backward pass asks, is a single range in each case.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from worldsim_jax.attention.moc import chunks as chunks_lib


class Ranges(NamedTuple):
  """For each of n tiles, R ranges of consecutive blocks; counts may be 0.

  Attributes:
    start, count: int32 [M, n, R].
  """
  start: jax.Array
  count: jax.Array


class Packing(NamedTuple):
  """Where tokens went. Rows that hold none, and tokens that have none, are out
  of range, so that `take` gives 0 for them.

  Attributes:
    token: int32 [B, P], the token in each row; T in padding rows.
    row: int32 [B, T], the row of each token; P for one that is not packed.
    valid: int32 [B, n], rows of each block that hold tokens; they come first.
    unit: int32 [B, n], of each block; U for one that is not used.
    first, count: int32 [B, U], blocks of each unit.
  """
  token: jax.Array
  row: jax.Array
  valid: jax.Array
  unit: jax.Array
  first: jax.Array
  count: jax.Array


def pack(table: chunks_lib.ChunkTable, unit_BC, num_units: int,
         num_tokens: int, block: int) -> Packing:
  """Lays units out one after the other, each from a new block on.

  Args:
    table: of the sequence.
    unit_BC: int32, the unit of each chunk; -1 for chunks that are left out.
      Chunks of a unit keep their order.
    num_units: U.
    num_tokens: T.
    block: rows of a block.
  """
  size_BC = jnp.where(unit_BC >= 0, table.size, 0)
  is_of_unit = unit_BC[:, None] == jnp.arange(num_units)[:, None]  # [B, U, C]
  rows_BU = jnp.sum(is_of_unit * size_BC[:, None], axis=-1)
  count = -(-rows_BU // block)
  last = jnp.cumsum(count, axis=1)
  first = last - count
  # Chunks of the same unit that come before each chunk.
  earlier = jnp.tril(unit_BC[:, :, None] == unit_BC[:, None], -1)
  offset_BC = jnp.sum(earlier * size_BC[:, None], axis=-1)
  start_BC = offset_BC + block * _at(first, unit_BC)

  num_blocks = num_tokens // block + num_units
  num_rows = num_blocks * block
  chunk_BT = table.chunk_of_token(num_tokens)
  within_BT = jnp.arange(num_tokens) - _at(table.first(), chunk_BT)
  row = jnp.where(_at(unit_BC, chunk_BT) >= 0,
                  _at(start_BC, chunk_BT) + within_BT, num_rows)
  token = jnp.full((table.batch, num_rows), num_tokens, jnp.int32)
  token = jax.vmap(lambda old, at: old.at[at].set(
      jnp.arange(num_tokens, dtype=jnp.int32), mode='drop',
      unique_indices=True))(token, row)
  blocks = jnp.arange(num_blocks)
  unit = jax.vmap(
      lambda end: jnp.searchsorted(end, blocks, side='right'))(last)
  left = _at(rows_BU, unit, 0) - block * (blocks - _at(first, unit, 0))
  return Packing(token, row.astype(jnp.int32), jnp.clip(left, 0, block),
                 unit.astype(jnp.int32), first, count)


def take(x_GTD, index_MN):
  """x[g, index[m]], 0 where the index is out of range; [G, N, D].

  G is a multiple of M: rows of a table serve as many neighbours of x each.
  """
  index_GN = jnp.repeat(index_MN, len(x_GTD) // len(index_MN), axis=0)
  return jax.vmap(lambda x, i: x.at[i].get(
      mode='fill', fill_value=0))(x_GTD, index_GN)


def nth(start_R, count_R, n):
  """The nth block of some ranges (lists of scalars), one after the other."""
  block, before = start_R[0] + n, count_R[0]
  for start, count in zip(start_R[1:], count_R[1:]):
    block = jnp.where(n < before, block, start + n - before)
    before += count
  return block


class Anchors(NamedTuple):
  """What is always read: packings, and the ranges of tiles and of blocks."""
  queries: Packing
  keys: Packing
  read: Ranges
  readers: Ranges


def anchors(table: chunks_lib.ChunkTable, queries: chunks_lib.ChunkTable,
            rules: chunks_lib.Rules, num_keys: int, num_queries: int,
            tile: int, block: int) -> Anchors:
  """Packs a sequence shot by shot.

  Args:
    table: of the keys.
    queries: of the queries, which are of the same shots.
    rules: who reads what.
    num_keys, num_queries: tokens of both.
    tile: queries of a tile.
    block: keys of a block.
  """
  shots, texts = table.num_shots, table.num_texts
  is_text = jnp.asarray(table.kind) == chunks_lib.TEXT
  is_video = jnp.asarray(table.kind) == chunks_lib.VIDEO
  shot = jnp.asarray(table.shot)
  # Global texts are the queries of a shot of their own, in front.
  unit = jnp.where(jnp.asarray(queries.kind) == chunks_lib.PADDING, -1,
                   jnp.asarray(queries.shot) + 1)
  packed = pack(queries, unit, shots + 1, num_queries, tile)
  comes_before = is_text[:, None] & (
      (shot[:, None] < shot[:, :, None])
      | jnp.tril(shot[:, None] == shot[:, :, None], -1))
  text_unit = jnp.sum(comes_before, axis=-1)
  unit = jnp.where(is_text, text_unit, jnp.where(is_video, shot + texts, -1))
  keys = pack(table, unit, texts + shots, num_keys, block)
  text_blocks = is_text * -(-jnp.asarray(table.size) // block)
  shot_of_text = jax.vmap(
      lambda at, shot: jnp.zeros(texts, jnp.int32).at[at].set(
          shot, mode='drop'))(jnp.where(is_text, text_unit, texts), shot)
  return Anchors(
      packed, keys,
      _of_blocks(packed, _read(rules, keys, shot, text_blocks, texts)),
      _of_blocks(keys, _readers(rules, packed, shot_of_text)))


def _read(rules, keys: Packing, shot_BC, text_blocks_BC, texts: int) -> Ranges:
  """Blocks that each unit of queries reads, [B, 1 + shots, 3]."""
  shots = keys.first.shape[1] - texts
  own = jnp.arange(-1, shots)  # The first unit is that of global texts.
  lowest = jnp.clip(own - rules.window, 0)
  highest = own if rules.causal else jnp.minimum(own + rules.window, shots - 1)
  video_start = keys.first[:, texts + lowest]
  video_end = jnp.where(
      own >= 0, (keys.first + keys.count)[:, texts + highest], video_start)
  # Texts of shots before each, and before shot 0.
  before = lambda shot: jnp.sum(
      text_blocks_BC[:, None] * (shot_BC[:, None] < shot[:, None]), axis=-1)
  up_to = before(own + 1)
  everything = text_blocks_BC.sum(axis=1, keepdims=True) + 0 * up_to
  of_film = before(jnp.zeros_like(own))
  none = jnp.zeros_like(up_to)
  text_start, text_end, film = {
      'all': (none, everything, none),
      'causal': (none, up_to, none),
      'own': (before(own), up_to, jnp.where(own >= 0, of_film, 0)),
  }[rules.text_scope]
  return Ranges(
      jnp.stack([video_start, text_start, none], axis=-1),
      jnp.stack([video_end - video_start, text_end - text_start, film],
                axis=-1))


def _readers(rules, queries: Packing, shot_of_text_BX) -> Ranges:
  """Tiles that read each unit of keys, [B, texts + shots, 1]."""
  shots = queries.first.shape[1] - 1
  tiles_before = jnp.concatenate(  # Of the units before shot -1, 0, 1, ...
      [queries.first, (queries.first + queries.count)[:, -1:]], axis=1)
  from_shot = lambda shot: jnp.take_along_axis(tiles_before, shot + 1, axis=1)
  own = jnp.broadcast_to(jnp.arange(shots), (len(queries.first), shots))
  first = own if rules.causal else jnp.maximum(own - rules.window, 0)
  last = jnp.minimum(own + rules.window, shots - 1)
  text = shot_of_text_BX
  start_of_film, end = jnp.full_like(text, -1), jnp.full_like(text, shots)
  text_first = start_of_film if rules.text_scope == 'all' else text
  text_next = end
  if rules.text_scope == 'own':
    text_next = jnp.where(text == chunks_lib.GLOBAL, end, text + 1)
  start = from_shot(jnp.concatenate([text_first, first], axis=1))
  stop = from_shot(jnp.concatenate([text_next, last + 1], axis=1))
  return Ranges(start[..., None], (stop - start)[..., None])


def _of_blocks(packing: Packing, of_units: Ranges) -> Ranges:
  """The ranges of each block's unit; none for unused blocks."""
  at = lambda x_BUR: jax.vmap(lambda x, i: x.at[i].get(
      mode='fill', fill_value=0))(x_BUR, packing.unit)
  return Ranges(at(of_units.start), at(of_units.count))


def _at(x_BN, index_BM, fill: int | None = None):
  """x[b, index[b]]; an index that is out of range gives the end, or `fill`."""
  mode = {'mode': 'clip'} if fill is None else {
      'mode': 'fill', 'fill_value': fill}
  return jax.vmap(lambda x, i: jnp.asarray(x).at[i].get(**mode))(
      jnp.asarray(x_BN), index_BM)

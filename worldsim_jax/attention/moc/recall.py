"""Mixture of Contexts over a KV cache: a long past at the price of a window.

While a film is streamed, the frames of a chunk read

  anchors   themselves, the latest `window` frames, the first `sink` ones
  recalled  of all other cached frames, the k that each query token of each
            head scores highest, as in training with frames for chunks

A frame's descriptor is the mean of its keys, rotated by their places in the
picture only, and is kept in the cache beside the keys. The rotation by time is
the same for all tokens of a frame, so it is applied to the mean when it is read
(RoPE is linear): mean(R_t R_yx k) = R_t mean(R_yx k), whatever position a slot
has by then.

What grows with the past is the scoring of descriptors, one product per frame
and query. Keys and values are fetched of at most `most` frames for each head:
those that the most queries chose (the paper's outer router, App. I, for heads
in place of shots). If no more than that are chosen at all, nothing is lost, and
the result is that of the whole sequence at once.
"""

import functools
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from worldsim_jax.attention import attend as attention
from worldsim_jax.attention import rope
from worldsim_jax.attention import sequence
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import chunks as chunks_lib
from worldsim_jax.attention.moc import routing
from worldsim_jax.attention.moc.executors import blocks as blocks_lib

_RULES = chunks_lib.Rules()
_PAST, _NOW = 0, 1  # As shots: queries are of the second one.


class Recall(NamedTuple):
  """How much of a cache is read.

  Attributes:
    top_k: frames that a query recalls.
    most: frames that a head fetches for all queries of a chunk.
    window: latest frames that are always read.
    sink: first frames that are always read.
    implementation: of the attention, see `moc.attend`.
  """
  top_k: int
  most: int
  window: int = 0
  sink: int = 0
  implementation: str = 'auto'

  def check(self):
    """Raises ValueError for numbers that cannot be."""
    routing.Routing(self.top_k).check()
    if self.most < self.top_k:
      raise ValueError(
          f'most={self.most} must be at least top_k={self.top_k} '
          '(config.moc.most, config.moc.top_k).')
    if self.window < 0 or self.sink < 0:
      raise ValueError(
          f'window={self.window} and sink={self.sink} must be at least 0 '
          '(config.student.window, config.student.sink).')


class Past(NamedTuple):
  """What a layer has cached, of S slots.

  Attributes:
    k, v: [B, S, N, H, D], keys before RoPE.
    mean: float32 [B, S, H, D], of `descriptors`.
    frame: int32 [S], the frame of the film in each slot, below 0 if empty.
    position: int32 [S], its temporal position for RoPE.
    length: int32 [], frames of the film so far.
  """
  k: jax.Array
  v: jax.Array
  mean: jax.Array
  frame: jax.Array
  position: jax.Array
  length: jax.Array


def descriptors(k_BFNHD, grid: tuple[int, int]):
  """The mean key of each frame, rotated by place only; float32 [B, F, H, D].

  Args:
    k_BFNHD: before RoPE.
    grid: rows and columns of a frame's tokens.
  """
  angles = rope.angles(jnp.zeros(1, jnp.int32), *grid, k_BFNHD.shape[-1])
  placed = rope.rotate(k_BFNHD.astype(jnp.float32), angles)
  return jax.lax.stop_gradient(placed.mean(axis=2))


def attend(q_BFNHD, k_BFNHD, v_BFNHD, past: Past, grid: tuple[int, int],
           recall: Recall):
  """Attention of a chunk's frames over themselves and what they recall.

  Args:
    q_BFNHD: roped queries of the chunk.
    k_BFNHD, v_BFNHD: its own keys, roped, and values.
    past: what is cached.
    grid: rows and columns of a frame's tokens.
    recall: how much is read.

  Returns:
    [B, F, N, H, D] in the dtype of q, and the slots that each query chose,
    int32 [B, H, K, F N], routing.EMPTY where there were not so many.
  """
  recall.check()
  batch, frames, tokens, heads, dim = q_BFNHD.shape
  flat = lambda x: x.reshape(batch, -1, heads, dim)
  chosen = sequence.of_whole_heads(
      functools.partial(_chosen, recall=recall),
      jax.lax.stop_gradient((flat(q_BFNHD), past.mean)),
      (past.frame, past.position, past.length))
  # Chosen again, in a backward pass, it could be otherwise.
  chosen_BHKT, fetched_BHM, place_BHKT = (
      checkpoint_name(x, moc.SELECTION) for x in chosen)
  fixed_W, is_there_W = _always_read(past, recall)
  angles = rope.angles(past.position, *grid, dim)  # [S, N, D/2]

  def of_slots(x_BSNHD, slots_BHM):
    """[B, M N, H, D], of each head its own."""
    per_head = jax.vmap(lambda x, i: x[i], (2, 0), 2)  # [S, N, H, D], [H, M]
    return flat(jax.vmap(per_head)(x_BSNHD, slots_BHM))

  slots_BHM = jnp.concatenate(
      [jnp.broadcast_to(fixed_W, (batch, heads, len(fixed_W))), fetched_BHM],
      axis=2)
  k_past = _rotated(of_slots(past.k, slots_BHM), angles, slots_BHM, tokens)
  join = lambda own, cached: jnp.concatenate(
      [own, cached.astype(own.dtype).reshape(batch, -1, *own.shape[2:])],
      axis=1)
  k = join(k_BFNHD, k_past)
  v = join(v_BFNHD, of_slots(past.v, slots_BHM))
  first = frames + len(fixed_W)  # The chunk of the first fetched frame.
  selection = jnp.where(place_BHKT == routing.EMPTY, routing.EMPTY,
                        first + place_BHKT)
  plan = moc.plan_between(
      _queries(batch, frames * tokens), frames * tokens,
      _table(batch, tokens, frames, is_there_W, recall.most),
      k.shape[1] * tokens, _RULES,
      blocks_lib.of_device(tokens, frames * recall.top_k / recall.most))
  out = attention.attend(q_BFNHD, k, v, mixture=moc.Mixture(
      plan, selection_BHKT=selection, implementation=recall.implementation,
      keys=tokens * (first + recall.top_k)))
  return out, chosen_BHKT


def _chosen(of_heads, of_slots, recall: Recall):
  """What some heads recall, and fetch for it.

  Args:
    of_heads: queries [B, T, H, D] and means [B, S, H, D].
    of_slots: frame, position and length of `Past`.
    recall: how much is read.

  Returns:
    int32: the slots that each query chose [B, H, K, T], those that are fetched
    [B, H, M], and where among these the former are, EMPTY for nowhere.
  """
  q_BTHD, mean_BSHD = of_heads
  chosen_BHKT = _choose(q_BTHD, Past(None, None, mean_BSHD, *of_slots), recall)
  fetched_BHM, rank_BHS = _most_wanted(
      chosen_BHKT, mean_BSHD.shape[1], recall.most)
  place_BHKT = jnp.take_along_axis(rank_BHS[:, :, None], chosen_BHKT, axis=3)
  return chosen_BHKT, fetched_BHM, jnp.where(
      chosen_BHKT == routing.EMPTY, routing.EMPTY, place_BHKT)


def _choose(q_BTHD, past: Past, recall: Recall):
  """The slots that each query recalls, int32 [B, H, K, T]."""
  batch, tokens, _, dim = q_BTHD.shape
  is_past = ((past.frame >= recall.sink)
             & (past.frame < past.length - recall.window))
  kind_S = jnp.where(is_past, chunks_lib.VIDEO, chunks_lib.PADDING)
  each = lambda x: jnp.broadcast_to(x, (batch, len(past.frame)))
  table = chunks_lib.ChunkTable(
      each(1), each(_PAST), each(kind_S), num_shots=2, num_texts=0)
  turned = rope.rotate(past.mean[:, :, None],
                       rope.angles(past.position, 1, 1, dim))[:, :, 0]
  return routing.select(
      q_BTHD, turned, table, _RULES, routing.Routing(recall.top_k),
      jnp.full((batch, tokens), _NOW))


def _most_wanted(chosen_BHKT, slots: int, most: int):
  """The slots that the most queries chose, first ones of equals first.

  Returns:
    int32 [B, H, M] slots, and int32 [B, H, S]: the place of each slot in that
    list, EMPTY for those that are not.
  """
  def of_head(chosen_KT):
    votes_S = jnp.zeros(slots, jnp.int32).at[chosen_KT.ravel()].add(
        (chosen_KT.ravel() >= 0).astype(jnp.int32), mode='drop')
    votes, fetched_M = jax.lax.top_k(votes_S, min(most, slots))
    missing = most - len(fetched_M)
    place = jnp.where(votes > 0, jnp.arange(len(votes)), routing.EMPTY)
    rank_S = jnp.full(slots, routing.EMPTY).at[fetched_M].set(place)
    return jnp.pad(fetched_M, (0, missing)), rank_S

  return jax.vmap(jax.vmap(of_head))(chosen_BHKT)


def _always_read(past: Past, recall: Recall):
  """Slots of the sink and of the window, and whether each holds its frame."""
  window = past.length - recall.window + jnp.arange(recall.window)
  frame_W = jnp.concatenate([jnp.arange(recall.sink), window])
  is_new = jnp.concatenate([jnp.arange(recall.sink) < past.length,
                            window >= recall.sink])
  found_WS = past.frame == frame_W[:, None]
  return found_WS.argmax(axis=1), found_WS.any(axis=1) & is_new


def _rotated(k_BTHD, angles_SND, slots_BHM, tokens: int):
  """Keys of each head's own slots, roped."""
  batch, _, heads, dim = k_BTHD.shape
  k = k_BTHD.reshape(batch, -1, tokens, heads, dim).transpose(0, 3, 1, 2, 4)
  turned = jax.vmap(jax.vmap(
      lambda k_MND, slots_M: rope.rotate(
          k_MND[:, :, None], angles_SND[slots_M])[:, :, 0]))(k, slots_BHM)
  return turned.transpose(0, 2, 3, 1, 4).reshape(k_BTHD.shape)


def _table(batch: int, tokens: int, frames: int, is_there_W, most: int):
  """Own frames, those that are always read, those that were fetched."""
  fixed = jnp.where(is_there_W, chunks_lib.VIDEO, chunks_lib.PADDING)
  kind = jnp.concatenate([jnp.full(frames, chunks_lib.VIDEO), fixed,
                          jnp.full(most, chunks_lib.VIDEO)])
  shot = jnp.arange(len(kind)) < frames + len(is_there_W)
  each = lambda x: jnp.broadcast_to(x, (batch, len(kind))).astype(jnp.int32)
  return chunks_lib.ChunkTable(
      each(tokens), each(shot), each(kind), num_shots=2, num_texts=0)


def _queries(batch: int, tokens: int):
  """All of the second shot."""
  each = lambda x: jnp.full((batch, 1), x, jnp.int32)
  return chunks_lib.ChunkTable(
      each(tokens), each(_NOW), each(chunks_lib.VIDEO), num_shots=2,
      num_texts=0)

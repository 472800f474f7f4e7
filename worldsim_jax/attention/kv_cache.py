"""The KV cache: an explicit pytree, written functionally.

Frames of keys and values live in S slots. The first `sink` slots are pinned:
the first frames of the video stay there for ever. The others are a ring: frame
p goes to slot sink + (p - sink) mod (S - sink), over the oldest frame. S ≥ the
length of the video is the full history; smaller S is a rolling window with
sinks.

Keys are stored before RoPE and rotated when they are read, from the position of
each slot. So one structure serves all position policies:

  absolute  every frame keeps its position in the video
  relative  positions within the cache: sinks frozen at 0..sink-1, the window
            behind them, new frames last; positions never exceed S + F
            (MotionStream, Infinity-RoPE), so a stream may run for ever

Slot order is irrelevant to attention, hence nothing is ever shifted or copied.

A cache that is recalled from (attention/moc/recall.py) holds a long past, of
which every call reads some. It keeps the mean key of each frame to choose by.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from worldsim_jax.attention.moc.recall import Recall
from worldsim_jax.parallel import layout

EMPTY = -1


class KeyValues(NamedTuple):
  """Un-roped keys and values of some frames, each [L, B, F, N, H, D].

  mean: float32 [L, B, F, H, D], of a cache that is recalled from.
  """
  k: jax.Array
  v: jax.Array
  mean: jax.Array | None = None


@flax.struct.dataclass
class KVCache:
  """Past frames, ready to be attended to.

  Attributes:
    k, v: [L, B, S, N, H, D], keys un-roped.
    position: int32 [S], the frame that each slot holds, -1 where empty.
    length: int32 [], frames written since the start of the video.
    sink: pinned frames.
    relative: the position policy (see the module docstring).
    mean: float32 [L, B, S, H, D], see `recall.descriptors`, or None.
    recall: how much is read of it; None for all.
  """
  k: jax.Array
  v: jax.Array
  position: jax.Array
  length: jax.Array
  sink: int = flax.struct.field(pytree_node=False, default=0)
  relative: bool = flax.struct.field(pytree_node=False, default=False)
  mean: jax.Array | None = None
  recall: Recall | None = flax.struct.field(pytree_node=False, default=None)

  @property
  def num_slots(self) -> int:
    return self.position.shape[0]

  @property
  def batch(self) -> int:
    return self.k.shape[1]

  def holds(self, num_frames: int) -> bool:
    """Whether all of a video of that length is there, and read."""
    return num_frames <= self.num_slots and self.recall is None

  def takes(self, num_frames: int) -> bool:
    """Whether so many chunks can go into the empty cache at once.

    If not they must go one by one: earlier ones would be overwritten, or what
    later ones recall of them must first be there to choose from.
    """
    return (num_frames <= self.num_slots - self.sink
            and self.recall is None)

  def append(self, new: KeyValues) -> 'KVCache':
    """Returns the cache with F more frames; the oldest unpinned ones go.

    Raises:
      ValueError: if F frames would overwrite each other.
    """
    num_new = new.k.shape[2]
    if num_new > self.num_slots - self.sink:
      raise ValueError(
          f'{num_new} frames do not fit a window of '
          f'{self.num_slots - self.sink} slots (config.student.window); '
          'write them chunk by chunk.')
    position = self.length + jnp.arange(num_new)
    slot = self._slot(position)

    def write(all_slots, new, axis):
      # Frame by frame, in place. A scatter would be one line, but the TPU
      # compiler dies of this one between devices (libtpu 0.0.42.1).
      new = new.astype(all_slots.dtype)
      for i in range(num_new):
        all_slots = jax.lax.dynamic_update_slice_in_dim(
            all_slots, jax.lax.slice_in_dim(new, i, i + 1, axis=axis), slot[i],
            axis)
      return all_slots

    write_frames = lambda old, new: layout.constrain_cache(write(old, new, 2))
    mean = None if self.mean is None else write(self.mean, new.mean, 2)
    return self.replace(
        k=write_frames(self.k, new.k), v=write_frames(self.v, new.v), mean=mean,
        position=write(self.position, position, 0),
        length=self.length + num_new)

  def mask(self) -> jax.Array:
    """bool [S]: slots that hold a frame."""
    return self.position != EMPTY

  def slot_positions(self) -> jax.Array:
    """Temporal RoPE position of each slot, int32 [S] (any value if empty)."""
    if not self.relative:
      return self.position
    window = self.num_slots - self.sink
    oldest = jnp.maximum(self.length - window, self.sink)
    in_window = self.position - oldest + self.sink
    return jnp.where(self.position < self.sink, self.position, in_window)

  def next_positions(self, num_frames: int) -> jax.Array:
    """Temporal RoPE positions of the next frames, int32 [F]."""
    first = self.length
    if self.relative:
      first = jnp.minimum(first, self.num_slots)
    return first + jnp.arange(num_frames)

  def _slot(self, position):
    ring = self.num_slots - self.sink
    return jnp.where(position < self.sink, position,
                     self.sink + (position - self.sink) % ring)


def empty(*, num_layers: int, batch: int, num_slots: int, tokens_per_frame: int,
          num_heads: int, head_dim: int, sink: int = 0, relative: bool = False,
          dtype=jnp.float32, recall: Recall | None = None) -> KVCache:
  """A cache with no frames.

  Raises:
    ValueError: if the pinned frames leave no slot for a window, or there is
      nothing to recall.
  """
  if recall is not None:
    recall.check()
    if recall.window + recall.sink >= num_slots:
      raise ValueError(
          f'{num_slots} slots hold nothing to recall beside the {recall.sink} '
          f'+ {recall.window} frames that are always read '
          '(config.student.recall.slots, config.student.sink, '
          'config.student.window).')
  if not 0 <= sink < num_slots:
    raise ValueError(
        f'sink={sink} frames do not fit num_slots={num_slots}, which must hold '
        'at least one more frame (config.student.sink, config.student.window).')
  shape = (num_layers, batch, num_slots, tokens_per_frame, num_heads, head_dim)
  zeros = lambda: layout.constrain_cache(jnp.zeros(shape, dtype))
  mean = None
  if recall is not None:
    mean = jnp.zeros((num_layers, batch, num_slots, num_heads, head_dim))
  return KVCache(
      k=zeros(), v=zeros(), mean=mean, recall=recall,
      position=jnp.full((num_slots,), EMPTY, jnp.int32),
      length=jnp.zeros((), jnp.int32), sink=sink, relative=relative)

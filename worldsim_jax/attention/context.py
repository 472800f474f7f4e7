"""Who may attend to whom, as data.

Teacher, student and critic are one transformer. What differs is a *context*:
the temporal position of each frame of the call, and which frame may read which.
All masks of the project are constant within a frame, so they are held at frame
level, bool [F, G], and never expanded to tokens outside the attention kernel.

  bidirectional   every frame reads every frame (the teacher)
  block causal    chunk i reads chunks j ≤ i (CausVid, eq. in Sec. 3.2)
  teacher forcing [clean; noisy] frames in one sequence: clean chunk i reads
                  clean chunks j ≤ i; noisy chunk i clean chunks j < i and
                  itself

A KV cache adds key frames in front; `KVCache.mask` says which of them exist.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class AttentionContext:
  """Who reads whom.

  Attributes:
    positions: temporal RoPE position of each frame, int32 [F].
    mask: bool [F, F] as nested tuples, or None for 'all to all'. It is static,
      a part of the program, so that the pairs it forbids are never computed.
  """
  positions: jax.Array
  mask: tuple[tuple[bool, ...], ...] | None = flax.struct.field(
      pytree_node=False, default=None)


def bidirectional(num_frames: int) -> AttentionContext:
  return AttentionContext(jnp.arange(num_frames))


def block_causal(num_frames: int, chunk: int, window: int | None = None,
                 sink: int = 0) -> AttentionContext:
  """Chunks of `chunk` frames, each reading itself and earlier chunks.

  Args:
    num_frames: F, a multiple of chunk.
    chunk: frames that are denoised together.
    window: with it, a chunk reads at most this many frames before itself...
    sink: ...plus the first `sink` frames of the video.
  """
  block = _blocks(num_frames, chunk)
  mask = block[None, :] <= block[:, None]
  if window is not None:
    key, first = np.arange(num_frames)[None], (block * chunk)[:, None]
    mask &= (key >= first - window) | (key < sink)
  return AttentionContext(jnp.arange(num_frames), _frozen(mask))


def teacher_forcing(num_frames: int, chunk: int) -> AttentionContext:
  """The mask over 2F frames, clean first; both halves have positions 0..F-1.

  n chunks of b frames allow n (n + 1) b² frame pairs.
  """
  block = _blocks(num_frames, chunk)
  earlier = block[None, :] < block[:, None]
  own = block[None, :] == block[:, None]
  mask = np.block([[earlier | own, np.zeros_like(own)], [earlier, own]])
  positions = jnp.tile(jnp.arange(num_frames), 2)
  return AttentionContext(positions, _frozen(mask))


def _frozen(mask_FG: np.ndarray) -> tuple[tuple[bool, ...], ...]:
  return tuple(map(tuple, mask_FG.tolist()))


def _blocks(num_frames: int, chunk: int) -> np.ndarray:
  if chunk < 1 or num_frames % chunk:
    raise ValueError(
        f'chunk={chunk} must divide num_frames={num_frames} '
        '(config.student.chunk).')
  return np.arange(num_frames) // chunk

"""Who may attend to whom, as data.

Teacher, student and critic are one transformer. What differs is a *context*:
the temporal position of each frame of the call, and which frame may read which.
All masks of the project are constant within a frame, so they are held at frame
level, bool [F, G], and never expanded to tokens outside the attention kernel.

  bidirectional   every frame reads every frame (the teacher)
  block causal    chunk i reads chunks j ≤ i (CausVid, eq. in Sec. 3.2)
  teacher forcing [clean; noisy] frames in one sequence: clean chunk i reads
                  clean chunks j ≤ i; noisy chunk i clean chunks j < i and
                  itself. The last clean chunk, which none reads, and the noisy
                  chunks that no loss wants are left out

A KV cache adds key frames in front; `KVCache.mask` says which of them exist.

  cached chunks   all chunks of a finished rollout at once, each reading what
                  was cached before it, and itself
  mixture         every token reads its shot and the chunks that it chooses, see
                  attention/moc; instead of a mask
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention.moc import attend as moc


@flax.struct.dataclass
class AttentionContext:
  """Who reads whom.

  Attributes:
    positions: temporal RoPE position of each frame, int32 [F].
    mask: bool [F, F] as nested tuples, or None for 'all to all'. It is static,
      a part of the program, so that the pairs it forbids are never computed.
      With a cache of S slots it may be [S + F] wide, and then says all.
    texts: int32 [B, F], which of several texts of the conditioning each frame
      reads, where each shot has its own; None where there is one.
    mixture: of the F frames, without a mask and without a cache; or None. Its
      rng_BH has the layers in front, [L, B, H].
  """
  positions: jax.Array
  mask: tuple[tuple[bool, ...], ...] | None = flax.struct.field(
      pytree_node=False, default=None)
  texts: jax.Array | None = None
  mixture: moc.Mixture | None = None


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


def teacher_forcing(num_frames: int, chunk: int,
                    first: int = 0) -> AttentionContext:
  """The mask over clean frames 0 .. F-chunk-1, then noisy frames first .. F-1.

  Args:
    num_frames: F of the clip, a multiple of chunk.
    chunk: frames that are denoised together.
    first: the noisy frames begin with the chunk that holds this frame.

  Returns:
    The context; its positions say which frame of the clip each frame is. n
    chunks of b frames, all of them noisy, allow n² b² pairs of frames.
  """
  block = _blocks(num_frames, chunk)
  earlier = block[None, :] < block[:, None]
  own = block[None, :] == block[:, None]
  mask = np.block([[earlier | own, np.zeros_like(own)], [earlier, own]])
  clean = np.arange(num_frames - chunk)
  noisy = np.arange(first // chunk * chunk, num_frames)
  kept = np.concatenate([clean, num_frames + noisy])
  return AttentionContext(
      jnp.concatenate([clean, noisy]), _frozen(mask[np.ix_(kept, kept)]))


def cached_chunks(first: int, num_frames: int, chunk: int,
                  num_slots: int) -> AttentionContext:
  """Chunks of frames first, first + 1, ... over a cache that holds them all.

  Args:
    first: a multiple of chunk; frames before it are cached, too.
    num_frames: F, a multiple of chunk.
    chunk: frames that were denoised together.
    num_slots: S, of a cache in which slot s holds frame s.

  Raises:
    ValueError: if the cache is too short to hold all frames.
  """
  if first + num_frames > num_slots:
    raise ValueError(f'{first + num_frames} frames of a rollout do not fit a '
                     f'cache of {num_slots} slots, which must hold them all.')
  block = _blocks(num_frames, chunk)
  past = np.arange(num_slots)[None] < first + (block * chunk)[:, None]
  own = block[None, :] == block[:, None]
  return AttentionContext(
      jnp.arange(first, first + num_frames), _frozen(np.hstack([past, own])))


def _frozen(mask_FG: np.ndarray) -> tuple[tuple[bool, ...], ...]:
  return tuple(map(tuple, mask_FG.tolist()))


def _blocks(num_frames: int, chunk: int) -> np.ndarray:
  if chunk < 1 or num_frames % chunk:
    raise ValueError(
        f'chunk={chunk} must divide num_frames={num_frames} '
        '(config.student.chunk).')
  return np.arange(num_frames) // chunk

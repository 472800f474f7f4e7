"""Shots: the parts of a film between its cuts. A clip lies within one.

What follows a cut follows from nothing that was shown or commanded. `shot_id`
[T] changes at every cut; an episode without it is one shot.
"""

import numpy as np

PER_EPISODE = ('text',)  # arrays that have no axis of frames


def starts(episode: dict, clip_frames: int) -> np.ndarray:
  """Where clips of so many frames of one shot may begin, int64 [n]."""
  number_T = _numbers(episode)
  last = max(len(number_T) - clip_frames + 1, 0)
  return np.flatnonzero(number_T[:last] == number_T[clip_frames - 1 :])


def longest(episode: dict) -> int:
  """Frames of the longest shot; 0 if nothing in the episode has frames."""
  return int(np.bincount(_numbers(episode), minlength=1).max())


def longest_of_each(source) -> np.ndarray:
  """The same of every episode of a source, int64 [N].

  A `records.Source` knows; the episodes of any other are read.
  """
  known = getattr(source, 'longest_shots', None)
  if known is None:
    known = [longest(source[i]) for i in range(len(source))]
  return np.array(known, np.int64)


def grouped(shot_id_T: np.ndarray, size: int) -> np.ndarray:
  """The shot_id of latent frames, [F] of [1 + size (F - 1)].

  The first is one frame, each other `size` frames. One that has frames of two
  shots belongs to neither: twice the number of its shot is even, or moves on.
  """
  first = np.append(shot_id_T[:1], shot_id_T[1::size])
  return (first + shot_id_T[::size]).astype(np.int32)


def is_per_frame(name: str, episode: dict) -> bool:
  return name not in PER_EPISODE and np.ndim(episode[name]) > 0


def _numbers(episode):
  """0, 1, ... for each frame's shot; also if shot_id does not grow."""
  if 'shot_id' not in episode:
    lengths = [len(v) for k, v in episode.items() if is_per_frame(k, episode)]
    return np.zeros(min(lengths, default=0), np.int64)
  shot_id = np.asarray(episode['shot_id'])
  return np.cumsum(np.diff(shot_id, prepend=shot_id[:1]) != 0)

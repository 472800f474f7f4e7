"""Shots: the parts of a film between its cuts.

What follows a cut follows from nothing that was shown or commanded, so most
clips lie within a shot; those of whole films begin with one. `shot_id` [T]
changes at every cut; an episode without it is one shot.
"""

import numpy as np

PER_EPISODE = ('text',)  # arrays that have no axis of frames


def starts(episode: dict, clip_frames: int, most: int = 1) -> np.ndarray:
  """Where clips of so many frames may begin, int64 [n].

  Args:
    episode: a film.
    clip_frames: of a clip.
    most: shots of a clip. With more than one, clips begin where a shot does.
  """
  number_T = numbers(episode)
  last = max(len(number_T) - clip_frames + 1, 0)
  first = number_T[:last]
  fits = number_T[clip_frames - 1 :] - first < most
  if most > 1:
    fits &= np.diff(first, prepend=-1) != 0
  return np.flatnonzero(fits)


def longest(episode: dict) -> int:
  """Frames of the longest shot; 0 if nothing in the episode has frames."""
  return int(np.bincount(numbers(episode), minlength=1).max())


def longest_of_each(source) -> np.ndarray:
  """The same of every episode of a source, int64 [N].

  A `records.Source` knows; the episodes of any other are read.
  """
  known = getattr(source, 'longest_shots', None)
  if known is None:
    known = [longest(source[i]) for i in range(len(source))]
  return np.array(known, np.int64)


def split(episode: dict) -> list[dict]:
  """The shots of a film, as films; what has no frames is all of theirs."""
  cuts = np.flatnonzero(np.diff(numbers(episode))) + 1
  ends = [0, *cuts.tolist(), None]
  cut = lambda name, part: (
      episode[name][part] if is_per_frame(name, episode) else episode[name]
  )
  return [
      {name: cut(name, slice(*pair)) for name in episode}
      for pair in zip(ends, ends[1:])
  ]


def is_per_frame(name: str, episode: dict) -> bool:
  return name not in PER_EPISODE and np.ndim(episode[name]) > 0


def numbers(episode: dict) -> np.ndarray:
  """0, 1, ... for each frame's shot, [T]; also if shot_id does not grow."""
  if 'shot_id' not in episode:
    lengths = [len(v) for k, v in episode.items() if is_per_frame(k, episode)]
    return np.zeros(min(lengths, default=0), np.int64)
  shot_id = np.asarray(episode['shot_id'])
  return np.cumsum(np.diff(shot_id, prepend=shot_id[:1]) != 0)

"""A user's folder of films as episodes.

A folder holds films and, beside `walk.mp4`, maybe

  walk.actions.npy | .json | .txt   one row (forward, strafe, turn) per frame
                                    recorded, or a script; see `actions`
  walk.txt                          a caption

and becomes the same records as the embedded world's; what is not there is NaN
(pose), zero (actions) or '' (caption, recipe). If the folder has subfolders
`train` and `test`, they are the splits; else one film in ten is for testing,
chosen by a hash of its name, and of a single film its last fifth.
"""

import functools
import hashlib
import os

import numpy as np

from worldsim_jax.data import actions as actions_lib
from worldsim_jax.data import records
from worldsim_jax.data import shards
from worldsim_jax.data import video_files
from worldsim_jax.data import workers
from worldsim_jax.errors import UserError

WHOLE = (0.0, 1.0)
HELD_OUT = 0.2  # of a single film, its end
SHARD_BYTES, SHARD_FILMS = 2**30, 256  # of films that make one shard, at most


def record(source_dir: str, data_dir: str, **options) -> str:
  """Records a folder of films; returns the record set's folder.

  Args:
    source_dir: see the file's docstring.
    data_dir: shared by all record sets.
    **options: of `films`.
  """
  return records.write(data_dir, *films(source_dir, **options))


def films(
    source_dir: str,
    *,
    height: int,
    width: int,
    frames_per_second: float,
    tics_per_frame: float = actions_lib.WORD_TICS,
    episode_frames: int = 300,
    num_threads: int = 1,
    skip_damaged: bool = False,
) -> tuple[str, dict[str, shards.Shards]]:
  """The key and the splits of a folder of films.

  Args:
    source_dir: see the file's docstring.
    height: of the frames recorded: cut in the middle to this shape, then
      area-averaged.
    width: likewise.
    frames_per_second: films are sampled at this rate; a slower one repeats.
    tics_per_frame: of the words in scripts of actions, see `actions.parse`.
    episode_frames: longer films are cut into episodes of at most this length.
      Episodes shorter than a clip cannot be trained on.
    num_threads: that decode films.
    skip_damaged: films that cannot be read are named in the record set and left
      out; otherwise the first ends it.
  """
  found = _films(source_dir)
  key = records.key_of(
      'video',
      {
          'size': [height, width],
          'rate': frames_per_second,
          'tics': tics_per_frame,
          'length': episode_frames,
          'files': {
              split: [[_fingerprint(path), part] for path, part in parts]
              for split, parts in found.items()
          },
      },
  )
  video_files.pyav()  # That it is missing is no damage of a film.
  read = functools.partial(
      _episodes,
      skip_damaged,
      height=height,
      width=width,
      episode_frames=episode_frames,
      frames_per_second=frames_per_second,
      tics_per_frame=tics_per_frame,
  )
  # Threads, as decoders let go of Python's lock: from other processes the
  # frames, which are many, would have to be copied.
  work = lambda items: workers.threads(
      lambda item: read(*item), items, max(1, num_threads)
  )
  return key, {
      split: shards.of_items(shards.cut(items, _part_of_shard, 1), work)
      for split, items in found.items()
  }


def _part_of_shard(item):
  path, _ = item
  return max(os.path.getsize(path) / SHARD_BYTES, 1 / SHARD_FILMS)


def _episodes(skip_damaged, path, part, **options):
  """What becomes of a film: its episodes, or what is wrong with it."""
  try:
    return list(read_episodes(path, part=part, **options))
  except UserError as e:
    if not skip_damaged:
      raise
    return [shards.Damaged(str(e))]


def read_episodes(
    path: str,
    *,
    height: int,
    width: int,
    frames_per_second: float,
    tics_per_frame: float = actions_lib.WORD_TICS,
    episode_frames: int = 300,
    part: tuple[float, float] = WHOLE,
):
  """Yields the episodes of one film, or a part of it, and its sidecar files."""
  rgb = video_files.read(
      path, height=height, width=width, frames_per_second=frames_per_second
  )
  stem = os.path.splitext(path)[0]
  actions = _sidecar_actions(stem, len(rgb), tics_per_frame)
  caption = ''
  if os.path.exists(stem + '.txt'):
    with open(stem + '.txt') as f:
      caption = f.read().strip()
  begin, end = (round(share * len(rgb)) for share in part)
  # Of about equal length: a short rest would be too short for a clip.
  count = -(-(end - begin) // episode_frames)
  ends = begin + np.arange(count + 1) * (end - begin) // max(count, 1)
  for span in map(slice, ends[:-1], ends[1:]):
    length = len(rgb[span])
    commands = actions[span].copy()
    commands[0] = 0  # By the schema: nothing led to an episode's first frame.
    yield dict(
        rgb=rgb[span],
        actions=commands,
        pose=np.full((length, 4), np.nan),
        shot_id=np.zeros(length, np.int32),
        caption=caption,
        recipe='',
    )


def _films(source_dir):
  """(path, part of the film) of each split, sorted."""

  def inside(*folders):
    directory = os.path.join(source_dir, *folders)
    if folders and not os.path.isdir(directory):
      return []
    return sorted(
        os.path.join(directory, name)
        for name in os.listdir(directory)
        if name.lower().endswith(video_files.SUFFIXES)
    )

  try:
    if os.path.isdir(os.path.join(source_dir, 'train')):
      films = {
          split: [(path, WHOLE) for path in inside(split)]
          for split in ('train', 'test')
      }
    else:
      films = _divide(inside())
  except OSError as e:
    raise UserError(f'{source_dir}: cannot list this folder ({e})') from e
  uses = {'train': 'train on', 'test': 'test with (folder test beside train)'}
  for split, use in uses.items():
    if not films[split]:
      raise UserError(
          f'{source_dir}: no films ({", ".join(video_files.SUFFIXES)}) to {use}'
      )
  return films


def _divide(paths):
  """One in ten, at least one, by the hash of the name; of one film its end."""
  if len(paths) == 1:
    [path] = paths
    return {
        'train': [(path, (0.0, 1 - HELD_OUT))],
        'test': [(path, (1 - HELD_OUT, 1.0))],
    }
  by_hash = sorted(
      paths,
      key=lambda path: hashlib.sha256(os.path.basename(path).encode()).digest(),
  )
  test = by_hash[: max(len(paths) // 10, 1)]
  return {
      'train': [(path, WHOLE) for path in paths if path not in test],
      'test': [(path, WHOLE) for path in test],
  }


def _fingerprint(path):
  """Changes when the film or a sidecar file does."""
  stem = os.path.splitext(os.path.basename(path))[0]
  directory = os.path.dirname(path)
  beside = sorted(
      name for name in os.listdir(directory) if name.startswith(stem + '.')
  )
  stats = [os.stat(os.path.join(directory, name)) for name in beside]
  return [[name, s.st_size, s.st_mtime_ns] for name, s in zip(beside, stats)]


def _sidecar_actions(stem, num_frames, tics_per_frame):
  for suffix in ('.npy', '.json', '.txt'):
    path = f'{stem}.actions{suffix}'
    if os.path.exists(path):
      actions = actions_lib.read(path, tics_per_frame)
      if len(actions) != num_frames:
        raise UserError(
            f'{path} has {len(actions)} rows, but {num_frames} '
            'frames are recorded of its film (one row per frame at '
            'the recorded rate)'
        )
      return actions
  return np.zeros((num_frames, 3), np.float32)

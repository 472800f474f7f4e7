"""Video files in and out (PyAV): a user's folder of films as episodes.

A folder holds films and, beside `walk.mp4`, maybe

  walk.actions.npy | .json | .txt   one row (forward, strafe, turn) per frame
                                    recorded, or a script; see `actions`
  walk.txt                          a caption

and becomes the same records as the embedded world's; what is not there is NaN
(pose), zero (actions) or '' (caption, recipe). If the folder has subfolders
`train` and `test`, they are the splits; else one film in ten is for testing,
chosen by a hash of its name, and of a single film its last fifth.
"""

import fractions
import hashlib
import os

import numpy as np

from worldsim_jax.data import actions as actions_lib
from worldsim_jax.data import area
from worldsim_jax.data import missing
from worldsim_jax.data import records
from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths

WHOLE = (0.0, 1.0)
HELD_OUT = 0.2  # of a single film, its end
SUFFIXES = ('.mp4', '.mov', '.mkv', '.webm', '.avi')


def record(
    source_dir: str,
    data_dir: str,
    *,
    height: int,
    width: int,
    frames_per_second: float,
    tics_per_frame: float = actions_lib.WORD_TICS,
    episode_frames: int = 300,
) -> str:
  """Records a folder of films; returns the record set's folder.

  Args:
    source_dir: see the file's docstring.
    data_dir: shared by all record sets.
    height: of the frames recorded: cut in the middle to this shape, then
      area-averaged.
    width: likewise.
    frames_per_second: films are sampled at this rate; a slower one repeats.
    tics_per_frame: of the words in scripts of actions, see `actions.parse`.
    episode_frames: longer films are cut into episodes of at most this length.
      Episodes shorter than a clip cannot be trained on.
  """
  films = _films(source_dir)
  key = records.key_of(
      'video',
      {
          'size': [height, width],
          'rate': frames_per_second,
          'tics': tics_per_frame,
          'length': episode_frames,
          'files': {
              split: [[_fingerprint(path), part] for path, part in parts]
              for split, parts in films.items()
          },
      },
  )

  def episodes(parts):
    for path, part in parts:
      yield from read_episodes(
          path,
          height=height,
          width=width,
          episode_frames=episode_frames,
          frames_per_second=frames_per_second,
          tics_per_frame=tics_per_frame,
          part=part,
      )

  return records.write(
      data_dir,
      key,
      {
          split: lambda parts=parts: episodes(parts)
          for split, parts in films.items()
      },
  )


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
  rgb = read(
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


def read(
    path: str,
    *,
    height: int | None = None,
    width: int | None = None,
    frames_per_second: float | None = None,
) -> np.ndarray:
  """uint8 [T, H, W, 3] of a film; by default its own size and rate.

  Raises:
    UserError: if the file is missing, damaged, or not a film.
  """
  av = _av()

  def picture(frame):
    rgb = frame.to_ndarray(format='rgb24')
    if height is None:
      return rgb
    return area.resize(_middle(rgb, height, width), height, width)

  try:
    with av.open(path) as container:
      stream = container.streams.video[0]
      decoded = _decode(path, container, stream)
      if frames_per_second is not None:
        decoded = _sample(decoded, frames_per_second, stream.average_rate)
      frames = [picture(frame) for frame in decoded]
  except UserError:
    raise
  except (av.error.FFmpegError, OSError, ValueError, IndexError) as e:
    reason = getattr(e, 'strerror', None) or e
    raise UserError(
        f'{path}: cannot decode this video ({reason}); check that '
        'it plays, or remove it'
    ) from e
  if not frames:
    raise UserError(f'{path}: the video has no frames')
  return np.stack(frames)


def _decode(path, container, stream):
  """Frames in order; a file that ends too early decodes without an error."""
  count = 0
  for frame in container.decode(stream):
    yield frame
    count += 1
  # Files that play may lack a few of the frames that they announce.
  if count < 0.9 * stream.frames:
    raise UserError(
        f'{path}: the video is truncated, {count} of its '
        f'{stream.frames} frames are there; remove it or copy it '
        'again'
    )


def _sample(decoded, rate, source_rate):
  """What is on screen at 0, 1/rate, 2/rate, ... s after the first frame."""
  shown, first, due = None, 0.0, 0
  for frame in decoded:
    if shown is None:
      first = frame.time
    # Sample `due` belongs to the frame before if it is before this one's time.
    while shown is not None and due / rate < frame.time - first - 1e-6:
      yield shown
      due += 1
    shown = frame
  while shown is not None and (
      due / rate < shown.time - first + 1 / source_rate - 1e-6
  ):
    yield shown
    due += 1


def write_mp4(
    path: str,
    rgb_THWC: np.ndarray,
    frames_per_second: float,
    *,
    scale: int = 1,
    quality: int = 18,
) -> None:
  """Writes uint8 [T, H, W, 3] as H.264, under its name only when complete.

  Args:
    path: ends in .mp4; local or gs://.
    rgb_THWC: the frames; odd sizes are padded by a pixel, as yuv420p needs.
    frames_per_second: of the file.
    scale: repeats pixels, so that small worlds can be seen.
    quality: x264's crf, 0 (lossless) to 51.
  """
  av = _av()
  if rgb_THWC.dtype != np.uint8 or rgb_THWC.ndim != 4:
    raise ValueError(
        f'frames are {rgb_THWC.dtype} {rgb_THWC.shape}, need uint8 '
        '[T, H, W, 3]'
    )
  rgb = rgb_THWC.repeat(scale, 1).repeat(scale, 2)
  rgb = np.pad(
      rgb,
      ((0, 0), (0, rgb.shape[1] % 2), (0, rgb.shape[2] % 2), (0, 0)),
      mode='edge',
  )
  rate = fractions.Fraction(frames_per_second).limit_denominator(1001)
  try:
    with paths.local_file(path) as local:
      _encode(local, rgb, rate, quality)
  except (av.error.FFmpegError, OSError, *paths.remote_errors()) as e:
    raise UserError(f'{path}: cannot write the film ({e})') from e


def _encode(path, rgb, rate, quality):
  av = _av()
  partial = f'{path}.{os.getpid()}.partial'
  try:
    with av.open(
        partial, 'w', format='mp4', options={'movflags': 'faststart'}
    ) as container:
      stream = container.add_stream('libx264', rate)
      stream.height, stream.width = rgb.shape[1:3]
      stream.pix_fmt, stream.options = 'yuv420p', {'crf': str(quality)}
      for image in rgb:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
      container.mux(stream.encode())
    os.replace(partial, path)
  finally:
    if os.path.exists(partial):
      os.remove(partial)


def _av():
  try:
    import av
  except ImportError as e:
    raise missing('av', 'reading and writing video files') from e
  return av


def _films(source_dir):
  """(path, part of the film) of each split, sorted."""

  def inside(*folders):
    directory = os.path.join(source_dir, *folders)
    if folders and not os.path.isdir(directory):
      return []
    return sorted(
        os.path.join(directory, name)
        for name in os.listdir(directory)
        if name.lower().endswith(SUFFIXES)
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
          f'{source_dir}: no films ({", ".join(SUFFIXES)}) to {use}'
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


def _middle(rgb_HWC, height, width):
  """The largest part in the middle that has the shape height : width."""
  h, w = rgb_HWC.shape[:2]
  new_h, new_w = min(h, w * height // width), min(w, h * width // height)
  top, left = (h - new_h) // 2, (w - new_w) // 2
  return rgb_HWC[top : top + max(new_h, 1), left : left + max(new_w, 1)]

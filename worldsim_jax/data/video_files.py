"""Video files in and out (PyAV)."""

import fractions
import os

import numpy as np

from worldsim_jax.data import area
from worldsim_jax.data import missing
from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths

SUFFIXES = ('.mp4', '.mov', '.mkv', '.webm', '.avi')


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
  av = pyav()

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
  except (pyav().error.FFmpegError, OSError, ValueError, IndexError) as e:
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
  av = pyav()
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
  except (pyav().error.FFmpegError, OSError, *paths.remote_errors()) as e:
    raise UserError(f'{path}: cannot write the film ({e})') from e


def _encode(path, rgb, rate, quality):
  av = pyav()
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


def pyav():
  """The package, or the line that installs it."""
  try:
    import av
  except ImportError as e:
    raise missing('av', 'reading and writing video files') from e
  return av


def _middle(rgb_HWC, height, width):
  """The largest part in the middle that has the shape height : width."""
  h, w = rgb_HWC.shape[:2]
  new_h, new_w = min(h, w * height // width), min(w, h * width // height)
  top, left = (h - new_h) // 2, (w - new_w) // 2
  return rgb_HWC[top : top + max(new_h, 1), left : left + max(new_w, 1)]

"""Films for people to look at: labelled, side by side, enlarged.

All films are uint8 [T, H, W, 3]. Enlarging repeats pixels, so that what is
judged is what the model made. Sizes come out even, as H.264 needs.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import io
import os
import re

from etils import epath
import numpy as np

_BACKGROUND, _INK, _FAINT = (20, 22, 26), (240, 240, 240), (170, 174, 180)
_GAP = 6  # Pixels between films.
_FONT_SIZES = (16, 14, 12, 10)


def side_by_side(
    columns: Mapping[str, np.ndarray],
    scale: int = 4,
    captions: Sequence[str] | None = None,
) -> np.ndarray:
  """One row of films, each under its label.

  Args:
    columns: films of one shape by label, such as 'truth' and 'student'.
    scale: whole number by which pixels are repeated.
    captions: one text per frame, such as the action; a line below the row.
  """
  shapes = {label: film.shape for label, film in columns.items()}
  if not shapes or len(set(shapes.values())) != 1:
    raise ValueError(f'films side by side must have one shape, not {shapes}')
  first = next(iter(columns.values()))
  _check_film(first)
  num_frames, height, width, _ = first.shape
  if captions is not None and len(captions) != num_frames:
    raise ValueError(
        f'{len(captions)} captions were given for {num_frames} frames'
    )
  width *= scale
  films = []
  for label, film in columns.items():
    title = _text_strip(label, width, _INK)
    enlarged = film.repeat(scale, axis=1).repeat(scale, axis=2)
    strip = np.broadcast_to(title, (num_frames, *title.shape))
    films.append(np.concatenate([strip, enlarged], axis=1))
  row = _join(films, axis=2)
  if captions is not None:
    below = [_text_strip(text, row.shape[2], _FAINT) for text in captions]
    row = np.concatenate([row, np.stack(below)], axis=1)
  return _make_even(row)


def grid(rows: Sequence[np.ndarray]) -> np.ndarray:
  """Stacks films; narrower ones get a margin, shorter ones hold their end."""
  if not rows:
    raise ValueError('a grid needs at least one film')
  for row in rows:
    _check_film(row)
  num_frames = max(row.shape[0] for row in rows)
  width = max(row.shape[2] for row in rows)
  padded = []
  for row in rows:
    row = np.pad(
        row,
        ((0, num_frames - row.shape[0]), (0, 0), (0, 0), (0, 0)),
        mode='edge',
    )
    margin = _blank((*row.shape[:2], width - row.shape[2], 3))
    padded.append(np.concatenate([row, margin], axis=2))
  return _make_even(_join(padded, axis=1))


def gif_bytes(frames: np.ndarray, frames_per_second: float) -> bytes:
  """An endless GIF, 256 colours per frame; its clock ticks in 1/100 s."""
  from PIL import Image

  _check_film(frames)
  images = [
      Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE)
      for frame in frames
  ]
  # Browsers slow down what is shorter than 1/50 s.
  milliseconds = 10 * max(2, round(100 / frames_per_second))
  buffer = io.BytesIO()
  images[0].save(
      buffer,
      format='GIF',
      save_all=True,
      append_images=images[1:],
      duration=milliseconds,
      loop=0,
  )
  return buffer.getvalue()


def write_films(
    folder, films: Mapping[str, np.ndarray], frames_per_second: float
) -> dict[str, str]:
  """Writes one mp4 per title; returns their paths by title, for a report."""
  from worldsim_jax.data import video_files  # Needs PyAV, which few modes do.

  epath.Path(folder).mkdir(parents=True, exist_ok=True)
  paths = {}
  for title, frames in films.items():
    _check_film(frames)
    name = re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_') or 'film'
    if name in (
        os.path.basename(path)[: -len('.mp4')] for path in paths.values()
    ):
      raise ValueError(f'two films would be written to {name}.mp4')
    paths[title] = os.fspath(epath.Path(folder) / f'{name}.mp4')
    video_files.write_mp4(paths[title], _make_even(frames), frames_per_second)
  return paths


def _check_film(film):
  if film.dtype != np.uint8 or film.ndim != 4 or film.shape[-1] != 3:
    raise ValueError(
        f'a film is uint8 [T, H, W, 3], not {film.dtype} {film.shape}'
    )
  if not film.size:
    raise ValueError(f'a film of shape {film.shape} has nothing to show')


def _join(films, axis):
  """Concatenates with a gap between neighbours."""
  shape = list(films[0].shape)
  shape[axis] = _GAP
  parts = [films[0]]
  for film in films[1:]:
    parts += [_blank(shape), film]
  return np.concatenate(parts, axis=axis)


def _make_even(film):
  height, width = film.shape[1:3]
  film = np.concatenate([film, _blank((len(film), height % 2, width, 3))], 1)
  return np.concatenate([film, _blank((*film.shape[:2], width % 2, 3))], axis=2)


def _blank(shape):
  return np.broadcast_to(np.array(_BACKGROUND, np.uint8), shape)


@functools.lru_cache(maxsize=1024)  # Captions repeat from frame to frame.
def _text_strip(text: str, width: int, colour) -> np.ndarray:
  """Text centred on [24, width, 3], smaller or cut where it does not fit."""
  from PIL import Image
  from PIL import ImageDraw
  from PIL import ImageFont

  image = Image.new('RGB', (width, 24), _BACKGROUND)
  draw = ImageDraw.Draw(image)
  for size in _FONT_SIZES:
    font = ImageFont.load_default(size)
    if draw.textlength(text, font) <= width - 4:
      break
  while text and draw.textlength(text, font) > width - 4:
    text = text.removesuffix('...')[:-1] + '...' if len(text) > 4 else ''
  draw.text((width / 2, 12), text, fill=colour, font=font, anchor='mm')
  return np.asarray(image)

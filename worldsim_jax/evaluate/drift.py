"""How a film's looks drift away from the true film's, as time goes on.

Four figures of a frame, of which each kind of drift moves one. The first three
are of means over blocks of 8 x 8 pixels, in which noise has all but gone; Y is
luma, .299 R + .587 G + .114 B, of values in [0, 1], and sums are over blocks:

  brightness = mean Y                          contrast = std Y            (1)
  saturation = sum (max RGB - min RGB) / sum max RGB                       (2)

(2) does not change when all values are multiplied by a gain; as a ratio of sums
it is not ruled by dark blocks, whose own ratio is noise. Of single pixels,

  detail = mean (L Y)^2 / (64 var Y),  L Y = 4 Y - the 4 neighbours        (3)

over the pixels that have 4 neighbours. L multiplies a wave of frequencies a, b
by 4 - 2 cos a - 2 cos b, which is 8 at most, for a checkerboard: (3) is the
mean of its square over the spectrum of Y, the share of the energy that is in
high frequencies. White noise has 20/64, and a gain changes nothing.

A figure g of a film and h of the true one at the same time differ by

  r_t = log((g_t + c) / (h_t + c)),                                        (4)

0.1 for a tenth too much; c is so small that it only keeps dark frames finite. A
clip is told by the mean of r over time, and its slope per second by least
squares. The mean does not change when frames change places, bit for bit but for
the order of the sum; the slope does where the true film itself grows brighter,
which over many clips it does not. No figure asks how frames follow each other.

Noise that is cut off at black makes dark films brighter: with a standard
deviation of 10 grey levels by up to 2.6 %, while detail grew to between 1.9 and
3.6 times (six films of 64x48 from the engine). Gains that ran from 1 to 1.5 or
to 0.6 moved detail and saturation by at most 0.5 %.
"""

from collections.abc import Mapping

import numpy as np

NAMES = ('brightness', 'contrast', 'saturation', 'detail')
BLOCK = 8  # pixels
# c of (4): a grey level, less for a share of energy (blurred frames: 0.002).
_FLOORS = {
    'brightness': 1 / 255,
    'contrast': 1 / 255,
    'saturation': 0.01,
    'detail': 1e-4,
}
_LUMA = np.array([0.299, 0.587, 0.114])
_LARGEST = 64  # of the square of what L multiplies by


def statistics(film, block: int = BLOCK) -> dict[str, np.ndarray]:
  """The four figures of each frame: float64 [T] by name.

  Args:
    film: [T, H, W, 3], uint8 or floats in [0, 1].
    block: side of the blocks of (1) and (2); rows and columns that fill no
      block are left out. Frames smaller than one are one block high or wide.
  """
  rgb = _unit_floats(film)
  blocks = _block_means(rgb, block)
  luma = blocks @ _LUMA
  high, low = blocks.max(-1), blocks.min(-1)
  bright = np.maximum(high.sum((1, 2)), 1e-12)
  return {
      'brightness': luma.mean((1, 2)),
      'contrast': luma.std((1, 2)),
      'saturation': (high - low).sum((1, 2)) / bright,
      'detail': _detail(rgb @ _LUMA),
  }


def log_ratios(
    figures: Mapping[str, np.ndarray], true: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Equation (4), [T] by name, of what `statistics` says of two films."""
  ratios = {}
  for name, floor in _FLOORS.items():
    g, h = np.asarray(figures[name]), np.asarray(true[name])
    if g.shape != h.shape:
      raise ValueError(f'{name}: {g.shape} frames for {h.shape} true ones')
    ratios[name] = np.log((g + floor) / (h + floor))
  return ratios


def clip_drift(
    ratios: Mapping[str, np.ndarray], frames_per_second: float
) -> dict[str, float]:
  """One clip's numbers, for a bootstrap over clips.

  Args:
    ratios: what `log_ratios` returned, [T] each.
    frames_per_second: of the film.

  Returns:
    `<name>` (mean of the log ratio) and `<name>_slope` (of it, per second; 0
    for one frame) for each of `NAMES`.
  """
  numbers = {}
  for name, ratio in ratios.items():
    seconds = np.arange(len(ratio)) / frames_per_second
    seconds -= seconds.mean()
    square = np.sum(seconds**2)
    slope = np.sum(seconds * ratio) / square if square else 0.0
    numbers[name] = float(np.mean(ratio))
    numbers[f'{name}_slope'] = float(slope)
  return numbers


def drift(film, truth, frames_per_second: float) -> dict[str, float]:
  """All three steps for one clip: films [T, H, W, 3] of one shape."""
  figures, true = statistics(film), statistics(truth)
  return clip_drift(log_ratios(figures, true), frames_per_second)


def _detail(luma_THW):
  """Equation (3) of each frame; 0 for a frame of one colour."""
  centre = luma_THW[:, 1:-1, 1:-1]
  laplacian = 4 * centre - (
      luma_THW[:, :-2, 1:-1]
      + luma_THW[:, 2:, 1:-1]
      + luma_THW[:, 1:-1, :-2]
      + luma_THW[:, 1:-1, 2:]
  )
  variance = centre.var((1, 2))
  # What rounding leaves of one colour is no detail.
  some = variance > 1e-12
  energy = np.mean(laplacian**2, (1, 2))
  return np.where(some, energy / (_LARGEST * np.where(some, variance, 1)), 0)


def _block_means(rgb, block):
  t, height, width, c = rgb.shape
  rows, columns = min(block, height), min(block, width)
  m, n = height // rows, width // columns
  cut = rgb[:, : m * rows, : n * columns]
  return cut.reshape(t, m, rows, n, columns, c).mean((2, 4))


def _unit_floats(film):
  film = np.asarray(film)
  if (
      film.ndim != 4
      or film.shape[-1] != 3
      or min(film.shape[:3], default=0) < 1
  ):
    raise ValueError(f'film is {film.shape}; need [T, H, W, 3]')
  if min(film.shape[1:3]) < 3:
    raise ValueError(f'frames of {film.shape[1:3]} have no inner pixels')
  if film.dtype == np.uint8:
    return film / 255
  if not np.issubdtype(film.dtype, np.floating):
    raise ValueError(f'film is {film.dtype}; need uint8 or floats')
  if not (-1e-3 <= film.min() and film.max() <= 1 + 1e-3):
    raise ValueError(
        f'float film spans [{film.min():.3g}, {film.max():.3g}]; need [0, 1]'
    )
  return film.astype(np.float64)

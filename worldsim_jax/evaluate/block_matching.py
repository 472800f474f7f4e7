"""Where did commanded points really go? Patches, searched for in a film.

A point of a still scene is commanded to be at uv[t] in frame t. In the known
first frame it lies on a surface whose place and normal are exact, so what a
patch around it must look like from the camera of frame t is known as well: each
pixel of the patch is a ray that meets the point's plane somewhere, and the
first frame shows the colour there. This patch is compared with the film around
the commanded position, by normalised cross-correlation (NCC, over all colours)
at whole pixels, and between them by a paraboloid through the best value and its
neighbours. Where patches are flat, or leave the surface or the frame, nothing
can be told, and `judged` is False.

A patch that is found (its best NCC is at least `FOUND`) tells that the point is
visible. Where it looks the same elsewhere (brick), the best place may be the
wrong one: `distinct` is False if the second peak is nearly as high. Take
errors of positions where distinct, visibility where judged. The same of the
true film is the floor: there all errors are this estimator's.

Shapes: T frames, N points; positions (u, v) as in `data.camera`.
"""

import dataclasses

import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import correspondence

FOUND = 0.5  # NCC that tells that a point is visible
SURE = 0.6  # NCC for where it is
DISTINCT = 0.8  # highest second peak then, as a share of the first
_PEAK = 2  # pixels around the best value that belong to its peak
_MIN_CONTRAST = 4.0 / 255  # standard deviation, share of the range
_MIN_ON_SURFACE = 0.6  # share of a patch's pixels
_SAME_PLANE = 0.02  # relative difference of depths


@dataclasses.dataclass(frozen=True, eq=False)
class Matches:
  """Of a film of T frames, N points."""

  uv: np.ndarray  # float64 [T, N, 2]: measured; NaN where not judged
  peak: np.ndarray  # float64 [T, N]: best NCC, NaN where not judged
  second: np.ndarray  # float64 [T, N]: best NCC away from that peak
  judged: np.ndarray  # bool [T, N]

  @property
  def found(self) -> np.ndarray:
    """bool [T, N]: the estimate of visibility."""
    return self.judged & (np.nan_to_num(self.peak, nan=-1) >= FOUND)

  @property
  def distinct(self) -> np.ndarray:
    """bool [T, N]: found for sure, and nowhere else."""
    with np.errstate(invalid='ignore'):
      alone = self.second <= DISTINCT * self.peak
      return self.judged & (self.peak >= SURE) & alone


def match(
    camera,
    film,
    uv,
    *,
    frame,
    uv_frame,
    motion=None,
    motions=None,
    depth=None,
    normals=None,
    size: int = 9,
    radius: int = 6,
) -> Matches:
  """Searches for the points of a known frame in a film.

  With motions, depth and normals patches are seen in perspective; without, as
  in the known frame, good for small motions only.

  Args:
    camera: of the film and the known frame.
    film: [T, H, W, 3], uint8 or float in [0, 1].
    uv: float [T, N, 2], commanded; where NaN or outside, nothing is judged.
    frame: [H, W, 3], the known frame.
    uv_frame: float [N, 2], the points in it.
    motion: [4, 4] of the known frame's camera.
    motions: [T, 4, 4] of the commanded camera.
    depth: [H, W] of the known frame, inf where it does not hold.
    normals: [H, W, 3] of the known frame, world axes.
    size: of the patches, odd, in pixels.
    radius: of the search, in pixels.
  """
  frame, film = _unit(frame), np.asarray(film)
  uv_frame = np.asarray(uv_frame, np.float64)
  known = None
  if motions is not None:
    known = _Known(camera, motion, depth, normals, uv_frame)
  rows = []
  for t, positions in enumerate(uv):
    inside = ((positions >= 0) & (positions < frame.shape[1::-1])).all(-1)
    whole = np.where(inside[:, None], positions, 0).astype(int)
    pixels = _patch_pixels(whole, size)
    if known is None:
      source = pixels + (uv_frame - positions)[:, None]
      usable = _within(source, frame.shape)
    else:
      source, usable = known.seen_from(motions[t], pixels)
    source = np.where(usable[..., None], source, 0.5)
    patches = correspondence.sample(frame, source)
    usable &= inside[:, None]
    offset, peak, second, judged = _search(
        _unit(film[t]), whole, patches, usable, size, radius
    )
    # A patch that is found off its place by so much: so is its point.
    at = np.where(judged[:, None], positions + offset, np.nan)
    peak, second = (np.where(judged, x, np.nan) for x in (peak, second))
    rows.append((at, peak, second, judged))
  return Matches(*(np.array(column) for column in zip(*rows)))


class _Known:
  """The known frame's camera and depth, and the planes under its points."""

  def __init__(self, camera, motion, depth, normals, uv):
    column = np.clip(uv[:, 0].astype(int), 0, camera.width - 1)
    row = np.clip(uv[:, 1].astype(int), 0, camera.height - 1)
    at = depth[row, column]
    centres = np.stack([column, row], -1) + 0.5
    self._points = camera_lib.unproject(
        camera, motion, centres, np.where(np.isfinite(at), at, 1.0)
    )
    self._normals = normals[row, column] * np.isfinite(at)[:, None]
    self._camera, self._motion, self._depth = camera, motion, depth

  def seen_from(self, motion, pixels):
    """Where this frame shows what another one's pixels see of the planes.

    Args:
      motion: [4, 4] of the other frame's camera.
      pixels: [N, P, 2] in it, P of each point's plane.

    Returns:
      Positions [N, P, 2] in this frame, and bool [N, P]: it shows the plane
      there, and nothing before it.
    """
    camera, eye = self._camera, motion[:3, 3]
    flat = pixels.reshape(-1, 2)
    rays = camera_lib.unproject(camera, motion, flat, np.ones(len(flat)))
    rays = (rays - eye).reshape(*pixels.shape[:2], 3)
    height = np.sum(self._normals * (self._points - eye), -1)[:, None]
    with np.errstate(divide='ignore', invalid='ignore'):
      distance = height / np.einsum('npc,nc->np', rays, self._normals)
    ahead = np.isfinite(distance) & (distance > 0)
    # A point behind the camera is commanded to be nowhere.
    ahead &= camera_lib.project(camera, motion, self._points)[1][:, None] > 0
    met = eye + rays * np.where(ahead, distance, 1)[..., None]
    uv, depth = camera_lib.project(camera, self._motion, met.reshape(-1, 3))
    uv, depth = uv.reshape(pixels.shape), depth.reshape(ahead.shape)
    shown = ahead & (depth > 0) & _within(uv, self._depth.shape)
    # Inverse depth is linear in the picture of a plane: exact between pixels.
    inverse = correspondence.sample(
        1 / self._depth[..., None], np.where(shown[..., None], uv, 0.5)
    )[..., 0]
    return uv, shown & (np.abs(inverse * depth - 1) <= _SAME_PLANE)


def _patch_pixels(whole, size):
  """Centres of the pixels of patches, [N, size * size, 2]."""
  reach = np.arange(size) - size // 2
  u, v = np.meshgrid(reach, reach)
  offsets = np.stack([u.ravel(), v.ravel()], -1)
  return whole[:, None] + offsets + 0.5


def _within(uv, shape):
  u, v = uv[..., 0], uv[..., 1]
  return (u >= 0) & (v >= 0) & (u < shape[1]) & (v < shape[0])


def _search(film, whole, patches, usable, size, radius):
  """NCC of patches [N, P, 3] around whole pixels [N, 2] of a frame.

  Returns:
    offset [N, 2] in pixels, peak [N], second [N], judged [N].
  """
  weight = usable.astype(np.float64)[..., None]
  count = np.maximum(3 * usable.sum(1), 1)[:, None, None]
  mean = (patches * weight).sum(1, keepdims=True) * 3 / count
  template = (patches - mean) * weight
  power = np.sum(template**2, (1, 2))
  judged = usable.mean(1) >= _MIN_ON_SURFACE
  judged &= power >= count[:, 0, 0] * _MIN_CONTRAST**2
  windows, inside = _windows(film, whole, size, radius)
  score = np.full(inside.shape, -1.0)
  for n in np.flatnonzero(judged & inside.any((1, 2))):
    score[n] = _correlation(windows[n], template[n], weight[n], power[n])
  score = np.where(inside, score, -1.0)
  judged &= (score > -1).any((1, 2))
  index = score.reshape(len(score), -1).argmax(1)
  row, column = np.divmod(index, 2 * radius + 1)
  peak = score[np.arange(len(score)), row, column]
  offset = np.stack([column, row], -1) - radius + _vertex(score, row, column)
  away = np.arange(2 * radius + 1)
  near = np.abs(away - row[:, None])[:, :, None] <= _PEAK
  near = near & (np.abs(away - column[:, None])[:, None, :] <= _PEAK)
  second = np.where(near, -1.0, score).max((1, 2))
  return offset, peak, second, judged


def _windows(film, whole, size, radius):
  """All placements of a patch: a view [N, D, D, P, 3], and who is inside."""
  margin = size // 2 + radius
  padded = np.pad(film, ((margin, margin), (margin, margin), (0, 0)))
  views = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (0, 1))
  shifts = np.arange(2 * radius + 1)
  row = whole[:, 1, None] + shifts
  column = whole[:, 0, None] + shifts
  placed = views[row[:, :, None], column[:, None, :]]  # [N, D, D, 3, s, s]
  placed = np.moveaxis(placed, 3, -1)
  placed = placed.reshape(*placed.shape[:3], size * size, 3)
  low, high = size // 2, np.array(film.shape[:2]) - size // 2
  row, column = row - radius, column - radius
  rows = (row >= low) & (row < high[0])
  columns = (column >= low) & (column < high[1])
  return placed, rows[:, :, None] & columns[:, None, :]


def _correlation(windows, template, weight, power):
  """NCC of one template [P, 3], zero mean, with windows [D, D, P, 3]."""
  count = weight.sum()
  mean = np.einsum('yxpc,p->yxc', windows, weight[:, 0]) / count
  square = np.einsum('yxpc,yxpc,p->yx', windows, windows, weight[:, 0])
  variance = square - count * np.sum(mean**2, -1)
  product = np.einsum('yxpc,pc->yx', windows, template)
  # A window without contrast has no correlation.
  floor = 3 * count * (_MIN_CONTRAST / 4) ** 2
  return product / np.sqrt(power * np.maximum(variance, floor))


def _vertex(score, row, column):
  """Where between pixels peaks are, [N, 2]: of a paraboloid through the nine.

  Not of a parabola along each axis: the peaks of stripes lean.
  """
  size = score.shape[1]
  inner_row = np.clip(row, 1, size - 2)
  inner_column = np.clip(column, 1, size - 2)
  near = np.arange(-1, 2)
  s = score[
      np.arange(len(score))[:, None, None],
      (inner_row[:, None] + near)[:, :, None],
      (inner_column[:, None] + near)[:, None, :],
  ]
  slope_u, slope_v = (s[:, 1, 2] - s[:, 1, 0]) / 2, (
      s[:, 2, 1] - s[:, 0, 1]
  ) / 2
  bend_u = s[:, 1, 2] - 2 * s[:, 1, 1] + s[:, 1, 0]
  bend_v = s[:, 2, 1] - 2 * s[:, 1, 1] + s[:, 0, 1]
  mixed = (s[:, 2, 2] - s[:, 2, 0] - s[:, 0, 2] + s[:, 0, 0]) / 4
  determinant = bend_u * bend_v - mixed**2
  # At the rim, or beside what lies outside, there is no paraboloid.
  real = (bend_u < 0) & (determinant > 1e-9) & (s.min((1, 2)) > -1)
  real &= (inner_row == row) & (inner_column == column)
  determinant = np.where(real, determinant, 1)
  offset = np.stack(
      [
          (mixed * slope_v - bend_v * slope_u) / determinant,
          (mixed * slope_u - bend_u * slope_v) / determinant,
      ],
      -1,
  )
  return np.where(real[:, None], np.clip(offset, -1, 1), 0.0)


def _unit(frame):
  frame = np.asarray(frame)
  return frame / 255 if frame.dtype == np.uint8 else frame.astype(np.float64)

"""Rays through a level, exact: images and single rays, compiled by numba.

A level is prisms: sectors, with vertical walls between. So a whole column of
pixels shares its way over the map. It goes along (x, y) = eye + t d with
d = ahead + right (u - cx) / fx, and t is the depth along the optical axis,
since `ahead` is a unit vector and `right` is across it. At a line, met at t, a
height h is seen at

  v = cy - fy (h - eye) / t,                                               (1)

and where the row's slope is m = (cy - v) / fy, a floor or ceiling of height h
is met at t = (h - eye) / m. Front to back each sector fills the rows above its
ceiling and below its floor, each line the rows of its upper and lower part, and
the column is done when no row is left. Lines are found cell by cell of the grid
of `scene`. A ray crosses a line if the two ends are on different sides of it:
both lines at a corner use the same number for it, so no ray slips through.

Single rays walk in the same way; `raycast_reference` is all this without grid
and compiler. Whoever imports this file does so in a function: numba takes half
a second.
"""

import numba
import numpy as np

from worldsim_jax.data import scene as scene_lib

SKY, VOID = scene_lib.SKY, scene_lib.VOID
UPPER, MIDDLE, LOWER = scene_lib.UPPER, scene_lib.MIDDLE, scene_lib.LOWER
NEAREST = 1e-6  # The eye may stand on a line.
# Lines whose crossings are as near to each other meet in a corner.
SAME = 1e-9


def _jit(function):
  """Compiles on the first call (8 s) and keeps it, where a file can be."""
  options = dict(nopython=True, nogil=True, error_model='numpy')
  # Calls would hand over all arrays: a single ray takes 7 times as long.
  options['forceinline'] = True
  try:
    return numba.jit(cache=True, **options)(function)
  except RuntimeError:  # Neither this folder nor the home can be written.
    return numba.jit(**options)(function)


def images(scene, camera, motions, heights):
  """What the pixels' centres see.

  Args:
    scene: a `scene.Scene`.
    camera: a `camera.Camera`.
    motions: [T, 4, 4] of cameras that look along the ground.
    heights: float64 [T or 1, S, 2], scaled as `Scene.heights`.

  Returns:
    depth float32 [T, H, W], inf for the sky; surface int32 [T, H, W]; through
    bool [T, H, W], where the ray went through a grate.
  """
  shape = len(motions), camera.height, camera.width
  depth = np.empty(shape, np.float32)
  surface = np.empty(shape, np.int32)
  through = np.empty(shape, np.bool_)
  focal = camera.fx, camera.fy, camera.cx, camera.cy
  _images(
      scene.lines,
      scene.cells,
      np.ascontiguousarray(heights, np.float64),
      np.ascontiguousarray(motions, np.float64),
      focal,
      depth,
      surface,
      through,
  )
  return depth, surface, through


def rays(scene, camera, motion, heights, uv):
  """What rays through any positions of one picture meet.

  Args:
    scene: a `scene.Scene`.
    camera: a `camera.Camera`.
    motion: [4, 4].
    heights: float64 [S, 2].
    uv: [N, 2], see `camera`; it need not be within the picture. Rays through
      positions that are not finite meet nothing.

  Returns:
    depth float64 [N], surface int32 [N], through bool [N].
  """
  depth = np.empty(len(uv))
  surface = np.empty(len(uv), np.int32)
  through = np.empty(len(uv), np.bool_)
  focal = camera.fx, camera.fy, camera.cx, camera.cy
  _rays(
      scene.lines,
      scene.cells,
      np.ascontiguousarray(heights, np.float64),
      np.ascontiguousarray(motion, np.float64),
      focal,
      np.ascontiguousarray(uv, np.float64),
      depth,
      surface,
      through,
  )
  return depth, surface, through


@_jit
def _images(lines, cells, heights, motions, focal, depth, surface, through):
  fx, fy, cx, cy = focal
  num_frames, height, width = depth.shape
  slopes = (cy - 0.5 - np.arange(height)) / fy
  met = np.empty(cells.most), np.empty(cells.most, np.int64)
  for frame in range(num_frames):
    current = heights[frame if len(heights) > 1 else 0]
    for column in range(width):
      way = _way(motions[frame], (column + 0.5 - cx) / fx)
      picture = (
          depth[frame, :, column],
          surface[frame, :, column],
          through[frame, :, column],
      )
      _column(lines, cells, current, way, (fy, cy), slopes, met, picture)


@_jit
def _way(motion, across):
  """The ray of a column: x, y, z of the eye, and dx, dy."""
  return (
      motion[0, 3],
      motion[1, 3],
      motion[2, 3],
      motion[0, 2] + motion[0, 0] * across,
      motion[1, 2] + motion[1, 0] * across,
  )


@_jit
def _column(lines, cells, heights, way, focal, slopes, met, picture):
  """Fills one column of an image; rows [top, bottom) are not yet filled."""
  top, bottom, sector, grate = 0, len(slopes), -1, False
  walk = _start(cells, way)
  while _inside(cells, walk) and top < bottom:
    count = _crossed(lines, cells, way, walk, *met)
    for k in range(count):
      _straighten(lines, way, met, k, count, sector)
      t, line = met[0][k], met[1][k]
      side, near, sector = _sides(lines, way, line)
      if near < 0:  # The back of a wall, seen from outside of the map.
        continue
      # Between two skies there is no edge: the further one hides the nearer.
      open_sky = sector >= 0 and lines.sky[near] and lines.sky[sector]
      ceiling = heights[sector if open_sky else near, 1]
      a = _row(focal, ceiling - way[2], t, top, bottom)
      b = _row(focal, heights[near, 0] - way[2], t, a, bottom)
      for which, first, end, is_sky in (
          (1, top, a, lines.sky[near]),
          (0, b, bottom, lines.sky_floor[near]),
      ):
        rise = heights[near, which] - way[2]
        number = 2 * near + which
        _fill_flat(picture, first, end, rise, slopes, number, is_sky, grate)
      wall = 2 * len(heights) + 6 * line + 3 * side
      if sector < 0:
        _fill(picture, a, b, t, wall + MIDDLE, grate)
        return
      top = _row(focal, heights[sector, 1] - way[2], t, a, b)
      bottom = _row(focal, heights[sector, 0] - way[2], t, top, b)
      _fill(picture, a, top, t, wall + UPPER, grate)
      _fill(picture, bottom, b, t, wall + LOWER, grate)
      if top >= bottom:
        return
      grate |= lines.see_through[line]
    walk = _next(cells, way, walk)
  _fill(picture, top, bottom, np.inf, VOID, False)


@_jit
def _row(focal, height, t, low, high):
  """The first row below a height at depth t, eq. (1), within [low, high]."""
  fy, cy = focal
  return int(min(max(np.ceil(cy - fy * height / t - 0.5), low), high))


@_jit
def _fill(picture, a, b, t, number, grate):
  depth, surface, through = picture
  for row in range(a, b):
    depth[row], surface[row], through[row] = t, number, grate


@_jit
def _fill_flat(picture, a, b, rise, slopes, number, is_sky, grate):
  """Fills rows [a, b) with a floor or ceiling, or with the sky."""
  for row in range(a, b):
    t, seen = _flat(rise, slopes[row], number, is_sky)
    _fill(picture, row, row + 1, t, seen, grate)


@_jit
def _flat(rise, slope, number, is_sky):
  """Depth and id of a floor or ceiling, so much higher than the eye."""
  if is_sky:
    return np.inf, SKY
  t = rise / slope
  if t > 0:
    return t, number
  return np.inf, VOID  # The eye is in the ceiling: no walls stopped it.


@_jit
def _rays(lines, cells, heights, motion, focal, uv, depth, surface, through):
  fx, fy, cx, cy = focal
  met = np.empty(cells.most), np.empty(cells.most, np.int64)
  for n in range(len(uv)):
    across, slope = (uv[n, 0] - cx) / fx, (cy - uv[n, 1]) / fy
    depth[n], surface[n], through[n] = np.inf, VOID, False
    if np.isfinite(across) and np.isfinite(slope):
      depth[n], surface[n], through[n] = _ray(
          lines, cells, heights, _way(motion, across), slope, met
      )


@_jit
def _ray(lines, cells, heights, way, slope, met):
  """Depth, surface and whether it went through a grate, of one ray."""
  sector, grate = -1, False
  walk = _start(cells, way)
  while _inside(cells, walk):
    count = _crossed(lines, cells, way, walk, *met)
    for k in range(count):
      _straighten(lines, way, met, k, count, sector)
      t, line = met[0][k], met[1][k]
      side, near, sector = _sides(lines, way, line)
      if near < 0:
        continue
      z = way[2] + slope * t
      open_sky = sector >= 0 and lines.sky[near] and lines.sky[sector]
      if z > heights[sector if open_sky else near, 1]:
        rise = heights[near, 1] - way[2]
        t, number = _flat(rise, slope, 2 * near + 1, lines.sky[near])
        return t, number, grate
      if z <= heights[near, 0]:
        rise = heights[near, 0] - way[2]
        t, number = _flat(rise, slope, 2 * near, lines.sky_floor[near])
        return t, number, grate
      wall = 2 * len(heights) + 6 * line + 3 * side
      if sector < 0:
        return t, wall + MIDDLE, grate
      if z > heights[sector, 1]:
        return t, wall + UPPER, grate
      if z <= heights[sector, 0]:
        return t, wall + LOWER, grate
      grate |= lines.see_through[line]
    walk = _next(cells, way, walk)
  return np.inf, VOID, False


@_jit
def _sides(lines, way, line):
  """Which side of a line a ray comes from; the sectors before and behind."""
  x, y, _, dx, dy = way
  if dx * (lines.y1[line] - y) - dy * (lines.x1[line] - x) < 0:
    return 1, lines.back[line], lines.front[line]
  return 0, lines.front[line], lines.back[line]


@_jit
def _start(cells, way):
  """The first cell of a ray: i, j, where it begins, where borders are met."""
  i = int(np.floor((way[0] - cells.x) / cells.size))
  j = int(np.floor((way[1] - cells.y) / cells.size))
  return i, j, NEAREST, *_borders(cells, way, i, j)


@_jit
def _borders(cells, way, i, j):
  x, y, _, dx, dy = way
  tx = (cells.x + (i + (dx > 0)) * cells.size - x) / dx if dx != 0 else np.inf
  ty = (cells.y + (j + (dy > 0)) * cells.size - y) / dy if dy != 0 else np.inf
  return tx, ty


@_jit
def _inside(cells, walk):
  return 0 <= walk[0] < cells.rows and 0 <= walk[1] < cells.columns


@_jit
def _next(cells, way, walk):
  """The cell behind this one."""
  i, j, t, tx, ty = walk
  if tx < ty:
    i, t = i + (1 if way[3] > 0 else -1), tx
  else:
    j, t = j + (1 if way[4] > 0 else -1), ty
  return i, j, t, *_borders(cells, way, i, j)


@_jit
def _crossed(lines, cells, way, walk, times, found):
  """Puts what a ray crosses within a cell in order; returns how many."""
  x, y, _, dx, dy = way
  low, high = walk[2], min(walk[3], walk[4])
  cell, count = walk[0] * cells.columns + walk[1], 0
  for k in range(cells.first[cell], cells.first[cell + 1]):
    line = cells.lines[k]
    x1, y1 = lines.x1[line] - x, lines.y1[line] - y
    x2, y2 = lines.x2[line] - x, lines.y2[line] - y
    a, b = dx * y1 - dy * x1, dx * y2 - dy * x2
    if (a < 0) == (b < 0):
      continue
    t = (x1 * (y2 - y1) - y1 * (x2 - x1)) / (b - a)
    if not low <= t < high:
      continue
    place = count
    while place > 0 and times[place - 1] > t:
      times[place], found[place] = times[place - 1], found[place - 1]
      place -= 1
    times[place], found[place] = t, line
    count += 1
  return count


@_jit
def _straighten(lines, way, met, k, count, sector):
  """At a corner, takes the line first that borders on the ray's sector."""
  times, found = met
  if sector < 0 or _sides(lines, way, found[k])[1] == sector:
    return
  last = times[k] * (1 + SAME)
  for other in range(k + 1, count):
    if times[other] > last:
      return
    if _sides(lines, way, found[other])[1] == sector:
      found[k], found[other] = found[other], found[k]
      return

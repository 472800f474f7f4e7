"""The readable half of `raycast`: all rays of a picture against all lines.

Vectorised NumPy, without grid and without shortcuts. It defines what is right;
`benchmarks/geometry.py` says how much slower it is.
"""

import numpy as np

from worldsim_jax.data import scene as scene_lib


def image(scene, camera, motion, heights):
  """As one frame of `raycast.images`: depth, surface and through, [H, W]."""
  across = (camera.pixels()[0, :, 0] - camera.cx) / camera.fx
  slope = ((camera.cy - camera.pixels()[:, 0, 1]) / camera.fy)[:, None]
  way = motion[:2, 2, None] + motion[:2, 0, None] * across  # [2, W]
  times, lines, fronts = _crossings(scene.lines, motion[:2, 3], way)
  open_ = np.ones((camera.height, camera.width), bool)
  depth = np.full(open_.shape, np.inf)
  surface = np.full(open_.shape, scene_lib.VOID)
  through, grate = np.zeros(open_.shape, bool), np.zeros(camera.width, bool)

  def close(where, t, number):
    """Fills those of the rows [H, W] that are still open."""
    where = where & open_
    depth[where] = np.broadcast_to(t, where.shape)[where]
    surface[where] = np.broadcast_to(number, where.shape)[where]
    through[where] = np.broadcast_to(grate, where.shape)[where]
    open_[where] = False

  for t, line, from_front in zip(times, lines, fronts):  # Front to back, [W].
    front, back = scene.lines.front[line], scene.lines.back[line]
    near, far = np.where(from_front, (front, back), (back, front))
    met = np.isfinite(t) & (near >= 0)
    t = np.where(met, t, 1)
    height = slope * t + motion[2, 3]
    sky, sky_floor = scene.lines.sky[near], scene.lines.sky_floor[near]
    floor, ceiling = heights[near].T
    behind_floor, behind_ceiling = heights[far].T
    open_sky = (far >= 0) & sky & scene.lines.sky[far]
    over = met & (height > np.where(open_sky, behind_ceiling, ceiling))
    under = met & (height <= floor)
    with np.errstate(divide='ignore', invalid='ignore'):
      to_ceiling, to_floor = (
          (h - motion[2, 3]) / slope for h in heights[near].T[::-1]
      )
    close(over & sky, np.inf, scene_lib.SKY)
    close(over & (to_ceiling > 0), to_ceiling, 2 * near + 1)
    close(under & sky_floor, np.inf, scene_lib.SKY)
    close(under & (to_floor > 0), to_floor, 2 * near)
    wall = 2 * len(heights) + 6 * line + 3 * ~from_front
    close(met & (far < 0), t, wall + scene_lib.MIDDLE)
    close(met & (height > behind_ceiling), t, wall + scene_lib.UPPER)
    close(met & (height <= behind_floor), t, wall + scene_lib.LOWER)
    grate |= met & scene.lines.see_through[line]
    if not open_.any():
      break
  return depth.astype(np.float32), surface.astype(np.int32), through


def _crossings(lines, eye, way):
  """Depths, lines and whether they are met from their front, all [K, W].

  In the order of depth, which is inf where a column crosses fewer than K lines.
  """
  x1, y1 = lines.x1[:, None] - eye[0], lines.y1[:, None] - eye[1]
  x2, y2 = lines.x2[:, None] - eye[0], lines.y2[:, None] - eye[1]
  side1, side2 = way[0] * y1 - way[1] * x1, way[0] * y2 - way[1] * x2  # [L, W]
  with np.errstate(divide='ignore', invalid='ignore'):
    t = (x1 * (y2 - y1) - y1 * (x2 - x1)) / (side2 - side1)
  t[((side1 < 0) == (side2 < 0)) | ~(t > 0)] = np.inf
  count = max(1, np.isfinite(t).sum(0).max())
  order = np.argsort(t, axis=0)[:count]
  columns = np.arange(t.shape[1])
  return t[order, columns], order, side1[order, columns] >= 0

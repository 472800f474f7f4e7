"""Where a point of one frame is in another: flow, tracks, pointmaps, warps.

A point of the static world is unprojected at its exact depth and projected into
the other frame. It is hidden there if the ray from that camera to it meets
something else first. The ray is cast to the point itself (0.15 us a ray): the
depths of the nearest pixels are those of other points, and would be wrong at
every edge.

A point is *visible* in a frame if it lies in the picture, no surface hides it,
no grate or sprite covers it (as far as sprites were recorded), and it did not
move: points of walls, floors and ceilings whose sector has other heights in the
two frames are never visible. What has no position (the sky, what is behind the
camera) is not visible either, and its position is where it was.
"""

import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import geometry as geometry_lib
from worldsim_jax.data import scene as scene_lib

# What hides a point is nearer than it by more than this part of the distance.
# Depths are float32 and floors are seen at angles down to a hundredth.
TOLERANCE = 1e-3


def flow(
    geometry: geometry_lib.Geometry, s: int, t: int
) -> tuple[np.ndarray, np.ndarray]:
  """Optical flow from frame s to frame t.

  Returns:
    float32 [H, W, 2]: the point that pixel (i, j) of frame s shows is at
    (j + 1/2, i + 1/2) + flow[i, j] in frame t.
    bool [H, W]: that pixel shows it, and it is visible in frame t.
  """
  shape = geometry.camera.height, geometry.camera.width
  start = geometry.camera.pixels()
  uv, visible = _follow(
      geometry,
      s,
      t,
      start.reshape(-1, 2),
      geometry.depth[s].reshape(-1),
      geometry.surface[s].reshape(-1),
  )
  moved = (uv.reshape(*shape, 2) - start).astype(np.float32)
  return moved, visible.reshape(shape) & geometry.exact[s]


def tracks(
    geometry: geometry_lib.Geometry, frame: int, uv
) -> tuple[np.ndarray, np.ndarray]:
  """Follows the points at positions uv [N, 2] of a frame through the film.

  Returns:
    positions float64 [T, N, 2] and visible bool [T, N]. Where a point is in
    the picture is also told while something hides it. Points that are not
    visible in `frame` itself are visible nowhere.
  """
  from worldsim_jax.data import raycast

  uv = np.asarray(uv, np.float64)
  depth, surface, _ = raycast.rays(
      geometry.scene,
      geometry.camera,
      geometry.motions[frame],
      geometry.heights_at(frame),
      uv,
  )
  followed = [
      _follow(geometry, frame, t, uv, depth, surface)
      for t in range(len(geometry.motions))
  ]
  positions, visible = (np.stack(x) for x in zip(*followed))
  return positions, visible & visible[frame]


def pointmap(geometry: geometry_lib.Geometry) -> np.ndarray:
  """World points of all pixels, float32 [T, H, W, 3]; 0 without a surface."""
  camera = geometry.camera
  shape = geometry.depth.shape
  points = np.empty((*shape, 3), np.float32)
  uv = camera.pixels().reshape(-1, 2)
  for t, (motion, depth) in enumerate(zip(geometry.motions, geometry.depth)):
    found = camera_lib.unproject(camera, motion, uv, depth.reshape(-1))
    points[t] = found.reshape(*shape[1:], 3)
  return np.where(np.isfinite(geometry.depth)[..., None], points, 0)


def warp(
    rgb_t, geometry: geometry_lib.Geometry, s: int, t: int
) -> tuple[np.ndarray, np.ndarray]:
  """Shows a picture of frame t from where frame s was taken.

  Every pixel takes the colour, bilinear between pixel centres, at the place
  where its point is in frame t; so perspective is right.

  Args:
    rgb_t: [H, W, C], of frame t or of a model's idea of it.
    geometry: of the film.
    s: where to look from.
    t: the frame of the picture.

  Returns:
    rgb_t's type [H, W, C], 0 where not valid, and valid bool [H, W]: the point
    is visible in both frames.
  """
  moved, valid = flow(geometry, s, t)
  seen = sample(rgb_t, geometry.camera.pixels() + moved)
  if np.issubdtype(np.asarray(rgb_t).dtype, np.integer):
    seen = np.rint(seen)
  seen = np.where(valid[..., None], seen, 0)
  return seen.astype(np.asarray(rgb_t).dtype), valid


def sample(image, uv) -> np.ndarray:
  """Bilinear values float64 [..., C] of an image [H, W, C] at uv [..., 2].

  Beyond the outermost pixel centres those pixels go on.
  """
  image = np.asarray(image)
  limit = np.array(image.shape[1::-1])
  place = np.clip(np.asarray(uv, np.float64) - 0.5, 0, limit - 1)
  low = np.minimum(place.astype(int), np.maximum(limit - 2, 0))
  high = np.minimum(low + 1, limit - 1)
  right, down = np.moveaxis(place - low, -1, 0)[..., None]
  (x0, y0), (x1, y1) = np.moveaxis(low, -1, 0), np.moveaxis(high, -1, 0)
  above = image[y0, x0] * (1 - right) + image[y0, x1] * right
  below = image[y1, x0] * (1 - right) + image[y1, x1] * right
  return above * (1 - down) + below * down


def _follow(geometry, s, t, uv, depth, surface):
  """Positions [N, 2] in frame t of points of frame s, and their visibility."""
  from worldsim_jax.data import raycast

  camera = geometry.camera
  points = camera_lib.unproject(camera, geometry.motions[s], uv, depth)
  there, distance = camera_lib.project(camera, geometry.motions[t], points)
  placed = np.isfinite(there).all(-1) & (surface >= 0)
  there = np.where(placed[:, None], there, uv)
  size = camera.width, camera.height
  visible = placed & ((there >= 0) & (there < size)).all(-1)
  visible &= ~_moved(geometry, s, t, surface)
  seen = np.flatnonzero(visible)
  met, met_surface, through = raycast.rays(
      geometry.scene,
      camera,
      geometry.motions[t],
      geometry.heights_at(t),
      there[seen],
  )
  # Surfaces are plane: a ray meets each of them once.
  same = met_surface == surface[seen]
  reached = same | (met >= distance[seen] * (1 - TOLERANCE))
  column, row = there[seen].astype(int).T
  visible[seen] = reached & ~through & ~geometry.sprites_at(t)[row, column]
  return there, visible


def _moved(geometry, s, t, surface):
  """Whether surfaces belong to sectors with other heights in two frames."""
  changed = (geometry.heights_at(s) != geometry.heights_at(t)).any(-1)
  if not changed.any():
    return np.zeros(len(surface), bool)
  found = scene_lib.surfaces(geometry.scene, surface)
  lines, last = geometry.scene.lines, np.append(changed, False)
  beside = last[lines.front] | last[lines.back]
  return last[found.sector] | np.where(
      found.line < 0, False, beside[found.line]
  )

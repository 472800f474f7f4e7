"""What one picture and exact geometry can show: warping by true depth.

A pixel of the view `to` sees a point whose depth is known; the view `of` saw
that point at a position that two camera motions and its depth tell, and showed
a colour there, if nothing was in the way. Nothing was if the depth there is
that of the point: inverse depth is linear in the picture of a plane, so it is
interpolated without error on every surface, and compared.

The sky has no depth. The engine paints it on a cylinder: a pixel's azimuth
tells its column of the sky, its row in the frame the row, wherever one stands.
It is warped likewise.

As a baseline of exact replay: the model that knew all geometry and all motion,
but had seen one frame only. What that frame does not show is filled in with
the nearest pixel that it does show.

Pictures are [H, W, 3], uint8 or float of any range; depth [H, W] in map units
along the optical axis, inf for the sky; motions [4, 4]. See `data.camera`.
"""

import numpy as np

from worldsim_jax.data import camera as camera_lib

# Of inverse depths. On one surface only float32 and the interpolation's ends
# differ; steps of a stair at 20 m differ by more.
DEPTH_TOLERANCE = 0.01


def sample(image, uv) -> np.ndarray:
  """Bilinear values [..., C] of [H, W, C] at uv [..., 2], clipped to it."""
  image = np.asarray(image)
  height, width = image.shape[:2]
  u = np.clip(uv[..., 0] - 0.5, 0, width - 1)
  v = np.clip(uv[..., 1] - 0.5, 0, height - 1)
  column = np.minimum(u.astype(int), max(width - 2, 0))
  row = np.minimum(v.astype(int), max(height - 2, 0))
  right, down = (u - column)[..., None], (v - row)[..., None]
  next_column = np.minimum(column + 1, width - 1)
  next_row = np.minimum(row + 1, height - 1)
  above = image[row, column] * (1 - right) + image[row, next_column] * right
  below = (
      image[next_row, column] * (1 - right)
      + image[next_row, next_column] * right
  )
  return above * (1 - down) + below * down


def warp(camera, image, depth_of, motion_of, depth_to, motion_to):
  """A picture as another camera would see it, as far as it shows that.

  Args:
    camera: of both.
    image: [H, W, 3], what the first camera shows.
    depth_of: [H, W] of it.
    motion_of: [4, 4] of it.
    depth_to: [H, W] of the view wanted.
    motion_to: [4, 4] of it.

  Returns:
    float [H, W, 3], and bool [H, W]: where the first camera saw the same point.
  """
  uv, valid = visible_at(camera, depth_of, motion_of, depth_to, motion_to)
  return sample(image, np.where(valid[..., None], uv, 0.5)), valid


def visible_at(camera, depth_of, motion_of, depth_to, motion_to):
  """Where the first camera saw what the second sees.

  Returns:
    uv float [H, W, 2] in the first camera's frame, and bool [H, W].
  """
  shape = depth_to.shape
  pixels = camera.pixels()
  points = camera_lib.unproject(
      camera, motion_to, pixels.reshape(-1, 2), np.ravel(depth_to)
  )
  uv, depth = camera_lib.project(camera, motion_of, points)
  uv, depth = uv.reshape(*shape, 2), depth.reshape(shape)
  sky = np.isinf(depth_to)
  uv[sky] = _sky_positions(camera, motion_of, motion_to, pixels)[sky]
  u, v = uv[..., 0], uv[..., 1]
  valid = (u >= 0) & (u <= shape[1]) & (v >= 0) & (v <= shape[0])
  uv = np.where(valid[..., None], uv, 0.5)
  with np.errstate(divide='ignore'):
    there = sample(1 / np.asarray(depth_of, np.float64)[..., None], uv)[..., 0]
    expected = np.where(sky, 0, 1 / depth)
  with np.errstate(invalid='ignore'):
    same = np.abs(there - expected) <= DEPTH_TOLERANCE * expected
  return uv, valid & same


def _sky_positions(camera, motion_of, motion_to, pixels):
  """Columns by azimuth, rows kept; NaN where the first camera looks away."""
  turn = camera_lib.relative(motion_to, motion_of)
  turn = np.arctan2(turn[0, 2], turn[2, 2])  # to the right
  azimuth = np.arctan((pixels[..., 0] - camera.cx) / camera.fx) + turn
  ahead = np.cos(azimuth) > 0
  u = np.where(ahead, camera.fx * np.tan(azimuth) + camera.cx, np.nan)
  return np.stack([u, pixels[..., 1]], -1)


def fill(image, valid) -> np.ndarray:
  """Pixels that are not valid get the nearest valid one's colour."""
  if valid.all() or not valid.any():
    return np.asarray(image)
  from scipy import ndimage

  row, column = ndimage.distance_transform_edt(
      ~valid, return_distances=False, return_indices=True
  )
  return image[row, column]


def replay(camera, image, depth, motions, given: int) -> np.ndarray:
  """The baseline: each later frame warped from the last given one.

  Args:
    camera: of all frames.
    image: uint8 [H, W, 3], frame `given` - 1.
    depth: [T, H, W], of all frames, the given ones too.
    motions: [T, 4, 4].
    given: number of given frames, at least 1.

  Returns:
    uint8 [T - given, H, W, 3]. A frame of which nothing was seen before is a
    copy of the last given one.
  """
  last, frames = given - 1, []
  for t in range(given, len(depth)):
    seen, valid = warp(
        camera, image, depth[last], motions[last], depth[t], motions[t]
    )
    shown = fill(seen, valid) if valid.any() else image
    frames.append(np.clip(np.rint(shown), 0, 255).astype(np.uint8))
  return np.array(frames, np.uint8).reshape(-1, *image.shape)

"""What one picture and exact geometry can show: a baseline of exact replay.

Every future frame is the last given one, warped by the true depth and the true
motion (`data.correspondence`): a model that knew all geometry and obeyed every
action, but had seen one frame only. What that frame does not show is filled in
with the nearest pixel that it does show.

The warp is of the static world. A sprite of the given frame is part of it, as
if painted on what is behind; one that comes later does not show.

The sky has no depth. The engine paints it on a cylinder: a pixel's azimuth
tells its column of the sky, its row in the frame the row, wherever one stands.
It is warped likewise.
"""

import dataclasses

import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import correspondence
from worldsim_jax.data import scene


def replay(last, geometry, given: int) -> np.ndarray:
  """The frames after the given ones, as far as the last of them shows them.

  Args:
    last: uint8 [H, W, 3], frame `given` - 1.
    geometry: `data.geometry.Geometry` of all T frames, the given ones too.
    given: number of given frames, at least 1.

  Returns:
    uint8 [T - given, H, W, 3]. A frame of which nothing was seen before is a
    copy of the last given one.
  """
  num_frames = len(geometry.motions)
  if not 1 <= given <= num_frames:
    raise ValueError(f'{given} given frames of {num_frames}')
  static = dataclasses.replace(
      geometry,
      exact=geometry.surface >= 0,
      sprites=np.zeros_like(geometry.sprites[:1]),
  )
  frames = np.empty((num_frames - given, *last.shape), np.uint8)
  for k, t in enumerate(range(given, num_frames)):
    moved, seen = correspondence.flow(static, t, given - 1)
    uv = geometry.camera.pixels() + moved
    above, is_above = _sky(geometry, t, given - 1)
    uv, seen = np.where(is_above[..., None], above, uv), seen | is_above
    frames[k] = last
    if seen.any():
      frames[k] = np.rint(correspondence.sample(last, _nearest(uv, seen)))
  return frames


def _sky(geometry, t, given):
  """Where the given frame shows the sky of frame t, [H, W, 2], and if so."""
  camera, pixels = geometry.camera, geometry.camera.pixels()
  turn = camera_lib.relative(geometry.motions[t], geometry.motions[given])
  azimuth = np.arctan((pixels[..., 0] - camera.cx) / camera.fx)
  azimuth = azimuth + np.arctan2(turn[0, 2], turn[2, 2])
  u = camera.fx * np.tan(azimuth) + camera.cx
  inside = (np.cos(azimuth) > 0) & (u >= 0) & (u < camera.width)
  column = np.where(inside, u, 0).astype(int)
  sky = geometry.surface == scene.SKY
  there = np.take_along_axis(sky[given], column, 1)
  return np.stack([u, pixels[..., 1]], -1), sky[t] & inside & there


def _nearest(uv, seen):
  """Positions, those of pixels that are not seen from the nearest that is."""
  from scipy import ndimage

  row, column = ndimage.distance_transform_edt(
      ~seen, return_distances=False, return_indices=True
  )
  return uv[row, column]

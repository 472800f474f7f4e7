"""The exact geometry of rendered films: depth, normals, surfaces, cameras.

The engine shows a level whose walls, floors and ceilings we know, from poses
that it tells. So what each pixel's centre sees is computed, by `raycast`, not
estimated; the engine's own depth buffer has 8 bits and a scale for each kind of
surface, and is no truth. Conventions are those of `camera`.

What is not in it: sprites (things and monsters), the textures that hang in
openings (grates), and the sky, which has no depth. `Geometry.exact` tells where
the picture shows none of them.
"""

import dataclasses
import functools

import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import maps
from worldsim_jax.data import scene as scene_lib
from worldsim_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
  """Of T frames; S sectors of the level."""

  camera: camera_lib.Camera
  motions: np.ndarray  # float64 [T, 4, 4]: camera to world
  depth: np.ndarray  # float32 [T, H, W]: map units along the axis; inf: sky
  surface: np.ndarray  # int32 [T, H, W]: ids of `scene`, below 0 for none
  exact: np.ndarray  # bool [T, H, W]: the picture shows this surface
  scene: scene_lib.Scene
  heights: np.ndarray  # float64 [T or 1, S, 2]: floors, ceilings, times 1.2
  sprites: np.ndarray  # bool [T or 1, H, W]: something stands before it

  @functools.cached_property
  def normals(self) -> np.ndarray:
    """float32 [T, H, W, 3], unit, in world axes; 0 without a surface."""
    return self.scene.normals[self.surface]

  def heights_at(self, frame: int) -> np.ndarray:
    """float64 [S, 2] of one frame."""
    return self.heights[frame % len(self.heights)]

  def sprites_at(self, frame: int) -> np.ndarray:
    """bool [H, W] of one frame; all False where none were recorded."""
    return self.sprites[frame % len(self.sprites)]


def of_poses(map_name: str, pose, camera, heights=None) -> Geometry:
  """What cameras see of a map.

  Args:
    map_name: see `maps`.
    pose: float [T, 4], of the engine: x, y, z of the eye and yaw in degrees.
    camera: a `camera.Camera`.
    heights: floors and ceilings in map units, [T, S, 2] or [S, 2], where they
      are not those that the map says.

  Raises:
    UserError: if there is no such map, or the poses are not finite.
  """
  from worldsim_jax.data import raycast  # It imports the compiler.

  scene = scene_lib.of_map(map_name)
  pose = np.asarray(pose, np.float64)
  if pose.ndim != 2 or pose.shape[1] != 4 or not np.isfinite(pose).all():
    raise UserError(
        f'geometry of {map_name}: poses must be finite numbers [T, 4], not '
        f'{pose.dtype} {list(pose.shape)}'
    )
  if heights is None:
    heights = scene.heights[None]
  else:
    heights = np.asarray(heights, np.float64) * camera_lib.PIXEL_ASPECT
    heights = heights.reshape(-1, *scene.heights.shape)
  if len(heights) not in (1, len(pose)):
    raise ValueError(f'heights of {len(heights)} frames for {len(pose)} poses')
  motions = camera_lib.camera_to_world(pose)
  depth, surface, through = raycast.images(scene, camera, motions, heights)
  return Geometry(
      camera,
      motions,
      depth,
      surface,
      (surface >= 0) & ~through,
      scene,
      heights,
      np.zeros((1, camera.height, camera.width), bool),
  )


def of_episode(episode: dict, frames: slice = slice(None)) -> Geometry:
  """Of a film of the embedded world, see `data` for its fields.

  Sprites and moved sectors are taken into account if they were recorded.

  Args:
    episode: a film.
    frames: of the film, those that are wanted.

  Raises:
    UserError: if it is no film of the embedded world.
  """
  if not episode.get('recipe'):
    raise UserError(
        'geometry: this film has no recipe; only films of the embedded world '
        'have exact geometry'
    )
  recipe = episodes.Recipe.from_json(episode['recipe'])
  level = maps.load(recipe.map).level
  heights = np.stack([level.floor, level.ceiling], 1)
  if len(episode.get('moved', ())):
    heights = moved_heights(heights, episode['moved'], len(episode['pose']))
    heights = heights[frames]
  camera = camera_lib.of_engine(recipe)
  found = of_poses(recipe.map, episode['pose'][frames], camera, heights)
  if 'sprites' not in episode:
    return found
  sprites = np.asarray(episode['sprites'][frames], bool)
  return dataclasses.replace(
      found, exact=found.exact & ~sprites, sprites=sprites
  )


def moved_heights(heights, moved, num_frames: int) -> np.ndarray:
  """Heights of all frames, [T, S, 2], from changes.

  Args:
    heights: [S, 2], before any change.
    moved: [M, 4], rows of frame, sector, floor and ceiling; frames do not fall.
    num_frames: T.
  """
  every = np.repeat(np.asarray(heights, np.float64)[None], num_frames, 0)
  for frame, sector, floor, ceiling in np.asarray(moved):
    every[int(frame) :, int(sector)] = floor, ceiling
  return every

"""The compiled caster is its reference, and both see what stands there."""

import os
import shutil
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from tests.data import views
from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import generator
from worldsim_jax.data import raycast
from worldsim_jax.data import raycast_reference
from worldsim_jax.data import scene as scene_lib
from worldsim_jax.data import wad

# Maps of 69, 307, 1274 and 7245 lines; of sky, grates and open air.
MAPS = ('gen:1', 'MAP30', 'MAP01', 'MAP12', 'E2M8')


def level_of(segments, front, back, floor, ceiling, **fields):
  """A small level; `segments` are x1, y1, x2, y2, the front is on the right."""
  lines, sectors = len(segments), len(floor)
  defaults = dict(
      impassable=np.zeros(lines, bool),
      hazard=np.zeros(lines, bool),
      see_through=np.zeros(lines, bool),
      textures=np.full((lines, 2, 3), '-'),
      sky=np.zeros(sectors, bool),
      sky_floor=np.zeros(sectors, bool),
      flats=np.full((sectors, 2), '-'),
      can_move=False,
      obstacles=np.zeros((0, 3)),
      start=(0.0, 0.0, 0.0),
  )
  return wad.Level(
      segments=np.array(segments, float),
      front=np.array(front),
      back=np.array(back),
      floor=np.array(floor, float),
      ceiling=np.array(ceiling, float),
      **defaults | {k: np.array(v) for k, v in fields.items()},
  )


def two_rooms(**fields):
  """West room x in [0, 256], east room to 512, y in [0, 256]; line 3 between.

  The floor of the east room is 16 higher, its ceiling 32 lower.
  """
  segments = [
      (0, 0, 0, 256),
      (0, 256, 256, 256),
      (256, 0, 0, 0),
      (256, 256, 256, 0),
      (256, 256, 512, 256),
      (512, 256, 512, 0),
      (512, 0, 256, 0),
  ]
  return level_of(
      segments,
      [0, 0, 0, 0, 1, 1, 1],
      [-1, -1, -1, 1, -1, -1, -1],
      [0, 16],
      [128, 96],
      **fields,
  )


def look(level, pose, uv=None, camera=views.camera()):
  """images (or rays) of one pose, as arrays [H, W] (or [N])."""
  scene = scene_lib.of_level(level)
  motion = camera_lib.camera_to_world(pose)
  if uv is not None:
    return raycast.rays(scene, camera, motion, scene.heights, np.array(uv))
  found = raycast.images(scene, camera, motion[None], scene.heights[None])
  return tuple(x[0] for x in found)


class ReferenceTest(parameterized.TestCase):

  @parameterized.parameters(*MAPS)
  def test_the_compiled_caster_equals_the_reference(self, name):
    scene = scene_lib.of_map(name)
    motions = camera_lib.camera_to_world(views.poses(name, 4))
    for camera in (views.camera(), views.camera().resized(31, 64)):
      seen = raycast.images(scene, camera, motions, scene.heights[None])
      for t, motion in enumerate(motions):
        wanted = raycast_reference.image(scene, camera, motion, scene.heights)
        # The same operations on the same numbers, in another order of lines.
        for found, want in zip(seen, wanted):
          np.testing.assert_array_equal(found[t], want)

  @parameterized.parameters(*MAPS)
  def test_single_rays_are_the_pixels_of_images(self, name):
    scene, camera = scene_lib.of_map(name), views.camera(120, 160)
    motions = camera_lib.camera_to_world(views.poses(name, 3, seed=1))
    uv = camera.pixels().reshape(-1, 2)
    seen = raycast.images(scene, camera, motions, scene.heights[None])
    for t, motion in enumerate(motions):
      found = raycast.rays(scene, camera, motion, scene.heights, uv)
      for ray, image in zip(found, seen):
        np.testing.assert_array_equal(
            ray.astype(image.dtype), image[t].reshape(-1)
        )

  @parameterized.parameters('gen:1', 'MAP01')
  def test_other_heights_are_seen_as_the_reference_sees_them(self, name):
    scene, camera = scene_lib.of_map(name), views.camera(60, 80)
    rng = np.random.default_rng(0)
    motions = camera_lib.camera_to_world(views.poses(name, 3))
    # Steps and slits everywhere, doors that are closed, eyes in the ground.
    moved = scene.heights + rng.uniform(-60, 60, (3, *scene.heights.shape))
    seen = raycast.images(scene, camera, motions, moved)
    for t, motion in enumerate(motions):
      wanted = raycast_reference.image(scene, camera, motion, moved[t])
      for found, want in zip(seen, wanted):
        np.testing.assert_array_equal(found[t], want)


class WorldTest(parameterized.TestCase):

  @parameterized.parameters(*MAPS, 'MAP15', 'E1M7')
  def test_no_pixel_is_left_empty(self, name):
    scene = scene_lib.of_map(name)
    motions = camera_lib.camera_to_world(views.poses(name, 20, seed=2))
    depth, surface, _ = raycast.images(
        scene, views.camera(), motions, scene.heights[None]
    )
    self.assertGreaterEqual(surface.min(), scene_lib.SKY)
    self.assertFalse(np.isnan(depth).any())
    self.assertGreater(depth.min(), 0)
    np.testing.assert_array_equal(np.isinf(depth), surface == scene_lib.SKY)

  def test_depths_known_by_hand(self):
    # From (56, 128) to the east, eyes at 41: the far wall is at 512.
    depth, surface, _ = look(two_rooms(), (56, 128, 41, 0))
    self.assertEqual(depth[60, 80], 456)
    self.assertEqual(surface[60, 80], 2 * 2 + 6 * 5 + scene_lib.MIDDLE)
    # Slope of row 119: 59.5 / 80; the floor is 41 * 1.2 below.
    self.assertAlmostEqual(depth[119, 80], 49.2 / (59.5 / 80), places=4)
    self.assertEqual(surface[119, 80], 0)
    # The step, 16 high at 200: rows from 60 + 80 * 30 / 200 = 72 ...
    self.assertEqual(depth[72, 80], 200)
    self.assertEqual(surface[72, 80], 2 * 2 + 6 * 3 + scene_lib.LOWER)
    self.assertNotEqual(surface[71, 80], surface[72, 80])
    # ... to 60 + 80 * 49.2 / 200 = 79.68.
    self.assertEqual(surface[78, 80], surface[72, 80])
    self.assertEqual(surface[80, 80], 0)
    # What hangs above: 60 - 80 * 66 / 200 = 33.6 and 60 - 80 * 104.4 / 200.
    self.assertEqual(surface[33, 80], 2 * 2 + 6 * 3 + scene_lib.UPPER)
    self.assertEqual(surface[34, 80], 2 * 1 + 1)
    self.assertEqual(surface[18, 80], 2 * 2 + 6 * 3 + scene_lib.UPPER)
    self.assertEqual(surface[17, 80], 1)

  def test_from_behind_a_line_its_other_side_is_seen(self):
    # Eyes of the east room, to the west.
    depth, surface, _ = look(two_rooms(), (500, 128, 57, 180))
    self.assertEqual(depth[60, 80], 500)
    self.assertEqual(surface[60, 80], 2 * 2 + scene_lib.MIDDLE)

  def test_a_ray_into_a_corner_hits_it(self):
    # Whole numbers: the corners of rooms and of the opening, exactly.
    for eye in ((128, 128), (56, 56), (384, 128)):
      for corner in ((0, 0), (256, 0), (256, 256), (512, 256), (512, 0)):
        way = np.subtract(corner, eye)
        yaw = np.degrees(np.arctan2(way[1], way[0]))
        depth, surface, _ = look(two_rooms(), (*eye, 57, yaw), [(80, 60)])
        self.assertNotEqual(surface[0], scene_lib.VOID)
        self.assertLessEqual(depth[0], 512)
    # A vertex on the ray, to the point: east from (0, 0) towards (64, 64).
    across = 80 + 80 * 1.0
    for corner in ((256, 256), (256, 0)):
      eye = (corner[0] - 128, 128)
      uv = [(across if corner[1] == 0 else 160 - across, 60)]
      depth, surface, _ = look(two_rooms(), (*eye, 57, 0), uv)
      self.assertAlmostEqual(depth[0], 128, places=9)

  def test_the_sky_is_infinitely_far_and_hides_what_is_behind_it(self):
    level = two_rooms(sky=[True, True])
    depth, surface, _ = look(level, (56, 128, 41, 0))
    # Above the lower of the two skies nothing is seen, not even the edge.
    self.assertEqual(surface[33, 80], scene_lib.SKY)
    self.assertEqual(depth[33, 80], np.inf)
    self.assertNotIn(
        2 * 2 + 6 * 3 + scene_lib.UPPER, np.unique(surface).tolist()
    )
    inside = look(two_rooms(sky=[False, True]), (56, 128, 41, 0))[1]
    self.assertIn(2 * 2 + 6 * 3 + scene_lib.UPPER, np.unique(inside).tolist())

  def test_what_is_seen_through_a_grate_says_so(self):
    grates = np.arange(7) == 3
    _, surface, through = look(
        two_rooms(see_through=grates), (56, 128, 41, 0)
    )
    wall = 2 * 2 + 6 * 5 + scene_lib.MIDDLE
    np.testing.assert_array_equal(through[surface == wall], True)
    for near in (0, 1, 2 * 2 + 6 * 3 + scene_lib.LOWER):
      np.testing.assert_array_equal(through[surface == near], False)

  def test_outside_of_the_map_there_is_nothing(self):
    depth, surface, _ = look(two_rooms(), (-5000, 128, 41, 180))
    self.assertTrue((surface == scene_lib.VOID).all())
    self.assertTrue(np.isinf(depth).all())

  def test_positions_that_are_not_numbers_meet_nothing(self):
    depth, surface, _ = look(
        two_rooms(), (56, 128, 41, 0), [(np.nan, 1), (80, np.inf), (80, 60)]
    )
    np.testing.assert_array_equal(depth, [np.inf, np.inf, 456])
    np.testing.assert_array_equal(surface[:2], scene_lib.VOID)

  def test_a_room_of_a_maze_is_as_large_as_it_was_made(self):
    maze = generator.generate(4)
    pose = (*maze.start[:2], maze.rooms[0].floor_height + 41, 180)
    depth, _, _ = look(generator.level(maze), pose)
    self.assertEqual(depth[60, 80], maze.size / 2)


class InstallationTest(absltest.TestCase):

  def test_a_folder_where_nothing_can_be_kept_is_no_obstacle(self):
    folder = self.create_tempdir().full_path
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    copy = os.path.join(folder, 'worldsim_jax')
    shutil.copytree(
        os.path.join(root, 'worldsim_jax'),
        copy,
        ignore=shutil.ignore_patterns('__pycache__'),
    )
    # As root one may write anywhere, but not into what is no folder.
    with open(os.path.join(copy, 'data', '__pycache__'), 'w'):
      pass
    code = (
        'from worldsim_jax.data import raycast\n'
        'import worldsim_jax\n'
        'print(worldsim_jax.__file__, raycast._jit(lambda x: x + 1)(2))'
    )
    nowhere = dict.fromkeys(('HOME', 'XDG_CACHE_HOME'), '/dev/null')
    environment = os.environ | nowhere | {'PYTHONPATH': folder}
    environment.pop('NUMBA_CACHE_DIR', None)
    done = subprocess.run(
        [sys.executable, '-B', '-c', code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    path, three = done.stdout.split()
    self.assertStartsWith(path, folder)
    self.assertEqual(three, '3')


if __name__ == '__main__':
  absltest.main()

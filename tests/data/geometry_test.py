"""Depth, normals and surfaces of films, and what is said about the inexact."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from tests.data import views
from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import geometry as geometry_lib
from worldsim_jax.data import maps
from worldsim_jax.data import scene as scene_lib
from worldsim_jax.errors import UserError


class GeometryTest(parameterized.TestCase):

  def test_a_wall_of_a_maze_is_where_it_was_built(self):
    # The start is in room 0: the middle of it, a quarter from the south.
    size = 384
    x, y, _ = maps.load('gen:4').level.start
    for yaw, distance in ((180, size / 2), (270, size / 4)):
      found = geometry_lib.of_poses(
          'gen:4', [(x, y, 60, yaw)], views.camera(48, 64)
      )
      self.assertEqual(found.depth[0, 24, 32], distance)

  @parameterized.parameters('gen:1', 'MAP01', 'MAP15')
  def test_normals_are_unit_and_face_the_camera(self, name):
    found = geometry_lib.of_poses(name, views.poses(name, 6), views.camera())
    some = found.surface >= 0
    self.assertEqual(found.normals.dtype, np.float32)
    np.testing.assert_allclose(
        np.linalg.norm(found.normals[some], axis=-1), 1, atol=1e-6
    )
    self.assertFalse(found.normals[~some].any())
    points = camera_lib.unproject(
        found.camera,
        found.motions,
        found.camera.pixels().reshape(-1, 2),
        found.depth.reshape(len(found.depth), -1),
    ).reshape(*found.depth.shape, 3)
    to_eye = found.motions[:, None, None, :3, 3] - points
    facing = np.sum(to_eye * found.normals, -1)[some]
    # Zero at a grazing angle; rounding of float32 depths of thousands.
    self.assertGreater(facing.min(), -1e-3)
    self.assertGreater(np.median(facing), 1)

  def test_a_point_of_a_surface_lies_in_its_plane(self):
    level = maps.load('MAP01').level
    found = geometry_lib.of_poses(
        'MAP01', views.poses('MAP01', 4), views.camera()
    )
    uv = found.camera.pixels().reshape(-1, 2)
    for t in range(4):
      points = camera_lib.unproject(
          found.camera, found.motions[t], uv, found.depth[t].reshape(-1)
      )
      what = scene_lib.surfaces(found.scene, found.surface[t].reshape(-1))
      floor = what.kind == 'floor'
      np.testing.assert_allclose(
          points[floor, 2],
          1.2 * level.floor[what.sector[floor]],
          atol=1e-3,
      )
      wall = what.line >= 0
      x1, y1, x2, y2 = level.segments[what.line[wall]].T
      across = (points[wall, 0] - x1) * (y2 - y1)
      across -= (points[wall, 1] - y1) * (x2 - x1)
      off = across / np.hypot(x2 - x1, y2 - y1)
      np.testing.assert_allclose(off, 0, atol=2e-3)

  def test_a_film_has_the_geometry_of_its_poses(self):
    recipe = episodes.Recipe('gen:2', ((0.0, 0, 0), (20.0, 0, 8.0)))
    episode = episodes.render(recipe)
    found = geometry_lib.of_episode(episode)
    self.assertEqual(found.depth.shape, (2, 48, 64))
    wanted = geometry_lib.of_poses(
        'gen:2', episode['pose'], camera_lib.of_engine(recipe)
    )
    np.testing.assert_array_equal(found.depth, wanted.depth)
    np.testing.assert_array_equal(
        camera_lib.engine_pose(found.motions)[:, :3], episode['pose'][:, :3]
    )

  def test_sprites_grates_and_sky_are_not_exact(self):
    recipe = episodes.Recipe(
        'MAP15', ((0.0, 0, 0),), height=120, width=160, start=None
    )
    episode = episodes.render(recipe)
    plain = geometry_lib.of_episode(episode)
    self.assertFalse(plain.exact[plain.surface < 0].any())
    sprites = np.zeros((1, 120, 160), bool)
    sprites[0, 60:, :20] = True
    found = geometry_lib.of_episode(episode | {'sprites': sprites})
    np.testing.assert_array_equal(found.exact, plain.exact & ~sprites)

  def test_heights_of_each_frame_are_used(self):
    pose = np.repeat(views.poses('gen:1', 1), 3, 0)
    level = maps.load('gen:1').level
    heights = np.stack([level.floor, level.ceiling], 1)
    every = geometry_lib.moved_heights(
        heights, [(1, s, -8, 140) for s in range(9)], 3
    )
    found = geometry_lib.of_poses('gen:1', pose, views.camera(), every)
    same = geometry_lib.of_poses('gen:1', pose, views.camera())
    np.testing.assert_array_equal(found.depth[0], same.depth[0])
    np.testing.assert_array_equal(found.depth[1], found.depth[2])
    self.assertFalse((found.depth[1] == same.depth[1]).all())

  def test_what_has_no_geometry_is_named(self):
    with self.assertRaisesRegex(UserError, 'no recipe'):
      geometry_lib.of_episode({'recipe': ''})
    with self.assertRaisesRegex(UserError, 'gen:1: poses must be finite'):
      geometry_lib.of_poses('gen:1', np.full((2, 4), np.nan), views.camera())
    with self.assertRaisesRegex(UserError, "no map 'MAP77'"):
      geometry_lib.of_poses('MAP77', np.zeros((1, 4)), views.camera())


if __name__ == '__main__':
  absltest.main()

"""Cameras against the engine's conventions, by hand and by round trips."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import engine


def _camera(**options):
  return camera_lib.of_engine(engine.Options(**options))


class CameraTest(parameterized.TestCase):

  @parameterized.parameters(
      (120, 160, 80.0),
      (240, 320, 160.0),
      (256, 320, 160.0),  # 5:4 is not narrower than 90 degrees
      (144, 256, 96.0),  # 16:9 shows more to the sides
  )
  def test_focal_lengths_are_those_that_were_calibrated(self, h, w, focal):
    camera = _camera(height=h, width=w, render_height=h, render_width=w)
    self.assertAlmostEqual(camera.fx, focal)
    self.assertAlmostEqual(camera.fy, focal)

  def test_a_smaller_picture_has_the_same_view(self):
    camera = _camera(height=48, width=64)
    self.assertAlmostEqual(camera.fx, 32)
    self.assertAlmostEqual(camera.fy, 32)
    self.assertEqual((camera.cx, camera.cy), (32, 24))

  def test_left_of_the_view_is_left_in_the_picture_and_up_is_up(self):
    camera = _camera()
    motion = camera_lib.camera_to_world((100.0, 50.0, 41.0, 90.0))  # north
    eye = np.array([100.0, 50.0, 41.0 * camera_lib.PIXEL_ASPECT])
    points = eye + [[0, 64, 0], [-32, 64, 0], [0, 64, 32], [0, -64, 0]]
    uv, depth = camera_lib.project(camera, motion, points)
    np.testing.assert_allclose(depth, [64, 64, 64, -64])
    np.testing.assert_allclose(uv[:3], [[32, 24], [16, 24], [32, 8]])
    self.assertTrue(np.isnan(uv[3]).all())

  def test_what_is_unprojected_projects_back(self):
    camera, rng = _camera(), np.random.default_rng(0)
    motion = camera_lib.camera_to_world(
        rng.uniform(-3000, 3000, (5, 4)) * (1, 1, 0.1, 1)
    )
    uv = np.broadcast_to(camera.pixels().reshape(-1, 2), (5, 48 * 64, 2))
    depth = rng.uniform(1, 2000, uv.shape[:-1])
    points = camera_lib.unproject(camera, motion, uv, depth)
    back, again = camera_lib.project(camera, motion, points)
    np.testing.assert_allclose(back, uv, atol=1e-8)
    np.testing.assert_allclose(again, depth, rtol=1e-9)

  def test_poses_survive_the_way_through_matrices(self):
    pose = np.array([[1.0, -2.0, 41.0, 359.5], [-900.0, 7.0, 65.0, 0.0]])
    motion = camera_lib.camera_to_world(pose)
    np.testing.assert_allclose(camera_lib.engine_pose(motion), pose, atol=1e-9)
    rotation = motion[..., :3, :3]
    np.testing.assert_allclose(np.linalg.det(rotation), 1)  # right-handed
    np.testing.assert_allclose(
        camera_lib.relative(motion, motion[0])[0], np.eye(4), atol=1e-9
    )


if __name__ == '__main__':
  absltest.main()

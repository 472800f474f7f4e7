"""Points are where they are seen, and hidden by what stands before them."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from tests.data import views
from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import correspondence
from worldsim_jax.data import geometry as geometry_lib
from worldsim_jax.data import maps

MAPS = ('gen:1', 'MAP01', 'MAP15')


def walk(name, count=4, step=(12.0, 5.0), turn=4.0, camera=views.camera()):
  """A camera that goes sideways from somewhere, and turns."""
  pose = np.repeat(views.poses(name, 1, seed=5), count, 0)
  pose[:, :2] += np.arange(count)[:, None] * step
  pose[:, 3] += np.arange(count) * turn
  return geometry_lib.of_poses(name, pose, camera)


def around_a_corner():
  """Frame 0 in room 0 of a maze, frame 1 behind the wall to the next room."""
  x, y, _ = maps.load('gen:4').level.start
  pose = [(x, y, 60, 180), (x - 384 - 100, y, 60, 0), (x, y, 60, 0)]
  return geometry_lib.of_poses('gen:4', pose, views.camera())


class FlowTest(parameterized.TestCase):

  @parameterized.parameters(*MAPS)
  def test_from_a_frame_to_itself_nothing_flows(self, name):
    geometry = walk(name, 1)
    flow, visible = correspondence.flow(geometry, 0, 0)
    # float64 arithmetic on numbers up to thousands.
    np.testing.assert_allclose(flow, 0, atol=1e-9)
    np.testing.assert_array_equal(visible, geometry.exact[0])

  @parameterized.parameters(*MAPS)
  def test_there_and_back_again_ends_where_it_began(self, name):
    geometry = walk(name)
    flow, visible = correspondence.flow(geometry, 0, 3)
    self.assertGreater(visible.mean(), 0.2)
    start = geometry.camera.pixels()
    there = (start + flow)[visible]
    # The point that is visible at `there` is the one that was visible before.
    back, seen = correspondence.tracks(geometry, 3, there)
    self.assertGreater(seen[0].mean(), 0.99)
    error = np.linalg.norm(back[0] - start[visible], axis=-1)[seen[0]]
    # At edges 0.1 % of the depth decides, and the flow is float32.
    self.assertLess(np.quantile(error, 0.99), 1e-2)
    self.assertLess(np.median(error), 1e-4)

  @parameterized.parameters(*MAPS)
  def test_the_depth_at_the_target_is_the_points(self, name):
    geometry = walk(name)
    flow, visible = correspondence.flow(geometry, 0, 2)
    points = correspondence.pointmap(geometry)
    target = geometry.camera.pixels() + flow
    _, depth = camera_lib.project(
        geometry.camera, geometry.motions[2], points[0].reshape(-1, 3)
    )
    nearest = np.clip(target.astype(int), 0, (159, 119))
    shown = geometry.depth[2][nearest[..., 1], nearest[..., 0]]
    ratio = (depth.reshape(shown.shape) / shown)[visible]
    # The nearest pixel is another point, but on the same surface mostly.
    self.assertLess(np.median(abs(ratio - 1)), 0.02)

  def test_nothing_is_not_a_number(self):
    for name in MAPS:
      geometry = walk(name, 3, turn=100.0)  # Much is behind the camera.
      for s, t in ((0, 1), (1, 0), (0, 2)):
        flow, visible = correspondence.flow(geometry, s, t)
        self.assertTrue(np.isfinite(flow).all())
        self.assertEqual((flow.dtype, visible.dtype), (np.float32, bool))
      self.assertTrue(np.isfinite(correspondence.pointmap(geometry)).all())

  def test_behind_a_wall_nothing_is_visible(self):
    geometry = around_a_corner()
    # Frame 0 looks at the western wall of its room. Frame 1 is behind it, out
    # of the map, where walls are not seen, and not their fronts either.
    flow, visible = correspondence.flow(geometry, 0, 1)
    self.assertFalse(visible.any())
    self.assertTrue(np.isfinite(flow).all())
    # Frame 2 looks away.
    self.assertFalse(correspondence.flow(geometry, 0, 2)[1].any())


class TracksTest(parameterized.TestCase):

  @parameterized.parameters(*MAPS)
  def test_tracks_agree_with_flow(self, name):
    geometry = walk(name)
    uv = geometry.camera.pixels()[5::10, 5::10].reshape(-1, 2)
    positions, visible = correspondence.tracks(geometry, 0, uv)
    np.testing.assert_allclose(positions[0], uv, atol=1e-9)
    for t in range(4):
      flow, seen = correspondence.flow(geometry, 0, t)
      seen = seen[5::10, 5::10].reshape(-1)
      np.testing.assert_array_equal(visible[t], seen)
      moved = uv + flow[5::10, 5::10].reshape(-1, 2)
      # Depths of the flow are float32.
      np.testing.assert_allclose(positions[t][seen], moved[seen], atol=1e-3)

  def test_a_point_behind_a_pillar_of_wall_is_hidden_and_comes_back(self):
    # A doorway of a maze: what lies beside it in the next room is seen from
    # one side only.
    maze = maps.load('gen:4').level
    opening = np.flatnonzero(maze.back >= 0)[0]
    x1, y1, x2, y2 = maze.segments[opening]
    middle = np.array([x1 + x2, y1 + y2]) / 2
    along = np.array([x2 - x1, y2 - y1]) / 128
    ahead = np.array([-along[1], along[0]])  # from front to back
    yaw = np.degrees(np.arctan2(ahead[1], ahead[0]))
    # Through the middle, then from so far aside that the wall is between.
    eyes = [middle - 100 * ahead + side * along for side in (0, 150, 0)]
    pose = [(*eye, 60, yaw) for eye in eyes]
    geometry = geometry_lib.of_poses('gen:4', pose, views.camera())
    _, visible = correspondence.tracks(geometry, 0, [(80.0, 60.0)])
    np.testing.assert_array_equal(visible[:, 0], [True, False, True])

  def test_sprites_hide_points(self):
    geometry = walk('gen:1', 2)
    sprites = np.zeros((2, 120, 160), bool)
    sprites[1, :, 80:] = True
    hidden = dataclasses.replace(geometry, sprites=sprites)
    uv = geometry.camera.pixels()[::8, ::8].reshape(-1, 2)
    positions, visible = correspondence.tracks(hidden, 0, uv)
    _, before = correspondence.tracks(geometry, 0, uv)
    covered = positions[1, :, 0] >= 80
    self.assertTrue((before[1] & covered).any())
    np.testing.assert_array_equal(visible[1], before[1] & ~covered)
    # What a sprite covers where the track begins is no point of the world.
    _, never = correspondence.tracks(hidden, 1, [(100.0, 60.0)])
    self.assertFalse(never.any())

  def test_points_of_moved_floors_are_not_followed(self):
    pose = np.repeat(views.poses('gen:1', 1), 2, 0)
    level = maps.load('gen:1').level
    heights = np.stack([level.floor, level.ceiling], 1)
    moved = np.stack([heights, heights - (4, 0)])  # Every floor sinks.
    geometry = geometry_lib.of_poses('gen:1', pose, views.camera(), moved)
    self.assertFalse(correspondence.flow(geometry, 0, 1)[1].any())
    self.assertTrue(correspondence.flow(geometry, 1, 1)[1].all())

  def test_the_sky_and_positions_outside_are_not_followed(self):
    geometry = walk('MAP15', 2)
    sky = np.argwhere(geometry.surface[0] == -1)
    uv = [(-5.0, 10.0), (50.0, 500.0), *(sky[:1, ::-1] + 0.5)]
    positions, visible = correspondence.tracks(geometry, 0, uv)
    self.assertFalse(visible.any())
    self.assertTrue(np.isfinite(positions).all())


class WarpTest(parameterized.TestCase):

  def test_a_picture_warped_to_itself_is_itself(self):
    geometry = walk('gen:1', 1)
    rgb = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    seen, valid = correspondence.warp(rgb, geometry, 0, 0)
    self.assertTrue(valid.all())
    self.assertEqual(seen.dtype, np.uint8)
    np.testing.assert_array_equal(seen, rgb)

  def test_a_pattern_painted_on_the_world_is_seen_in_perspective(self):
    # A colour for each point of the world: a warp must show the right one.
    geometry = walk('gen:1')
    points = correspondence.pointmap(geometry)
    seen, valid = correspondence.warp(points[3], geometry, 0, 3)
    # Between pixels a point map is linear on a plane, in disparity rather
    # than depth: the remaining error is second order, and large at edges.
    error = np.linalg.norm(seen - points[0], axis=-1)[valid]
    self.assertLess(np.median(error), 0.1)
    self.assertGreater(valid.mean(), 0.3)

  def test_sampling_is_bilinear_between_pixel_centres(self):
    image = np.array([[[0.0], [10.0]], [[20.0], [30.0]]])
    uv = [(0.5, 0.5), (1.5, 0.5), (1.0, 1.0), (0.75, 0.5), (0.0, 9.0)]
    found = correspondence.sample(image, uv)[:, 0]
    np.testing.assert_allclose(found, [0, 10, 15, 2.5, 20])


class PointmapTest(absltest.TestCase):

  def test_points_project_to_their_pixels(self):
    geometry = walk('MAP15', 2)
    points = correspondence.pointmap(geometry)
    uv, depth = camera_lib.project(
        geometry.camera, geometry.motions, points.reshape(2, -1, 3)
    )
    some = geometry.surface.reshape(2, -1) >= 0
    pixels = geometry.camera.pixels().reshape(-1, 2)
    # float32 positions, thousands of units from the origin.
    np.testing.assert_allclose(
        (uv - pixels)[some], 0, atol=80 * 1e-3 / depth[some].min()
    )
    self.assertFalse(points.reshape(2, -1, 3)[~some].any())


if __name__ == '__main__':
  absltest.main()

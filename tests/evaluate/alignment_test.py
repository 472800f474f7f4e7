"""The odometer on real frames, and what must make it fail."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from tests.evaluate import walks
from worldsim_jax.data import camera as camera_lib
from worldsim_jax.evaluate import alignment

REACH = (24.0, 14.0)  # Twice what a player does in a frame of two tics.


def align(t, gap=1, later=None, scale=1.0, **options):
  """Of frames t and t + gap of a walk, and the true movement."""
  episode, geometry = walks.walk()
  later = episode['rgb'][t + gap] if later is None else later
  found = alignment.align(
      geometry.camera,
      episode['rgb'][t],
      geometry.depth[t] * scale,
      later,
      **dict(exact=geometry.exact[t], reach=REACH) | options,
  )
  motions = geometry.motions
  return found, alignment.movements_of(motions[t + gap], motions[t])


class AlignTest(parameterized.TestCase):

  def test_movements_between_real_frames_are_measured(self):
    pairs = [align(t) for t in range(0, 15, 2)]
    error = np.abs([found.movement - true for found, true in pairs])
    moved = np.abs([true for _, true in pairs])
    self.assertGreater(moved[:, 0].max(), 8)
    self.assertGreater(moved[:, 2].max(), 4)
    # Medians are 0.3 map units and 0.15 degrees over maps, worst cases of those
    # that are accepted some units.
    self.assertLess(np.median(error[:, :2]), 0.5)
    self.assertLess(np.median(error[:, 2]), 0.25)
    accepted = np.array([found.accepted for found, _ in pairs])
    self.assertGreaterEqual(accepted.sum(), 6)
    self.assertLess((error[accepted] / (3, 3, 1, 3)).max(), 1)

  def test_larger_frames_are_measured_more_exactly(self):
    episode, geometry = walks.walk(height=120, num_frames=4)
    found = alignment.align(
        geometry.camera,
        episode['rgb'][1],
        geometry.depth[1],
        episode['rgb'][2],
        exact=geometry.exact[1],
    )
    true = alignment.movements_of(geometry.motions[2], geometry.motions[1])
    self.assertTrue(found.accepted)
    error = np.abs(found.movement - true)
    # A pixel is a third of a degree; 0.2 units and 0.1 degrees are the median.
    self.assertLess((error / (1, 1, 0.4, 1)).max(), 1)

  def test_a_frame_has_not_moved_from_itself(self):
    episode, _ = walks.walk()
    found, _ = align(5, later=episode['rgb'][5])
    self.assertTrue(found.accepted)
    # Damping and float32 sums.
    np.testing.assert_allclose(found.movement, 0, atol=0.02)

  def test_brightness_and_contrast_do_not_matter(self):
    episode, _ = walks.walk()
    later = episode['rgb'][6].astype(np.float32)
    plain, _ = align(5)
    dim, _ = align(5, later=0.7 * later + 30)
    # The floor of a grey level under the contrast does not scale.
    np.testing.assert_allclose(dim.movement, plain.movement, atol=0.1)

  def test_wrong_depths_give_wrong_distances(self):
    ratios = []
    for t in range(10, 15):  # Where it walks.
      found, true = align(t, scale=1.5)
      ratios.append(found.movement[0] / true[0])
    # The picture tells a direction; distances scale with the depth.
    self.assertAlmostEqual(np.median(ratios), 1.5, delta=0.15)

  def test_the_other_order_is_the_other_way(self):
    episode, geometry = walks.walk()
    t = 12
    there, true = align(t)
    back = alignment.align(
        geometry.camera,
        episode['rgb'][t + 1],
        geometry.depth[t + 1],
        episode['rgb'][t],
        reach=REACH,
    )
    self.assertGreater(there.movement[0], 0.8 * true[0])
    self.assertLess(back.movement[0], -0.8 * true[0])

  def test_what_shows_something_else_is_not_accepted(self):
    other, _ = walks.walk('gen:1048579')
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    blank = np.full((48, 64, 3), 90, np.uint8)
    for later in (other['rgb'][0], noise, blank):
      self.assertFalse(align(5, later=later)[0].accepted)

  def test_a_blank_wall_tells_nothing(self):
    _, geometry = walks.walk()
    blank = np.full((48, 64, 3), 90, np.uint8)
    found = alignment.align(
        geometry.camera, blank, geometry.depth[0], blank, reach=REACH
    )
    self.assertFalse(found.accepted)

  def test_without_known_depths_nothing_is_accepted(self):
    found, _ = align(5, exact=np.zeros((48, 64), bool))
    self.assertFalse(found.accepted)
    self.assertEqual(found.coverage, 0)

  def test_it_is_deterministic(self):
    np.testing.assert_array_equal(align(3)[0].movement, align(3)[0].movement)


class FollowTest(absltest.TestCase):

  def follow(self, film):
    episode, geometry = walks.walk()
    return alignment.follow(
        geometry.camera,
        episode['rgb'][2],
        geometry.depth[2],
        film,
        exact=geometry.exact[2],
        reach=REACH,
        motion=geometry.motions[2],
    )

  def test_the_way_of_a_real_film_is_the_true_one(self):
    episode, geometry = walks.walk()
    path = self.follow(episode['rgb'][3:7])
    self.assertGreaterEqual(path.accepted.sum(), 3)
    true = geometry.motions[3:7][path.accepted]
    gap = path.motions[path.accepted][:, :3, 3] - true[:, :3, 3]
    # Up to four frames, each of up to 12 units, with about a unit of error.
    self.assertLess(np.linalg.norm(gap, axis=1).max(), 4)

  def test_a_film_that_shows_something_else_is_given_up(self):
    other, _ = walks.walk('gen:1048579')
    path = self.follow(other['rgb'][:6])
    self.assertFalse(path.accepted.any())
    self.assertFalse(path.movements.any())
    np.testing.assert_array_equal(path.confidence[4:], 0)


class MovementsTest(absltest.TestCase):

  def test_movements_are_those_that_an_action_commands(self):
    poses = np.array([[10.0, 20, 41, 90], [5, 28, 43, 100]])  # facing north
    first, second = camera_lib.camera_to_world(poses)
    np.testing.assert_allclose(
        alignment.movements_of(second, first), (8, 5, 10, 2), atol=1e-9
    )

  def test_movements_survive_the_way_through_matrices(self):
    rng = np.random.default_rng(0)
    movements = rng.uniform(-50, 50, (6, 4))
    origin = camera_lib.camera_to_world((100.0, -7, 41, 33))
    motions = origin @ alignment.motions_of(movements)
    np.testing.assert_allclose(
        alignment.movements_of(motions, origin), movements, atol=1e-9
    )


if __name__ == '__main__':
  absltest.main()

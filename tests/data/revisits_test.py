"""A revisit is the same view after having been away."""

from absl.testing import absltest
import numpy as np

from worldsim_jax.data import maps
from worldsim_jax.data import revisits


def walk(*legs):
  """Poses that go through (x, y, yaw) in steps of 10 units and 10 degrees."""
  poses = [np.array(legs[0], float)]
  for leg in legs[1:]:
    way = np.array(leg) - poses[-1]
    steps = int(np.abs(way).max() / 10)
    poses += [poses[-1] + way * k / steps for k in range(1, steps + 1)]
  x, y, yaw = np.array(poses).T
  return np.stack([x, y, np.full_like(x, 41), yaw % 360], 1)


def pairs(pose, min_gap=1.0, **options):
  found = revisits.pairs(
      pose, seconds_per_frame=0.1, min_gap=min_gap, **options
  )
  return {tuple(pair) for pair in found.tolist()}


class PairsTest(absltest.TestCase):

  def test_a_way_back_sees_everything_again_backwards(self):
    pose = walk((0, 0, 0), (400, 0, 0), (0, 0, 0))
    found = pairs(pose, near=5)
    # Only what was more than 256 units from the turn.
    self.assertEqual(found, {(k, 80 - k) for k in range(15)})

  def test_who_only_stands_has_not_come_back(self):
    self.assertEmpty(pairs(np.zeros((100, 4))))

  def test_who_only_went_a_few_steps_has_not_come_back(self):
    self.assertEmpty(pairs(walk((0, 0, 0), (200, 0, 0), (0, 0, 0))))

  def test_looking_away_is_leaving(self):
    pose = walk((0, 0, 0), (0, 0, 100), (0, 0, 0))
    self.assertIn((0, 20), pairs(pose))
    self.assertEmpty(pairs(walk((0, 0, 0), (0, 0, 80), (0, 0, 0))))

  def test_another_view_of_the_place_is_no_revisit(self):
    pose = walk((0, 0, 0), (400, 0, 0), (400, 0, 180), (0, 0, 180))
    self.assertEmpty(pairs(pose))

  def test_yaw_goes_round(self):
    pose = walk((0, 0, 355), (400, 0, 355), (0, 0, 365))
    self.assertIn((0, len(pose) - 1), pairs(pose))

  def test_gaps_are_in_seconds_and_end_before_the_next_begins(self):
    pose = walk((0, 0, 0), (400, 0, 0), (0, 0, 0))
    gaps = {j - i for i, j in pairs(pose, 6.0, max_gap=7.0, near=5)}
    self.assertEqual(gaps, {60, 62, 64, 66, 68})
    later = {j - i for i, j in pairs(pose, 7.0, max_gap=8.0, near=5)}
    self.assertEqual(min(later), 70)

  def test_a_cut_is_a_way_of_leaving(self):
    pose, shot_id = np.zeros((40, 4)), np.repeat([0, 1], 20)
    self.assertIn((0, 30), pairs(pose, shot_id=shot_id))
    self.assertNotIn((0, 15), pairs(pose, shot_id=shot_id))

  def test_the_other_side_of_a_wall_is_another_place(self):
    # Rooms 0 and 3 of this maze lie side by side at x = 384, with no door.
    level = maps.load('gen:7').level
    pose = walk((368, 192, 0), (368, 600, 0), (400, 192, 0))
    last = len(pose) - 1
    self.assertIn((0, last), pairs(pose))
    self.assertNotIn((0, last), pairs(pose, level=level))
    pose = walk((340, 192, 0), (340, 600, 0), (368, 192, 0))
    self.assertIn((0, last), pairs(pose, level=level))

  def test_a_short_episode_has_none(self):
    self.assertEqual(
        revisits.pairs(np.zeros((3, 4)), seconds_per_frame=1.0).shape, (0, 2)
    )


class ClosestTest(absltest.TestCase):

  def test_each_revisit_keeps_the_frame_most_like_it(self):
    pose = walk((0, 0, 0), (400, 0, 0), (0, 0, 0))
    found = revisits.pairs(pose, seconds_per_frame=0.1, min_gap=1.0)
    best = revisits.closest(pose, found)
    i, j = best.T
    self.assertLen(set(j), len(j))
    distance, angle = revisits.errors(pose[i], pose[j])
    self.assertEqual(angle.max(), 0)
    # The first frames of the way back have no frame of the same place that is
    # 256 units from the turn; the nearest is.
    self.assertEqual(np.median(distance), 0)
    self.assertLen(best, round(revisits.share(len(pose), found) * len(pose)))

  def test_nothing_is_the_share_of_no_pairs(self):
    none = np.zeros((0, 2), int)
    self.assertEqual(revisits.share(10, none), 0)
    self.assertEqual(revisits.closest(np.zeros((10, 4)), none).shape, (0, 2))


if __name__ == '__main__':
  absltest.main()

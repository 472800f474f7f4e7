"""Players come back to the spot, and see it again."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import maps
from worldsim_jax.data import navigator
from worldsim_jax.data import occupancy
from worldsim_jax.data import revisits


def film(name, policy, num_frames, tics=4, seed=1):
  with engine_lib.Engine(
      name, height=12, width=16, tics_per_frame=tics
  ) as engine:
    return episodes.record(
        engine, policy=policy, num_frames=num_frames, seed=seed
    )


class PalindromeTest(parameterized.TestCase):

  @parameterized.parameters(('gen:7', 4), ('gen:11', 2), ('MAP01', 4))
  def test_every_pose_is_taken_again_in_reverse_order(self, name, tics):
    frames = 60 * 35 // tics
    shown = film(name, 'palindrome', frames, tics)
    middle = (frames - 1) // 2
    out, back = shown['pose'][:middle], shown['pose'][middle + 1 :][:middle]
    distance, angle = revisits.errors(out[::-1], back)
    # A wall on the way out stops at once; on the way back that takes a frame.
    self.assertLess(np.median(distance), 0.2)
    self.assertLess(np.percentile(distance, 90), 2)
    self.assertLess(distance.max(), 32)
    self.assertLess(angle.max(), 0.02)
    # So the pictures are the same, to a pixel's sampling. (Torches flicker.)
    one, other = (
        shown['rgb'][k].astype(float)
        for k in (
            slice(middle - 1, None, -1),
            slice(middle + 1, 2 * middle + 1),
        )
    )
    error = np.abs(one - other).mean((1, 2, 3))
    self.assertLess(np.median(error), 1)

  def test_the_ends_see_each_other_after_the_whole_film(self):
    shown = film('gen:7', 'palindrome', 525)
    found = revisits.pairs(
        shown['pose'],
        seconds_per_frame=4 / 35,
        min_gap=50,
        level=maps.load('gen:7').level,
    )
    self.assertIn((0, 524), map(tuple, found))

  def test_of_unknown_length_it_goes_out_again(self):
    grid = occupancy.of_map('gen:7')
    player = navigator.make('palindrome', grid, 0)
    # 262 frames out and as many back, twice.
    self.assertLen([player.act((192.0, 96, 41, 0)) for _ in range(1100)], 1100)

  @parameterized.parameters(1, 2, 3, 4)
  def test_a_film_of_a_few_frames_is_no_obstacle(self, num_frames):
    shown = film('gen:7', 'palindrome', num_frames)
    self.assertLen(shown['rgb'], num_frames)


class TourTest(parameterized.TestCase):

  @parameterized.parameters('gen:7', 'MAP11')
  @pytest.mark.slow
  def test_views_come_again_after_5_20_and_60_seconds(self, name):
    shown = film(name, 'tour', 1050)  # two minutes
    share = lambda *gap: revisits.share(
        1050,
        revisits.pairs(
            shown['pose'],
            seconds_per_frame=4 / 35,
            min_gap=gap[0],
            max_gap=gap[1],
            level=maps.load(name).level,
        ),
    )
    self.assertGreater(share(4, 8), 0.1)
    self.assertGreater(share(20, 40), 0.1)
    self.assertGreater(share(50, 90), 0.1)
    self.assertGreater(share(20, np.inf), 0.4)

  def test_a_stop_is_the_same_spot_and_view_every_time(self):
    pose = film('gen:7', 'tour', 525)['pose']
    still = np.abs(np.diff(pose, axis=0)).max(1) < 0.3
    ends = np.flatnonzero(np.diff(np.append(still, False), prepend=False))
    held = [pose[(a + b) // 2] for a, b in ends.reshape(-1, 2) if b - a >= 4]
    self.assertGreater(len(held), 8)  # Two of each of five stops or more.
    for view in held:
      distance, angle = revisits.errors(view, held)
      again = (distance < 1) & (angle < 0.1)
      self.assertGreater(again.sum(), 1)


class LookoutTest(parameterized.TestCase):

  @parameterized.parameters(4, 8)
  def test_it_stands_still_and_sees_views_again_after_they_were_gone(
      self, tics):
    frames = 60 * 35 // tics
    pose = film('gen:7', 'lookout', frames, tics)['pose']
    self.assertFalse(np.any(np.diff(pose[:, :3], axis=0)))
    turns = (np.diff(pose[:, 3]) + 180) % 360 - 180
    steps = turns / (7.5 * tics / 4)  # in units of the least turn
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-2)
    self.assertSetEqual(set(np.round(steps)), {-2, -1, 1, 2})
    found = revisits.pairs(
        pose, seconds_per_frame=tics / 35, min_gap=2,
        level=maps.load('gen:7').level)
    self.assertGreater(revisits.share(frames, found), .5)


if __name__ == '__main__':
  absltest.main()

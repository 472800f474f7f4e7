"""Players get about, come back, and do everything now and then."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import navigator
from worldsim_jax.data import occupancy
from worldsim_jax.errors import UserError


def revisits(pose, gap=100):
  """Share of frames that see a place again, `gap` frames after, same view."""
  later = np.arange(gap, len(pose))
  hits = 0
  for t in later:
    near = np.hypot(*(pose[: t - gap + 1, :2] - pose[t, :2]).T) < 48
    turn = (pose[: t - gap + 1, 3] - pose[t, 3] + 180) % 360 - 180
    hits += np.any(near & (np.abs(turn) < 20))
  return hits / len(later)


class NavigatorTest(parameterized.TestCase):

  @parameterized.parameters('gen:11', 'MAP01', 'E1M1')
  def test_it_gets_about_without_sticking(self, name):
    with engine_lib.Engine(name, height=12, width=16) as engine:
      film = episodes.record(engine, policy='navigate', num_frames=800, seed=0)
    pose = film['pose']
    places = {tuple(cell) for cell in (pose[:, :2] // 64).astype(int)}
    self.assertGreater(len(places), 30)
    # Not stuck: in no two seconds does it keep both place and view.
    moved = np.abs(np.diff(pose, axis=0)).max(1) > 0.5
    still = ''.join('#' if m else '.' for m in moved).split('#')
    self.assertLess(max(map(len, still)), 20)
    self.assertGreater(revisits(pose), 0.1)

  def test_actions_cover_turning_in_place_backing_up_and_strafing(self):
    with engine_lib.Engine('gen:11', height=12, width=16) as engine:
      film = episodes.record(engine, policy='navigate', num_frames=800, seed=1)
    forward, strafe, turn = film['actions'].T
    for name, share in {
        'turning in place': ((forward == 0) & (turn != 0)).mean(),
        'backing up': (forward < 0).mean(),
        'strafing left': (strafe > 0).mean(),
        'strafing right': (strafe < 0).mean(),
        'walking': (forward > 0).mean(),
    }.items():
      self.assertGreater(share, 0.01, name)

  @parameterized.parameters(*navigator.PLAYERS)
  @pytest.mark.slow
  def test_the_pace_does_not_depend_on_the_length_of_a_frame(self, policy):
    speeds = []
    for tics in (1, 4, 8):
      with engine_lib.Engine(
          'gen:11', height=12, width=16, tics_per_frame=tics
      ) as engine:
        film = episodes.record(
            engine, policy=policy, num_frames=1200 // tics, seed=3
        )
      speeds.append(np.abs(film['actions']).mean(0) / tics)
    for speed in speeds:
      # They are other walks: only the pace is the same.
      np.testing.assert_allclose(speed[[0, 2]], speeds[1][[0, 2]], rtol=0.6)

  def test_the_random_walk_holds_its_actions(self):
    walk = navigator.RandomWalk(None, seed=0)
    # No walls: every step finds it elsewhere.
    actions = np.stack([walk.act((10 * t, 0, 41, 0)) for t in range(500)])
    changes = np.flatnonzero(np.abs(np.diff(actions, axis=0)).max(1)) + 1
    # A draw may repeat the last: stretches can be longer than 9, not shorter.
    self.assertGreaterEqual(np.diff(changes).min(), 3)
    self.assertLen(np.unique(actions, axis=0), 10)

  def test_the_random_walk_turns_away_from_walls(self):
    walk = navigator.RandomWalk(None, seed=0)
    while not walk.act((0, 0, 41, 0))[0]:
      pass
    after = np.stack([walk.act((0, 0, 41, 0)) for _ in range(6)])
    np.testing.assert_array_equal(after[:, 0], 0)
    np.testing.assert_array_equal(np.abs(after[:, 2]), 12)

  @parameterized.parameters(*navigator.PLAYERS)
  def test_the_seed_decides_the_actions(self, policy):
    grid = occupancy.of_map('gen:2')

    def play(seed):
      player = navigator.make(policy, grid, seed)
      return np.stack(
          [
              player.act(np.array([192.0, 96.0, 41.0, t % 360]))
              for t in range(100)
          ]
      )

    np.testing.assert_array_equal(play(1), play(1))
    self.assertFalse(np.array_equal(play(1), play(2)))

  def test_starts_are_free_and_differ(self):
    grid = occupancy.of_map('gen:2')
    starts = {navigator.random_start(grid, seed) for seed in range(20)}
    self.assertGreater(len(starts), 15)
    for x, y, _ in starts:
      np.testing.assert_array_equal(grid.centre(grid.nearest(x, y)), [x, y])

  def test_an_unknown_policy_lists_the_known(self):
    with self.assertRaisesRegex(UserError, "'fly'.*random_walk, navigate"):
      navigator.make('fly', None, 0)


if __name__ == '__main__':
  absltest.main()

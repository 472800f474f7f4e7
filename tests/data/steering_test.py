"""A servo knows the player's inertia."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import steering


class ServoTest(parameterized.TestCase):

  @parameterized.parameters(1, 2, 4)
  def test_it_follows_a_moving_place_to_a_unit(self, tics):
    errors = []
    with engine_lib.Engine(
        'gen:7', height=12, width=16, tics_per_frame=tics
    ) as engine:
      _, pose = engine.reset(0, (192, 192, 30))
      servo = steering.Servo(tics)
      for t in range(600 // tics):
        phase = t * tics / 35 * 1.5
        place = 102 + 90 * np.cos(phase), 192 + 60 * np.sin(phase)
        yaw = (30 + 3 * t) % 360
        _, pose = engine.step(servo.command(pose, (*place, yaw)))
        turn = (pose[3] - yaw + 180) % 360 - 180
        errors.append((np.hypot(*(pose[:2] - place)), abs(turn)))
    late = np.array(errors)[len(errors) // 4 :]
    # Whole counts: half of one, for all tics of a frame, is 1/6 unit in steady
    # state, and a few frames' worth of it add up.
    self.assertLess(late[:, 0].mean(), 1.0)
    self.assertLess(late[:, 1].max(), 0.02)

  def test_it_goes_no_faster_than_its_limit(self):
    servo = steering.Servo(4)
    action = servo.command((0, 0, 41, 0), (1000, 1000, 0))
    self.assertAlmostEqual(
        np.hypot(*action[:2]), 4 * steering.FASTEST, delta=0.02
    )

  def test_a_command_is_in_the_players_own_axes(self):
    # He looks north: what is north of him is ahead, what is west to the left.
    servo = steering.Servo(4)
    forward, strafe, turn = servo.command((0, 0, 41, 90), (0, 10, 90))
    self.assertGreater(forward, 1)
    self.assertAlmostEqual(strafe, 0, delta=0.01)
    self.assertEqual(turn, 0)
    servo.forget()
    self.assertGreater(servo.command((0, 0, 41, 90), (-10, 0, 90))[1], 1)


class PursueTest(absltest.TestCase):

  def test_it_goes_on_from_the_nearest_point_of_the_path(self):
    path = np.stack([np.arange(0.0, 100, 10), np.zeros(10)], 1)
    rest, (forward, turn) = steering.pursue(
        path, np.array([42.0, 5.0]), 0.0, look_ahead=20, speed=24, max_turn=12
    )
    np.testing.assert_array_equal(rest[0], [40, 0])
    self.assertGreater(forward, 20)
    self.assertLess(turn, 0)  # To the right, back to the path.

  def test_what_is_behind_is_turned_to_on_the_spot(self):
    _, (forward, turn) = steering.pursue(
        np.array([[0.0, 0.0]]),
        np.array([50.0, 5.0]),
        0.0,
        look_ahead=20,
        speed=24,
        max_turn=12,
    )
    self.assertEqual((forward, abs(turn)), (0, 12))


if __name__ == '__main__':
  absltest.main()

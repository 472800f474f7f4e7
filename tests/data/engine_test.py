"""The engine obeys in physical units, and shows nothing but the world."""

import glob
import os
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from worldsim_jax.data import actions
from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import generator
from worldsim_jax.data import maps
from worldsim_jax.errors import UserError


def arena(udmf_edit=lambda text: text):
  """A map of one large empty room, with the player in a corner of it."""
  room = generator.Room('brick', 'grass', 'CEIL3_5', 0, 128, 255)
  maze = generator.Maze(1, 4096, (room,), frozenset(), ())
  udmf = generator._udmf(maze)
  with mock.patch.object(generator, '_udmf', lambda _: udmf_edit(udmf)):
    return maps.Map(
        'arena',
        maps.freedoom('freedoom2.wad'),
        'MAP01',
        generator.level(maze),
        'an arena',
        generator.pwad(maze),
    )


def open_arena(udmf_edit=lambda text: text, **options):
  with mock.patch.object(maps, 'load', lambda _: arena(udmf_edit)):
    return engine_lib.Engine('arena', **options)


class CalibrationTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.engine = open_arena()
    cls.addClassCleanup(cls.engine.close)

  def steady_step(self, action, start=(2048.0, 2048.0, 30.0)):
    """Displacement in one frame along and across the view, and the turn."""
    self.engine.reset(start=start)
    poses = [self.engine.step(action)[1] for _ in range(40)]
    # The mean over some frames: counts are whole numbers.
    dx, dy = (poses[-1] - poses[-11])[:2] / 10
    yaw = np.radians(poses[-1][3])
    return (
        dx * np.cos(yaw) + dy * np.sin(yaw),
        dy * np.cos(yaw) - dx * np.sin(yaw),
    )

  @parameterized.parameters(24.0, 10.0, 1.1, 60.0, -24.0)
  def test_forward_is_the_steady_displacement_of_a_frame(self, speed):
    along, across = self.steady_step((speed, 0, 0))
    # The engine's own rounding: momentum is 16-bit fixed point, angles have
    # 13 bits.
    self.assertAlmostEqual(along, speed, delta=max(0.01 * abs(speed), 0.05))
    self.assertAlmostEqual(across, 0, delta=0.01 * abs(speed))

  @parameterized.parameters(24.0, -24.0, 10.0)
  def test_strafe_is_the_steady_displacement_to_the_left(self, speed):
    along, across = self.steady_step((0, speed, 0))
    self.assertAlmostEqual(across, speed, delta=0.01 * abs(speed))
    self.assertAlmostEqual(along, 0, delta=0.01 * abs(speed))

  @parameterized.parameters(8.0, -8.0, 0.37, 90.0, -179.0)
  def test_turn_is_exact_and_positive_to_the_left(self, degrees):
    _, pose = self.engine.reset(start=(2048.0, 2048.0, 10.0))
    for t in range(1, 8):
      _, turned = self.engine.step((0, 0, degrees))
      error = (turned[3] - pose[3] - t * degrees + 180) % 360 - 180
      # One step of a 16-bit angle; it does not grow with t.
      self.assertLess(abs(error), 360 / 65536)

  def test_a_turn_is_spread_over_the_tics_of_a_frame(self):
    counts, carry = engine_lib.spread_over_tics(
        (0, 0, -8.0), np.zeros(3), tics=4
    )
    np.testing.assert_array_equal(counts[:, 2], [364] * 4)
    self.assertLess(abs(carry[2]), 0.5)

  def test_rounding_is_made_up_for_later(self):
    carry, given = np.zeros(3), np.zeros(3)
    for _ in range(30):
      counts, carry = engine_lib.spread_over_tics((0.1, -0.1, 0.001), carry, 4)
      given += counts.sum(0)
    np.testing.assert_allclose(
        given,
        30 * np.array([0.1, -0.1, 0.001]) * engine_lib.COUNTS_PER_UNIT,
        atol=0.5 + 1e-9,
    )

  def test_faster_than_the_player_can_run_is_refused(self):
    self.engine.reset()
    with self.assertRaisesRegex(UserError, 'at most 66.7 map units'):
      self.engine.step((80, 0, 0))
    with self.assertRaisesRegex(UserError, 'not finite'):
      self.engine.step((np.nan, 0, 0))

  def test_a_new_player_obeys_from_the_first_frame(self):
    _, before = self.engine.reset()
    _, after = self.engine.step((24.0, 0, 8.0))
    self.assertGreater(after[1] - before[1], 1)
    self.assertAlmostEqual(after[3] - before[3], 8, delta=0.01)

  def test_it_starts_where_it_is_told(self):
    for start in ((100.0, 200.0, 0.0), (3000.0, 1001.0, 271.0)):
      _, pose = self.engine.reset(start=start)
      np.testing.assert_allclose(pose, [*start[:2], 41, start[2]], atol=0.01)
      _, later = self.engine.step((0, 0, 0))
      np.testing.assert_array_equal(pose, later)

  def test_a_start_inside_a_wall_is_refused(self):
    with self.assertRaisesRegex(UserError, 'nobody can stand at start x=-500'):
      self.engine.reset(start=(-500.0, 0.0, 0.0))


PLAY = """
from worldsim_jax.data import engine
for _ in range(4):
  with engine.Engine('gen:1') as game:
    game.reset()
    game.step((24., 0., 5.))
"""


def start_player(folder):
  """A process that plays with `folder` as its working directory."""
  return subprocess.Popen(
      [sys.executable, '-c', PLAY],
      cwd=folder,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
      stderr=subprocess.PIPE,
      text=True,
  )


class WorkingDirectoryTest(absltest.TestCase):

  @pytest.mark.slow
  def test_many_engines_start_side_by_side_and_leave_nothing(self):
    folder = self.create_tempdir().full_path
    players = [start_player(folder) for _ in range(6)]
    for player in players:
      _, errors = player.communicate()
      self.assertEqual(player.returncode, 0, errors)
    self.assertEmpty(os.listdir(folder))

  def test_a_folder_where_nobody_can_write_is_no_obstacle(self):
    # In /proc not even root can make a folder.
    player = start_player('/proc')
    _, errors = player.communicate()
    self.assertEqual(player.returncode, 0, errors)

  def test_a_users_folder_of_the_engines_name_is_left_alone(self):
    folder = self.create_tempdir().full_path
    os.mkdir(os.path.join(folder, '_vizdoom'))
    player = start_player(folder)
    _, errors = player.communicate()
    self.assertEqual(player.returncode, 0, errors)
    self.assertEqual(os.listdir(folder), ['_vizdoom'])

  def test_no_file_outlives_the_start(self):
    folder = self.create_tempdir().full_path
    with mock.patch.object(tempfile, 'tempdir', folder):
      with engine_lib.Engine('gen:1'):
        self.assertEmpty(os.listdir(folder))

  def test_a_temporary_folder_without_programs_is_one_line(self):
    with mock.patch.object(os, 'access', lambda *unused: False):
      with self.assertRaisesRegex(UserError, 'cannot run in .*TMPDIR'):
        engine_lib.Engine('gen:1')
    with mock.patch.object(tempfile, 'tempdir', '/nonexistent'):
      with self.assertRaisesRegex(UserError, 'gen:1: .*did not start.*/nonex'):
        engine_lib.Engine('gen:1')


class EngineTest(absltest.TestCase):

  def test_the_player_cannot_be_hurt(self):
    # Without `god` this floor kills in 160 tics.
    def hellslime(text):
      return text.replace('lightlevel=', 'special=80;lightlevel=')

    with open_arena(hellslime) as engine:
      for _ in range(2):  # `god` is a toggle; a new game must begin without.
        engine.reset()
        for _ in range(80):
          _, pose = engine.step((0, 0, 0))
        self.assertEqual(engine.cuts, 0)
        self.assertEqual(pose[2], 41)

  def test_an_exit_begins_another_shot_at_the_start(self):
    # Every wall is a line that ends the level when it is walked into.
    def exits(text):
      return text.replace('blocking', 'special=243;playerpush=true;blocking')

    with open_arena(exits) as engine:
      _, start = engine.reset(start=(2048.0, 4000.0, 90.0))
      for t in range(20):
        _, pose = engine.step((24.0, 0.0, 0.0))
        if engine.cuts:
          break
      if not engine.cuts:
        self.skipTest('this engine does not trigger exits by pushing')
      np.testing.assert_array_equal(pose, start)

  def test_idle_frames_are_still(self):
    # No weapon, no messages, no clock in the picture.
    with open_arena() as engine:
      first, _ = engine.reset()
      for _ in range(10):
        rgb, _ = engine.step((0, 0, 0))
        np.testing.assert_array_equal(rgb, first)

  def test_a_jump_looks_like_a_start_at_that_place(self):
    place = (2000.0, 1000.0, 33.0)
    with open_arena() as engine:
      rgb, pose = engine.reset(start=place)
      for _ in range(2):  # In full run, and then once more from standing.
        engine.reset(start=(100.0, 100.0, 45.0))
        for _ in range(10):
          engine.step((60.0, 0, 3.0))
        shown, landed = engine.jump(place)
        np.testing.assert_array_equal(shown, rgb)
        np.testing.assert_array_equal(landed, pose)  # At its height, too.
        # It has stopped, and nothing of the last command is left over.
        later, still = engine.step((0, 0, 0))
        np.testing.assert_array_equal(later, rgb)
        np.testing.assert_array_equal(still, pose)
        self.assertEqual(engine.cuts, 0)

  def test_a_jump_into_a_wall_is_refused(self):
    with open_arena() as engine:
      engine.reset()
      with self.assertRaisesRegex(UserError, 'nobody can stand at start x=-50'):
        engine.jump((-50.0, 0.0, 0.0))

  def test_walls_stop_nobody_while_they_are_toggled(self):
    with engine_lib.Engine('gen:1', height=12, width=16) as engine:
      engine.reset()
      engine.toggle_walls()
      for action in actions.parse('forward*60'):
        _, pose = engine.step(action)
      self.assertGreater(pose[1], 3 * 384)
      engine.reset()  # A new game has its walls.
      for action in actions.parse('forward*60'):
        _, pose = engine.step(action)
      self.assertLess(pose[1], 3 * 384)

  def test_sizes_follow_the_arguments(self):
    with engine_lib.Engine('gen:1', height=120, width=160) as engine:
      rgb, pose = engine.reset()
      self.assertEqual((rgb.shape, rgb.dtype), ((120, 160, 3), np.uint8))
      self.assertEqual((pose.shape, pose.dtype), ((4,), np.float64))
      kept = rgb.copy()
      engine.step((24, 0, 12))
      np.testing.assert_array_equal(rgb, kept)  # Not the engine's own buffer.

  def test_an_impossible_resolution_lists_the_possible(self):
    with self.assertRaisesRegex(UserError, '100x100.*160x120'):
      engine_lib.Engine('gen:1', render_height=100, render_width=100)

  def test_walls_stop_the_player(self):
    with engine_lib.Engine('gen:1') as engine:
      engine.reset()
      for action in actions.parse('forward*60'):
        _, pose = engine.step(action)
    self.assertLess(pose[1], 3 * 384)

  def test_an_engine_that_dies_is_one_line(self):
    before = set(_children(os.getpid()))
    with engine_lib.Engine('gen:1') as engine:
      engine.reset()
      for pid in set(_children(os.getpid())) - before:
        os.kill(int(pid), signal.SIGKILL)
      with self.assertRaisesRegex(UserError, 'gen:1: the engine died'):
        engine.step((24.0, 0, 0))
      with self.assertRaisesRegex(UserError, 'gen:1: the engine died'):
        engine.reset()

  def test_the_engine_dies_with_a_killed_process(self):
    code = (
        'from worldsim_jax.data import engine\n'
        "e = engine.Engine('gen:1')\n"
        "print('ready', flush=True)\n"
        'input()'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    children = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    self.assertNotEmpty(children)
    deadline = time.time() + 10
    while any(_alive(pid) for pid in children) and time.time() < deadline:
      time.sleep(0.05)
    self.assertFalse([pid for pid in children if _alive(pid)])


def _children(pid):
  """Of all threads: the engine is started by a thread of its own."""
  found = []
  for path in glob.glob(f'/proc/{pid}/task/*/children'):
    with open(path) as f:
      found += f.read().split()
  return found


def _alive(pid):
  try:
    with open(f'/proc/{pid}/stat') as f:
      return f.read().rpartition(')')[2].split()[0] != 'Z'
  except FileNotFoundError:
    return False


if __name__ == '__main__':
  absltest.main()

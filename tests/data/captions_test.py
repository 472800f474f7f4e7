"""Captions tell what is there, as the engine and the poses have it."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from worldsim_jax.data import actions as actions_lib
from worldsim_jax.data import camera
from worldsim_jax.data import captions
from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import events
from worldsim_jax.data import maps


def acted(script, start, name='gen:7', **options):
  actions = np.concatenate([np.zeros((1, 3)), actions_lib.parse(script)])
  recipe = episodes.Recipe(name, ((0.0, 0.0, 0.0),), start=start, **options)
  return episodes.render(recipe.with_actions(actions))


class MotionTest(parameterized.TestCase):

  @parameterized.parameters(
      ('wait', 'standing'),
      ('forward', 'walking forward'),
      ('back', 'backing up'),
      ('strafe_left', 'strafing left'),
      ('strafe_right', 'strafing right'),
      ('left', 'turning left'),
      ('right', 'turning right'),
      ('forward+left', 'walking a curve to the left'),
      ('forward+right', 'walking a curve to the right'),
  )
  def test_the_verb_is_what_was_done(self, word, verb):
    # In the middle of a room, for one second.
    for tics in (2, 4):
      count = 5 if 'forward' in word or 'back' in word else 9
      film = acted(
          f'{word}*{count}',
          (192.0, 192.0, 0.0),
          height=12,
          width=16,
          tics_per_frame=tics,
      )
      self.assertEqual(captions.attributes(film).motion, verb)

  def test_pushing_against_a_wall_is_standing(self):
    film = acted('forward*40', (192.0, 192.0, 0.0), height=12, width=16)
    self.assertEqual(captions.attributes(film, 25).motion, 'standing')

  def test_one_after_the_other_is_told_so(self):
    film = acted('left*12,wait*8,right*12', (192.0, 192.0, 0.0))
    told = captions.attributes(film)
    self.assertEqual(
        told.motions, ('turning left', 'standing', 'turning right')
    )
    self.assertStartsWith(
        captions.caption(film),
        'turning left, then standing, then turning right',
    )

  def test_who_is_moved_has_not_walked(self):
    pose = np.zeros((10, 4))
    pose[5:, 0] = 1000
    self.assertEqual(set(captions.motions(pose, 4 / 35)), {'standing'})

  def test_one_frame_stands(self):
    film = acted('forward*5', (192.0, 192.0, 0.0))
    self.assertEqual(captions.attributes(film, 3, 4).motion, 'standing')


class PlaceTest(absltest.TestCase):

  @pytest.mark.slow
  def test_walls_and_floor_are_of_the_room(self):
    maze = maps.maze_of('gen:7')
    for number, room in enumerate(maze.rooms):
      x, y = (384 * (k + 0.5) for k in divmod(number, 3))
      told = captions.attributes(acted('left*3', (x, y, 0.0)))
      self.assertEqual((told.wall, told.floor), (room.wall, room.floor))
      self.assertEqual(told.rooms, (number,))

  def test_an_orange_floor_has_its_article(self):
    maze = maps.maze_of('gen:2')
    number = [room.floor for room in maze.rooms].index('orange tile')
    x, y = (384 * (k + 0.5) for k in divmod(number, 3))
    film = acted('wait*3', (x, y, 0.0), name='gen:2')
    self.assertIn(' and an orange tile floor', captions.caption(film))

  def test_the_way_from_one_room_to_another_is_told(self):
    # Through the door between rooms 0 and 1.
    film = acted('forward*14', (192.0, 192.0, 90.0))
    told = captions.attributes(film)
    self.assertEqual(told.rooms, (0, 1))
    self.assertStartsWith(
        captions.caption(film),
        'walking forward from a room with brick walls and a pebble floor to a '
        'room with red rock walls and a grass floor',
    )

  def test_a_variant_is_described_as_it_is(self):
    film = acted('left*3', (192.0, 192.0, 0.0), name='gen:7,decor=12')
    room = maps.maze_of('gen:7,decor=12').rooms[0]
    self.assertIn(room.wall, captions.caption(film))

  def test_a_freedoom_map_is_named(self):
    level = maps.load('MAP01').level
    film = acted('left*9', level.start, name='MAP01')
    self.assertEqual(
        captions.caption(film), 'turning left in the Freedoom level MAP01'
    )
    self.assertIsNone(captions.attributes(film).objects)

  def test_shots_are_told_one_by_one(self):
    cut = events.Event(10, 'cut', (576.0, 576.0, 0.0))
    recipe = episodes.Recipe(
        'gen:7',
        ((0.0, 0.0, 0.0),) * 20,
        start=(192.0, 192.0, 0.0),
        events=(cut,),
    )
    film = captions.tell(episodes.render(recipe))
    first, second = film['shot_captions'].split('\n')
    self.assertIn('brick walls and a pebble floor', first)
    self.assertIn('metal walls and a pebble floor', second)
    self.assertEqual(film['caption'], f'{first}. {second}')


def labelled(name, poses):
  """Names and places of the sprites that the engine has drawn, per pose."""
  configure = engine_lib._configure

  def with_labels(game, vizdoom, options):
    configure(game, vizdoom, options)
    game.set_labels_buffer_enabled(True)

  with mock.patch.object(engine_lib, '_configure', with_labels):
    with engine_lib.Engine(name) as engine:
      for pose in poses:
        engine.reset(0, pose)
        yield [
            (
                label.object_name,
                label.object_position_x,
                label.object_position_y,
            )
            for label in engine._game.get_state().labels
        ]


class InViewTest(parameterized.TestCase):

  @parameterized.parameters('gen:0', 'gen:3', 'gen:7', 'gen:1048576')
  def test_objects_in_view_are_those_that_the_engine_draws(self, name):
    maze = maps.maze_of(name)
    rng = np.random.default_rng(0)
    centres = [384 * (k + 0.5) for k in range(3)]
    poses = [
        (float(rng.choice(centres)), float(rng.choice(centres)), float(yaw))
        for yaw in rng.integers(360, size=80)
    ]
    full = np.array([(x, y, 41, yaw) for x, y, yaw in poses])
    seen = captions.in_view(maze, full, camera.of_engine(engine_lib.Options()))
    missed = wrong = 0
    for pose, row, labels in zip(full, seen, labelled(name, poses)):
      drawn = {
          (round(x), round(y)) for kind, x, y in labels if kind != 'DoomPlayer'
      }
      told = {o[1:] for o, is_seen in zip(maze.objects, row) if is_seen}
      wrong += len(told - drawn)
      near = {p for p in drawn if np.hypot(*(p - pose[:2])) < captions.FARTHEST}
      missed += len(near - told)
    self.assertGreater(seen.sum(), 10)
    # What is told is drawn, but where one object hides another.
    self.assertLessEqual(wrong, 0.02 * seen.sum())
    # What is drawn and not told has its middle hidden or out of the picture.
    self.assertLessEqual(missed, 0.25 * seen.sum())

  def test_an_object_in_view_for_a_moment_only_is_not_told(self):
    maze = maps.maze_of('gen:7')
    number = [o[0] for o in maze.objects].index('barrel')
    _, x, y = maze.objects[number]
    film = acted('wait*20', (x - 150.0, y, 0.0))
    self.assertEqual(captions.attributes(film).objects, {'barrel': 1})
    self.assertEndsWith(captions.caption(film), ', a barrel in view')
    # Turning past it; and behind a wall.
    film = acted('right*45', (x - 150.0, y, 180.0), tics_per_frame=2)
    self.assertEqual(captions.attributes(film).objects, {'barrel': 1})
    film = acted(f'{"right+" * 10}right*4', (x - 150.0, y, 180.0))
    self.assertEqual(captions.attributes(film).objects, {})
    film = acted('wait*20', (x + 150.0, y, 180.0))
    self.assertEqual(captions.attributes(film).objects, {})

  def assertEndsWith(self, text, end):
    self.assertEqual(text[-len(end) :], end)


if __name__ == '__main__':
  absltest.main()

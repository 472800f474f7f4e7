"""What the engine tells is true, changes no picture, and is kept in records."""

import dataclasses
import json

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import generator
from worldsim_jax.data import geometry as geometry_lib
from worldsim_jax.data import maps
from worldsim_jax.data import observation
from worldsim_jax.data import records
from worldsim_jax.data import reprojection
from worldsim_jax.data import worlds

SIZE = dict(height=120, width=160)
# Three steps over a line that starts a lift, and into a door that opens.
LIFT = ('E1M1', (128.0, 360.0, 270.0), 98, 0)
DOOR = ('MAP01', (537.0, -608.0, 0.0), 85, 1)


def triggered(name, start, geometry=True):
  """A film of somebody who walks over a line and waits."""
  actions = ((0.0, 0, 0),) + ((20.0, 0, 0),) * 3 + ((0.0, 0, 0),) * 16
  return episodes.render(
      episodes.Recipe(name, actions, start=start, geometry=geometry, **SIZE)
  )


def recorded(name, frames=30, **options):
  with engine_lib.Engine(name, geometry=True, **options) as engine:
    return episodes.record(engine, policy='navigate', num_frames=frames, seed=3)


class SpritesTest(parameterized.TestCase):

  def test_being_asked_changes_no_film(self):
    film = triggered(*LIFT[:2])
    plain = triggered(*LIFT[:2], geometry=False)
    for field, value in plain.items():
      if field != 'recipe':
        np.testing.assert_array_equal(value, film[field])
    self.assertContainsSubset(
        {'sprites', 'moved', 'objects', 'object_names'}, set(film) - set(plain)
    )

  @pytest.mark.slow
  def test_without_an_object_only_its_sprite_is_another_picture(self):
    # On the spot: one bumps into objects.
    around = ((0.0, 0, 0),) + ((0.0, 0, 12.0),) * 29
    recipe = episodes.Recipe('gen:1', around, geometry=True, **SIZE)
    film = episodes.render(recipe)
    changed = np.zeros_like(film['sprites'])
    for number in range(len(generator.generate(1).objects)):
      name = maps.variant('gen:1', without=number)
      other = episodes.render(dataclasses.replace(recipe, map=name))
      np.testing.assert_array_equal(other['pose'], film['pose'])
      changed |= (other['rgb'] != film['rgb']).any(-1)
    self.assertGreater(changed.sum(), 500)
    self.assertFalse((changed & ~film['sprites']).any())
    self.assertGreater(changed.sum(), 0.9 * film['sprites'].sum())

  def test_where_sprites_are_geometry_is_not_exact(self):
    film = recorded('gen:1', **SIZE)
    geometry = geometry_lib.of_episode(film)
    self.assertTrue(film['sprites'].any())
    np.testing.assert_array_equal(geometry.exact, ~film['sprites'])

  def test_a_smaller_picture_marks_every_pixel_that_is_touched(self):
    mask = np.zeros((120, 160), bool)
    mask[7, 11] = mask[119, 159] = True
    # 120 rows to 48 are 2.5 each: row 7 is in the third, [5, 7.5), and in the
    # fourth, [7.5, 10); column 11 is in [10, 12.5).
    found = observation._shrink(mask, 48, 64)
    wanted = np.zeros((48, 64), bool)
    wanted[[2, 3, 47], [4, 4, 63]] = True
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(observation._shrink(mask, 120, 160), mask)


class ObjectsTest(parameterized.TestCase):

  def test_boxes_are_around_the_sprites(self):
    film = recorded('gen:1', **SIZE)
    tracks = observation.object_tracks(film)
    boxes = np.zeros_like(film['sprites'])
    for t, k in np.argwhere(~np.isnan(tracks.boxes[..., 0])):
      left, top, right, bottom = tracks.boxes[t, k].astype(int)
      self.assertTrue(film['sprites'][t, top:bottom, left:right].any())
      boxes[t, top:bottom, left:right] = True
    self.assertFalse((film['sprites'] & ~boxes).any())
    self.assertTrue((boxes & film['sprites']).any())

  def test_an_object_stands_where_its_box_is(self):
    film = recorded('gen:1', **SIZE)
    tracks = observation.object_tracks(film)
    camera = camera_lib.of_engine(engine_lib.Options(**SIZE))
    motions = camera_lib.camera_to_world(film['pose'])
    feet = tracks.positions * (1, 1, camera_lib.PIXEL_ASPECT)
    uv, _ = camera_lib.project(camera, motions, feet)
    middle = (tracks.boxes[..., 0] + tracks.boxes[..., 2]) / 2
    # Boxes are of what is visible: the picture's edge and walls cut them.
    whole = (tracks.boxes[..., 0] > 1) & (tracks.boxes[..., 2] < 159)
    self.assertGreater(whole.sum(), 10)
    self.assertLess(np.median(abs(uv[..., 0] - middle)[whole]), 1.0)

  def test_every_object_is_known_while_it_is_out_of_sight(self):
    film = recorded('gen:1', **SIZE)
    tracks = observation.object_tracks(film)
    self.assertFalse(np.isnan(tracks.positions).any())
    self.assertTrue(np.isnan(tracks.boxes).any())
    kinds = {'Column', 'TechPillar', 'Candelabra'}  # of this maze
    self.assertContainsSubset(set(tracks.names), kinds)

  def test_monsters_move_and_the_player_is_no_object(self):
    film = recorded('MAP01', frames=60, monsters=True)
    tracks = observation.object_tracks(film)
    self.assertNotIn('DoomPlayer', tracks.names)
    self.assertEqual(tracks.boxes.shape, (60, len(tracks.ids), 4))

  def test_a_film_without_objects_has_empty_rows(self):
    level = maps.load('gen:1').level
    seen = [observation.Seen(np.zeros((4, 4), bool), None, {}, {}, {})] * 2
    film = observation.fields(seen, [0, 0], level)
    self.assertEqual(film['objects'].shape, (0, 9))
    self.assertEqual(film['moved'].shape, (0, 4))
    tracks = observation.object_tracks(film | {'pose': np.zeros((2, 4))})
    self.assertEqual(tracks.positions.shape, (2, 0, 3))

  def test_ids_of_another_game_are_others(self):
    level = maps.load('gen:1').level
    frame = observation.Seen(
        np.zeros((4, 4), bool),
        None,
        {3: 'Lamp'},
        {3: (1, 2, 0)},
        {3: (0, 0, 2, 2)},
    )
    film = observation.fields([frame, frame], [0, 1], level)
    tracks = observation.object_tracks(film | {'pose': np.zeros((2, 4))})
    np.testing.assert_array_equal(tracks.ids, [3, 2**16 + 3])
    self.assertEqual(tracks.names, ('Lamp', 'Lamp'))


class MovedTest(parameterized.TestCase):

  @parameterized.parameters('MAP01', 'MAP12', 'E1M1', 'E3M8')
  def test_at_the_start_heights_are_those_of_the_map(self, name):
    with engine_lib.Engine(name, geometry=True) as engine:
      engine.reset()
      level = maps.load(name).level
      np.testing.assert_array_equal(
          engine.seen.heights, np.stack([level.floor, level.ceiling], 1)
      )

  @parameterized.parameters(LIFT, DOOR)
  def test_lifts_and_doors_move_in_the_geometry(self, name, start, sector, k):
    film = triggered(name, start)
    self.assertEqual(set(film['moved'][:, 1]), {sector})
    level = maps.load(name).level
    before = (level.floor, level.ceiling)[k][sector]
    self.assertGreater(abs(film['moved'][-1, 2 + k] - before), 30)

    live = geometry_lib.of_episode(film)
    still = geometry_lib.of_poses(name, film['pose'], live.camera)
    still = dataclasses.replace(still, exact=live.exact, sprites=live.sprites)
    pairs = [(t, t + 1) for t in range(6, 12)]
    right, wrong = (
        reprojection.residual(film['rgb'], found, pairs).warp_error
        for found in (live, still)
    )
    self.assertLess(right, wrong / 3)

  def test_where_nothing_can_move_nothing_is_asked(self):
    self.assertFalse(maps.load('gen:1').level.can_move)
    self.assertTrue(maps.load('MAP01').level.can_move)
    with engine_lib.Engine('gen:1', geometry=True) as engine:
      engine.reset()
      self.assertIsNone(engine.seen.heights)


class RecordsTest(absltest.TestCase):

  def test_old_recipes_and_keys_are_as_they_were(self):
    recipe = episodes.Recipe('gen:1', ((0.0, 0.0, 0.0),))
    self.assertNotIn('geometry', json.loads(recipe.to_json()))
    self.assertEqual(episodes.Recipe.from_json(recipe.to_json()), recipe)
    told = dataclasses.replace(recipe, geometry=True)
    self.assertEqual(episodes.Recipe.from_json(told.to_json()), told)
    # Computed before there was the option.
    world = worlds.World(train_maps=('gen:1',), test_maps=('gen:1048576',))
    self.assertEqual(world.key, 'world-df38769acdd7')
    self.assertNotEqual(
        dataclasses.replace(world, geometry=True).key, world.key
    )

  def test_records_give_back_what_was_told(self):
    # One film with objects and moves, one without.
    films = [triggered(*LIFT[:2]), recorded('gen:2', frames=2, **SIZE)]
    directory = records.write(
        self.create_tempdir().full_path, 'told', {'train': lambda: films}
    )
    source = records.Source(directory, 'train')
    for number, film in enumerate(films):
      read = source[number]
      self.assertEqual(set(read), set(film))
      for field, value in film.items():
        np.testing.assert_array_equal(read[field], value, field)
      found = geometry_lib.of_episode(read)
      np.testing.assert_array_equal(
          found.depth, geometry_lib.of_episode(film).depth
      )


if __name__ == '__main__':
  absltest.main()

"""What cannot happen happens in its frame, and in no other."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from worldsim_jax.data import episodes
from worldsim_jax.data import impossible
from worldsim_jax.data import maps
from worldsim_jax.data import observation
from worldsim_jax.errors import UserError

SMALL = dict(height=30, width=40)


@pytest.mark.slow
class ImpossibleTest(parameterized.TestCase):

  @parameterized.parameters(*impossible.KINDS)
  def test_a_film_is_its_possible_twin_until_the_event(self, kind):
    recipe = impossible.plan(kind, 'gen:7', seed=2, num_frames=200, **SMALL)
    self.assertEqual(episodes.Recipe.from_json(recipe.to_json()), recipe)
    shown = episodes.render(recipe)
    twin = episodes.render(impossible.possible(recipe))
    frame = recipe.events[0].frame
    differs = (shown['rgb'] != twin['rgb']).any((1, 2, 3))
    self.assertFalse(differs[:frame].any())
    self.assertTrue(differs[frame])
    np.testing.assert_array_equal(
        shown['violation_id'], np.arange(200) >= frame
    )
    self.assertNotIn('violation_id', twin)
    np.testing.assert_array_equal(shown['shot_id'], 0)  # No cut excuses it.
    self.assertBetween(frame, 50, 150)
    self.assertEqual(episodes.Recipe.from_json(shown['recipe']), recipe)

  def test_a_teleport_leads_to_another_room(self):
    recipe = impossible.plan(
        'teleport', 'gen:7', seed=1, num_frames=60, **SMALL
    )
    pose = episodes.render(recipe)['pose']
    rooms = np.floor(pose[29:31, :2] / 384)
    self.assertFalse(np.array_equal(*rooms))
    np.testing.assert_allclose(  # The engine's angles have 16 bits.
        pose[30, [0, 1, 3]], recipe.events[0].argument, atol=360 / 65536
    )

  def test_a_ghost_gets_where_no_door_leads(self):
    recipe = impossible.plan('ghost', 'gen:7', seed=1, num_frames=80, **SMALL)
    maze = maps.maze_of('gen:7')
    shown, twin = (
        episodes.render(r)['pose']
        for r in (recipe, impossible.possible(recipe))
    )
    room = lambda pose: int(np.floor(pose[:2] / 384) @ (maze.n, 1))
    self.assertEqual(room(twin[-1]), room(twin[0]))
    pair = tuple(sorted((room(shown[0]), room(shown[-1]))))
    self.assertNotEqual(*pair)
    self.assertNotIn(pair, maze.doors)
    # He stands on the floor there, not in it.
    floor = maze.rooms[room(shown[-1])].floor_height
    self.assertEqual(shown[-1, 2], floor + 41)

  def test_what_is_not_seen_to_change_is_out_of_view_before(self):
    recipe = impossible.plan(
        'redecorate_unseen', 'gen:7', seed=2, num_frames=200, **SMALL
    )
    event = recipe.events[0]
    other = episodes.render(
        dataclasses.replace(recipe, map=event.argument, events=())
    )
    twin = episodes.render(impossible.possible(recipe))
    changed = (other['rgb'] != twin['rgb']).any((1, 2, 3))
    self.assertFalse(changed[event.frame - 4 : event.frame].any())
    self.assertTrue(changed[: event.frame].any())  # It had been seen before.

  def test_the_engines_tables_are_of_the_film_as_it_is_shown(self):
    recipe = impossible.plan(
        'vanish', 'gen:7', seed=2, num_frames=100, geometry=True, **SMALL
    )
    frame = recipe.events[0].frame
    shown = episodes.render(recipe)
    number = int(recipe.events[0].argument.partition('without=')[2])
    place = maps.maze_of('gen:7').objects[number][1:]
    tracks = observation.object_tracks(shown)
    there = (tracks.positions[..., :2] == place).all(-1)
    self.assertTrue(there.any(1)[:frame].all())
    self.assertFalse(there[frame:].any())
    self.assertTrue(shown['sprites'][frame - 1].any())

  def test_what_it_cannot_do_is_one_line(self):
    with self.assertRaisesRegex(
        UserError, "'fly' is not one of teleport, ghost"
    ):
      impossible.plan('fly', 'gen:7', seed=0, num_frames=40)
    with self.assertRaisesRegex(UserError, "'MAP01': a generated map is named"):
      impossible.plan('vanish', 'MAP01', seed=0, num_frames=40)
    with self.assertRaisesRegex(UserError, "no film of 4 frames shows 'ghost'"):
      impossible.plan('ghost', 'gen:7', seed=0, num_frames=4)


if __name__ == '__main__':
  absltest.main()

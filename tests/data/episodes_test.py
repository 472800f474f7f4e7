"""A recipe is its film, in any process."""

import hashlib
import subprocess
import sys

from absl.testing import absltest
import numpy as np
import pytest

from worldsim_jax.data import actions as actions_lib
from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import maps
from worldsim_jax.errors import UserError

RENDER_AND_HASH = """
import hashlib, sys
from worldsim_jax.data import episodes
from worldsim_jax.data import maps
film = episodes.render(episodes.Recipe.from_json(sys.stdin.read()))
digest = hashlib.sha256(film['rgb'].tobytes() + film['pose'].tobytes())
print(digest.hexdigest())
"""


def script(text):
  """A recipe's actions: nothing led to the first frame."""
  return np.concatenate([np.zeros((1, 3)), actions_lib.parse(text)])


class EpisodesTest(absltest.TestCase):

  @pytest.mark.slow
  def test_two_processes_render_the_same_300_frames(self):
    for name in ('gen:5', 'MAP07'):
      recipe = episodes.plan(name, seed=3, policy='navigate', num_frames=300)
      digests = {
          subprocess.run(
              [sys.executable, '-c', RENDER_AND_HASH],
              input=recipe.to_json(),
              text=True,
              check=True,
              capture_output=True,
          ).stdout
          for _ in range(2)
      }
      film = episodes.render(recipe)
      digests.add(
          hashlib.sha256(
              film['rgb'].tobytes() + film['pose'].tobytes()
          ).hexdigest()
          + '\n'
      )
      self.assertLen(digests, 1, name)

  def test_an_engine_that_was_used_renders_like_a_fresh_one(self):
    with engine_lib.Engine('gen:5') as engine:
      first = episodes.record(engine, policy='navigate', num_frames=60, seed=1)
      other = episodes.record(engine, policy='navigate', num_frames=60, seed=2)
    for film in (first, other):
      again = episodes.render(episodes.Recipe.from_json(film['recipe']))
      for name, value in film.items():
        np.testing.assert_array_equal(value, again[name])
    self.assertFalse(np.array_equal(first['rgb'], other['rgb']))

  def test_an_episode_has_the_documented_fields(self):
    film = episodes.render(episodes.Recipe('gen:5', ((0, 0, 0), (24, 0, 8))))
    self.assertEqual(
        {
            k: (v.shape, v.dtype.name)
            for k, v in film.items()
            if not isinstance(v, str)
        },
        {
            'rgb': ((2, 48, 64, 3), 'uint8'),
            'actions': ((2, 3), 'float32'),
            'pose': ((2, 4), 'float64'),
            'shot_id': ((2,), 'int32'),
        },
    )
    self.assertIn('maze', film['caption'])

  def test_an_action_leads_to_the_frame_of_its_own_index(self):
    turns = np.zeros((4, 3))
    turns[2] = 0, 0, 10
    film = episodes.render(
        episodes.Recipe('gen:5', ((0, 0, 0),)).with_actions(turns)
    )
    np.testing.assert_allclose(
        np.diff(film['pose'][:, 3]), [0, 10, 0], atol=0.01
    )
    np.testing.assert_array_equal(film['rgb'][0], film['rgb'][1])
    self.assertFalse(np.array_equal(film['rgb'][1], film['rgb'][2]))

  def test_other_actions_share_the_past_and_not_the_future(self):
    recipe = episodes.Recipe('gen:5', ((0, 0, 0),), start=(192.0, 192.0, 0.0))
    left = episodes.render(recipe.with_actions(script('forward*5,left*5')))
    right = episodes.render(recipe.with_actions(script('forward*5,right*5')))
    np.testing.assert_array_equal(left['rgb'][:6], right['rgb'][:6])
    self.assertFalse(np.array_equal(left['rgb'][6], right['rgb'][6]))

  def test_a_recipe_survives_json(self):
    recipe = episodes.plan('gen:5', seed=4, policy='navigate', num_frames=50)
    self.assertEqual(episodes.Recipe.from_json(recipe.to_json()), recipe)

  def test_a_recipe_without_events_is_the_text_that_it_was(self):
    recipe = episodes.Recipe('gen:5', ((0.0, 0.0, 0.0),), seed=4)
    self.assertEqual(
        recipe.to_json(),
        '{"height":48,"width":64,"render_height":120,"render_width":160,'
        '"tics_per_frame":4,"monsters":false,"map":"gen:5",'
        '"actions":[[0.0,0.0,0.0]],"seed":4,"start":null}',
    )

  def test_what_is_no_recipe_is_refused(self):
    for text in ('', '[]', '{"map": "gen:1"}', '{"actions": 3}'):
      with self.assertRaisesRegex(UserError, 'not a recipe'):
        episodes.Recipe.from_json(text)

  def test_the_first_action_must_be_zero(self):
    with self.assertRaisesRegex(ValueError, 'nothing led to the first frame'):
      episodes.Recipe('gen:5', ((1.0, 0.0, 0.0),))


class ShotsTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    with engine_lib.Engine('gen:7', height=12, width=16) as engine:
      cls.film = episodes.record(
          engine, policy='navigate', num_frames=83, seed=2, shots=8
      )
    cls.cuts = np.flatnonzero(np.diff(cls.film['shot_id'])) + 1

  def test_shots_are_equally_long_to_a_frame(self):
    np.testing.assert_array_equal(np.unique(self.film['shot_id']), np.arange(8))
    lengths = np.diff([0, *self.cuts, 83])
    self.assertContainsSubset(lengths, (10, 11))

  def test_every_shot_begins_in_another_room(self):
    first = self.film['pose'][[0, *self.cuts], :2] // 384
    self.assertLen(np.unique(first, axis=0), 8)

  def test_a_shot_begins_where_its_cut_says_on_the_floor_and_still(self):
    recipe = episodes.Recipe.from_json(self.film['recipe'])
    self.assertEqual([e.frame for e in recipe.events], self.cuts.tolist())
    maze = maps.maze_of('gen:7')
    with engine_lib.Engine('gen:7', height=12, width=16) as engine:
      for event in recipe.events:
        rgb, pose = engine.reset(2, event.argument)
        np.testing.assert_array_equal(pose, self.film['pose'][event.frame])
        room = maze.rooms[int(pose[:2] // 384 @ (3, 1))]
        self.assertEqual(pose[2], room.floor_height + engine_lib.EYE_HEIGHT)

  def test_nothing_leads_across_a_cut(self):
    np.testing.assert_array_equal(self.film['actions'][self.cuts], 0)

  def test_the_recipe_is_the_film(self):
    again = episodes.render(episodes.Recipe.from_json(self.film['recipe']))
    for name, value in self.film.items():
      np.testing.assert_array_equal(value, again[name], name)

  def test_a_film_of_more_shots_than_a_maze_has_rooms_is_made(self):
    film = episodes.render(
        episodes.plan(
            'gen:7', seed=1, policy='random_walk', num_frames=24, shots=12
        )
    )
    self.assertEqual(film['shot_id'][-1], 11)


if __name__ == '__main__':
  absltest.main()

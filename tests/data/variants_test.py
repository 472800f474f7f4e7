"""A variant differs where it says, and nowhere else."""

import dataclasses
import hashlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from worldsim_jax.data import camera
from worldsim_jax.data import captions
from worldsim_jax.data import episodes
from worldsim_jax.data import generator
from worldsim_jax.data import maps
from worldsim_jax.data import splits
from worldsim_jax.errors import UserError


def film(name, **options):
  """A walk through the maze of seed 7, whichever variant of it."""
  recipe = episodes.plan('gen:7', seed=3, policy='navigate', num_frames=120)
  return episodes.render(dataclasses.replace(recipe, map=name, **options))


class VariantsTest(parameterized.TestCase):

  @parameterized.parameters('decor=12', 'decor=12,room=4', 'without=2')
  def test_rooms_doors_heights_and_light_stay(self, change):
    one, other = maps.load('gen:7'), maps.load(f'gen:7,{change}')
    for field in ('segments', 'front', 'back', 'floor', 'ceiling'):
      np.testing.assert_array_equal(
          getattr(one.level, field), getattr(other.level, field)
      )
    for a, b in zip(
        maps.maze_of('gen:7').rooms, maps.maze_of(other.name).rooms
    ):
      self.assertEqual(a.light, b.light)

  def test_a_new_decor_has_nothing_of_the_old(self):
    old, new = maps.maze_of('gen:7').rooms, maps.maze_of('gen:7,decor=12').rooms
    for field in ('wall', 'floor'):
      names = [{getattr(r, field) for r in rooms} for rooms in (old, new)]
      self.assertEmpty(names[0] & names[1])
    for a, b in zip(old, new):
      self.assertNotEqual(a.ceiling, b.ceiling)
    self.assertNotEqual(new, maps.maze_of('gen:7,decor=13').rooms)

  def test_one_room_can_be_redecorated_alone(self):
    old, new = (
        maps.maze_of(name).rooms for name in ('gen:7', 'gen:7,decor=12,room=4')
    )
    self.assertEqual([k for k in range(9) if old[k] != new[k]], [4])
    self.assertEqual(new[4], maps.maze_of('gen:7,decor=12').rooms[4])

  @pytest.mark.slow
  def test_every_frame_of_another_decor_differs_and_no_step(self):
    one, other = film('gen:7'), film('gen:7,decor=12')
    np.testing.assert_array_equal(one['pose'], other['pose'])
    changed = (one['rgb'] != other['rgb']).any(-1).mean((1, 2))
    self.assertGreater(changed.min(), 0.9)

  def test_what_is_gone_is_missed_only_where_it_was_in_view(self):
    # Torches flicker at a phase of their own: the others' must not change.
    recipe = episodes.plan('gen:0', seed=3, policy='navigate', num_frames=200)
    maze = maps.maze_of('gen:0')
    self.assertIn('torch', generator.caption(maze))
    one = episodes.render(recipe)
    seen = captions.in_view(maze, one['pose'], camera.of_engine(recipe))
    number = int(seen.sum(0).argmax())
    name = maps.variant('gen:0', without=number)
    other = episodes.render(dataclasses.replace(recipe, map=name))
    np.testing.assert_array_equal(one['pose'], other['pose'])
    changed = (one['rgb'] != other['rgb']).any((1, 2, 3))
    # Its edge can be in view when its middle is not.
    near = np.convolve(seen[:, number], np.ones(7), 'same') > 0
    self.assertGreater(changed[seen[:, number]].mean(), 0.95)
    self.assertFalse(changed[~near & ~seen.any(1)].any())
    self.assertEqual(len(maps.maze_of(name).objects), len(maze.objects) - 1)

  def test_a_variant_is_of_the_split_of_its_map(self):
    for seed, split in ((7, 'train'), (2**20 + 7, 'test')):
      for change in ('decor=12', 'without=1', 'decor=2,room=3,without=0'):
        self.assertEqual(splits.split_of(f'gen:{seed},{change}'), split)

  @parameterized.parameters(
      ('gen:7,room=4', 'a generated map is named gen:<seed>'),
      ('gen:7,without=2,decor=1', 'a generated map is named'),
      ('gen:7,decor=x', 'a generated map is named'),
      ('gen:7,decor=1,room=9', "'gen:7,decor=1,room=9': there is no room 9"),
      ('gen:7,without=5', "'gen:7,without=5': there is no object 5"),
  )
  def test_what_is_no_variant_is_refused(self, name, said):
    with self.assertRaisesRegex(UserError, said):
      maps.load(name)


class MonstersTest(absltest.TestCase):

  def test_mazes_look_as_they_did_before_there_were_monsters(self):
    # Taken at 49bd9df, the last commit without monsters.
    recipe = episodes.plan('gen:7', seed=3, policy='navigate', num_frames=40)
    shown = episodes.render(recipe)
    for content, digest in (
        (recipe.to_json().encode(), '971b374f4b7c1e46'),
        (shown['rgb'].tobytes() + shown['pose'].tobytes(), '832909d84c7b626d'),
        (shown['caption'].encode(), '6b86acce3a51ba8a'),
    ):
      self.assertEqual(hashlib.sha256(content).hexdigest()[:16], digest)

  @pytest.mark.slow
  def test_monsters_appear_where_they_are_asked_for(self):
    self.assertLen(maps.maze_of('gen:7').monsters, 3)
    one, other = film('gen:7'), film('gen:7', monsters=True)
    again = film('gen:7', monsters=True)
    changed = (one['rgb'] != other['rgb']).any((1, 2, 3))
    self.assertTrue(changed.any())
    np.testing.assert_array_equal(other['rgb'], again['rgb'])

  def test_no_monster_waits_in_the_room_of_the_start(self):
    for seed in range(20):
      maze = generator.generate(seed)
      for _, x, y in maze.monsters:
        self.assertGreater(max(x, y), maze.size)


if __name__ == '__main__':
  absltest.main()

"""Walls hide, doorways do not."""

from absl.testing import absltest
import numpy as np

from worldsim_jax.data import maps
from worldsim_jax.data import sight


class SightTest(absltest.TestCase):

  def test_walls_hide_and_doorways_do_not(self):
    maze, level = maps.maze_of('gen:7'), maps.load('gen:7').level
    centres = [
        np.array([384 * (k + 0.5) for k in divmod(room, 3)])
        for room in range(9)
    ]
    for room in range(9):
      i, j = divmod(room, 3)
      for other, is_there in ((room + 3, i < 2), (room + 1, j < 2)):
        if is_there:
          self.assertEqual(
              sight.clear(level, centres[room], centres[other][None])[0],
              (room, other) in maze.doors,
          )

  def test_what_is_in_the_room_is_in_sight(self):
    level = maps.load('gen:7').level
    places = np.random.default_rng(0).uniform(1, 383, (50, 2))
    self.assertTrue(sight.clear(level, (10.0, 370.0), places).all())

  def test_no_places_are_no_error(self):
    level = maps.load('gen:7').level
    self.assertEqual(
        sight.clear(level, (10.0, 10.0), np.zeros((0, 2))).shape, (0,)
    )

  def test_a_closed_door_hides(self):
    level = maps.load('MAP01').level
    closed = sight.solid(level) & (level.back >= 0)
    self.assertTrue(closed.any())


if __name__ == '__main__':
  absltest.main()

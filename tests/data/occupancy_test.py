"""Where one can stand, and the way from one place to another."""

from absl.testing import absltest
import numpy as np

from worldsim_jax.data import generator
from worldsim_jax.data import maps
from worldsim_jax.data import occupancy


class OccupancyTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.maze = generator.generate(3)
    self.grid = occupancy.build(generator.level(self.maze))

  def test_free_cells_keep_clear_of_walls_and_objects(self):
    level = generator.level(self.maze)
    points = self.grid.centre(self.grid.free_cells)
    for x1, y1, x2, y2 in level.segments[level.back < 0]:
      # Walls are along the axes: the gap to one is that to a box.
      low, high = np.minimum((x1, y1), (x2, y2)), np.maximum((x1, y1), (x2, y2))
      gap = np.maximum(np.maximum(low - points, points - high), 0)
      self.assertGreater(np.hypot(*gap.T).min(), occupancy.BODY_RADIUS)
    for x, y, radius in level.obstacles:
      gap = np.hypot(*(points - (x, y)).T)
      self.assertGreater(gap.min(), radius + occupancy.BODY_RADIUS)

  def test_a_path_is_connected_and_stays_free(self):
    first, last = self.grid.free_cells[[0, -1]]
    path = occupancy.shortest_path(self.grid, int(first), int(last))
    self.assertEqual((path[0], path[-1]), (first, last))
    self.assertTrue(self.grid.free.ravel()[path].all())
    steps = np.abs(np.diff(self.grid.centre(path), axis=0))
    self.assertEqual(steps.max(), self.grid.cell)

  def test_no_path_is_shorter(self):
    # In an empty room the shortest way is known: diagonal, then straight.
    room = generator.Room('brick', 'grass', 'CEIL3_5', 0, 128, 255)
    grid = occupancy.build(
        generator.level(generator.Maze(1, 512, (room,), frozenset(), ()))
    )
    a, b = grid.nearest(104.0, 104.0), grid.nearest(408.0, 200.0)
    path = grid.centre(occupancy.shortest_path(grid, a, b))
    length = np.hypot(*np.diff(path, axis=0).T).sum()
    across, along = sorted(np.abs(grid.centre(a) - grid.centre(b)))
    self.assertAlmostEqual(length, along - across + across * 2**0.5)

  def test_without_a_path_there_is_none(self):
    wall = int(np.flatnonzero(~self.grid.free)[0])
    self.assertIsNone(
        occupancy.shortest_path(self.grid, int(self.grid.free_cells[0]), wall)
    )

  def test_nearest_finds_the_cell_itself_or_the_closest(self):
    cell = int(self.grid.free_cells[100])
    self.assertEqual(self.grid.nearest(*self.grid.centre(cell)), cell)
    outside = self.grid.centre(self.grid.nearest(-1000.0, -1000.0))
    np.testing.assert_array_less(outside, 64)

  def test_freedoom_has_room_to_walk(self):
    for name in ('E1M1', 'MAP01', 'MAP29'):
      grid = occupancy.build(maps.load(name).level)
      self.assertGreater(grid.free.sum(), 1000)


if __name__ == '__main__':
  absltest.main()

"""Generated mazes are connected, reproducible and told truly."""

from absl.testing import absltest
import numpy as np

from worldsim_jax.data import generator
from worldsim_jax.data import maps
from worldsim_jax.data import occupancy
from worldsim_jax.data import wad


def texture_names(path):
  """Names of wall textures and flats in a WAD."""
  lumps = wad.read_directory(path)
  with open(path, 'rb') as f:
    content = f.read()
  walls = b''.join(
      content[start : start + size]
      for name, start, size in lumps
      if name.startswith('TEXTURE')
  )
  return walls, {name for name, _, size in lumps if size == 64 * 64}


class GeneratorTest(absltest.TestCase):

  def test_every_room_can_be_reached(self):
    for seed in range(20):
      maze = generator.generate(seed)
      grid = occupancy.build(generator.level(maze))
      rooms = np.unique(grid.centre(grid.free_cells) // maze.size, axis=0)
      self.assertLen(rooms, maze.n**2, f'seed {seed}')

  def test_the_seed_decides_everything(self):
    self.assertEqual(
        generator.pwad(generator.generate(5)),
        generator.pwad(generator.generate(5)),
    )
    self.assertNotEqual(
        generator.pwad(generator.generate(5)),
        generator.pwad(generator.generate(6)),
    )

  def test_a_seed_means_the_same_maze_for_ever(self):
    # Record sets and published results name mazes by their seeds.
    self.assertEqual(
        generator.caption(generator.generate(7)), CAPTION_OF_SEED_7
    )

  def test_the_caption_names_what_is_there(self):
    maze = generator.generate(3)
    caption = generator.caption(maze)
    for room in maze.rooms:
      self.assertIn(room.wall, caption)
      self.assertIn(room.floor, caption)
    for name, _, _ in maze.objects:
      self.assertIn(name, caption)

  def test_mazes_of_other_sizes_are_connected_too(self):
    for n in (1, 2, 5):
      maze = generator.generate(0, n=n, size=512)
      grid = occupancy.build(generator.level(maze))
      rooms = np.unique(grid.centre(grid.free_cells) // 512, axis=0)
      self.assertLen(rooms, n * n)

  def test_every_texture_is_in_freedoom(self):
    walls, flats = texture_names(maps.freedoom('freedoom2.wad'))
    for name in generator.WALLS.values():
      self.assertIn(name.encode().ljust(8, b'\0'), walls)
    self.assertContainsSubset(
        {*generator.FLOORS.values(), *generator.CEILINGS}, flats
    )


CAPTION_OF_SEED_7 = (
    'a 3x3 maze of rooms with blue panel, metal, red rock and brick walls, '
    'pebble, plank and grass floors, four lamps and a barrel'
)

if __name__ == '__main__':
  absltest.main()

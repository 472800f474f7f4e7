"""A configuration becomes the same records, whoever renders them."""

from absl.testing import absltest
import numpy as np

from worldsim_jax.data import episodes
from worldsim_jax.data import records
from worldsim_jax.data import splits
from worldsim_jax.data import worlds
from worldsim_jax.errors import UserError


def small_world(**changes):
  return worlds.World(
      **{
          **dict(
              train_maps=splits.generated_maps('train', 2),
              test_maps=splits.generated_maps('test', 1),
              train_episodes=3,
              test_episodes=2,
              num_frames=10,
              height=12,
              width=16,
          ),
          **changes,
      }
  )


class WorldsTest(absltest.TestCase):

  def build(self, world, num_workers=0):
    return worlds.build(world, self.create_tempdir().full_path, num_workers)

  def test_every_map_gives_its_episodes_to_its_own_split(self):
    directory = self.build(small_world())
    for split, count in (('train', 6), ('test', 2)):
      source = records.Source(directory, split)
      self.assertLen(source, count)
      for number in range(count):
        recipe = episodes.Recipe.from_json(source[number]['recipe'])
        self.assertEqual(splits.split_of(recipe.map), split)
        self.assertLen(recipe.actions, 10)

  def test_episodes_differ(self):
    source = records.Source(self.build(small_world()), 'train')
    films = {source[k]['rgb'].tobytes() for k in range(len(source))}
    self.assertLen(films, len(source))

  def test_workers_do_not_change_the_records(self):
    alone, together = (
        records.Source(self.build(small_world(policy='navigate'), n), 'train')
        for n in (0, 2)
    )
    for number in range(len(alone)):
      for name, value in alone[number].items():
        np.testing.assert_array_equal(value, together[number][name])

  def test_a_stored_recipe_renders_to_the_stored_film(self):
    film = records.Source(self.build(small_world()), 'test')[1]
    again = episodes.render(episodes.Recipe.from_json(film['recipe']))
    np.testing.assert_array_equal(film['rgb'], again['rgb'])

  def test_a_test_map_cannot_be_trained_on(self):
    with self.assertRaisesRegex(UserError, 'MAP30 is a map of the test split'):
      small_world(train_maps=('MAP01', 'MAP30'))


if __name__ == '__main__':
  absltest.main()

"""Every name leads to a map or to a helpful error."""

import sys
from unittest import mock

from absl.testing import absltest

from worldsim_jax.data import maps
from worldsim_jax.errors import UserError


class MapsTest(absltest.TestCase):

  def test_episode_maps_and_numbered_maps_come_from_their_own_game(self):
    self.assertEndsWith(maps.load('E1M1').iwad, 'freedoom1.wad')
    self.assertEndsWith(maps.load('MAP01').iwad, 'freedoom2.wad')
    self.assertIsNone(maps.load('MAP01').pwad)

  def test_a_generated_map_brings_its_own_file(self):
    world = maps.load('gen:12')
    self.assertEqual(world.engine_name, 'MAP01')
    self.assertStartsWith(world.pwad.decode('latin1'), 'PWAD')
    self.assertStartsWith(world.caption, 'a 3x3 maze of rooms with ')

  def test_without_the_engine_the_pip_line_is_given(self):
    with mock.patch.dict(sys.modules, {'vizdoom': None}):
      with self.assertRaisesRegex(UserError, 'pip install vizdoom'):
        maps.freedoom('freedoom2.wad')

  def test_a_name_that_means_nothing_says_what_would(self):
    with self.assertRaisesRegex(UserError, "'gen:seven'.*gen:<seed>"):
      maps.load('gen:seven')
    with self.assertRaisesRegex(UserError, "no map 'E7M1'.*E1M1"):
      maps.load('E7M1')

  def assertEndsWith(self, text, end):
    self.assertEqual(text[-len(end) :], end)


if __name__ == '__main__':
  absltest.main()

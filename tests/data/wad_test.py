"""Levels are read as the engine reads them, and a missing one is named."""

import os

from absl.testing import absltest
import numpy as np

from worldsim_jax.data import maps
from worldsim_jax.data import splits
from worldsim_jax.data import wad
from worldsim_jax.errors import UserError


class WadTest(absltest.TestCase):

  def test_the_wheel_holds_68_maps(self):
    names = [
        name
        for file in ('freedoom1.wad', 'freedoom2.wad')
        for name in wad.map_names(maps.freedoom(file))
    ]
    self.assertCountEqual(names, splits.FREEDOOM)

  def test_a_level_is_geometrically_sound(self):
    level = maps.load('MAP01').level
    self.assertLen(level.back, len(level.segments))
    self.assertGreaterEqual(level.front.min(), 0)
    self.assertGreaterEqual(level.back.min(), -1)
    self.assertLess(max(level.front.max(), level.back.max()), len(level.floor))
    self.assertTrue(np.all(level.ceiling >= level.floor))

  def test_names_of_textures_are_those_of_the_file(self):
    path = maps.freedoom('freedoom2.wad')
    lumps = {name for name, _, _ in wad.read_directory(path)}
    level = maps.load('MAP01').level
    self.assertContainsSubset(set(level.flats.ravel().tolist()), lumps)
    self.assertEqual(level.flats.shape, (len(level.floor), 2))
    self.assertEqual(level.textures.shape, (len(level.segments), 2, 3))
    # Every wall without an opening has something on its front.
    solid = level.back < 0
    self.assertFalse((level.textures[solid, 0, 1] == wad.NO_TEXTURE).any())
    self.assertTrue((level.textures[solid, 1] == wad.NO_TEXTURE).all())

  def test_only_openings_are_seen_through(self):
    level = maps.load('MAP15').level
    self.assertGreater(level.see_through.sum(), 0)
    self.assertTrue((level.back[level.see_through] >= 0).all())
    self.assertFalse(maps.load('gen:1').level.see_through.any())

  def test_doors_and_lifts_make_a_level_that_can_move(self):
    self.assertTrue(maps.load('MAP01').level.can_move)
    self.assertFalse(maps.load('gen:1').level.can_move)

  def test_a_missing_map_is_named_beside_those_that_exist(self):
    with self.assertRaisesRegex(UserError, "no map 'MAP77'.*MAP01.*MAP32"):
      wad.load_level(maps.freedoom('freedoom2.wad'), 'MAP77')

  def test_what_is_no_wad_is_refused_by_name(self):
    path = self.create_tempfile(
        'bad.wad', 'not a wad, but long enough'
    ).full_path
    with self.assertRaisesRegex(UserError, 'bad.wad: not a WAD'):
      wad.map_names(path)
    with self.assertRaisesRegex(UserError, 'absent.wad: cannot read'):
      wad.map_names(os.path.join(os.path.dirname(path), 'absent.wad'))

  def test_a_patch_wad_gives_its_lumps_back(self):
    content = wad.pwad([('MAP01', b''), ('TEXTMAP', b'abc'), ('ENDMAP', b'')])
    path = self.create_tempfile('p.wad', content, mode='wb').full_path
    self.assertEqual(
        wad.read_directory(path),
        [('MAP01', 12, 0), ('TEXTMAP', 12, 3), ('ENDMAP', 15, 0)],
    )


if __name__ == '__main__':
  absltest.main()

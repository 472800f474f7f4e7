"""Networks that start from published weights have their bits."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.streaming import tiny_world
from worldsim_jax.errors import UserError
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World
from worldsim_jax.train import pretrained
from worldsim_jax.train import stages
from worldsim_jax.train import validation


class PretrainedTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path, 'weights')

  def save(self, params):
    world = tiny_world.make()
    files.save(World(world.config, params, {}, world.starts), self.folder)

  def config(self, **changes):
    config = tiny_world.config()
    config.teacher.update(dict(weights=str(self.folder)) | changes)
    return config

  @parameterized.parameters(dict(fsdp=8, data=1), dict(tensor=2, data=4))
  def test_weights_lie_as_the_mesh_says_and_are_the_first_state(self, **mesh):
    params = jax.tree.map(np.asarray, tiny_world.make().params)
    self.save(params)
    config, mesh = self.config(), meshes.make_mesh(mesh)
    found = pretrained.load(config, 'teacher', mesh)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    leaf = found['blocks']['ffn_0']['kernel']
    self.assertLess(leaf.addressable_shards[0].data.size, leaf.size)
    stage = stages.make('teacher', stages.Inputs(
        config, lambda stage: None, films=tuple))
    with jax.set_mesh(mesh):
      first = jax.jit(stage.init)({pretrained.key('teacher'): found})
    jax.tree.map(np.testing.assert_array_equal, first['teacher'], params)

  def test_what_weights_do_not_have_starts_as_without_them(self):
    whole = traverse_util.flatten_dict(
        jax.tree.map(np.asarray, tiny_world.make().params))
    known = {path: x for path, x in whole.items() if 'action' not in path[0]}
    self.assertLess(len(known), len(whole))
    initial = {path: np.full(x.shape, 7, np.float32)
               for path, x in whole.items()}
    rounded = {path: x.astype(jnp.bfloat16) for path, x in known.items()}
    found = traverse_util.flatten_dict(pretrained.laid_over(
        *map(traverse_util.unflatten_dict, (initial, rounded))))
    for path, x in found.items():
      self.assertEqual(x.dtype, np.float32)  # For the optimiser.
      np.testing.assert_array_equal(x, rounded.get(path, initial[path]))

  @pytest.mark.slow
  def test_a_network_that_does_not_fit_is_named_with_both_shapes(self):
    params = jax.tree.map(np.asarray, tiny_world.make().params)
    self.save(params)
    validate = lambda **changes: validation._check_steps(
        'teacher', self.config(**changes).teacher)
    check = lambda **changes: pretrained.check(self.config(**changes))
    check()
    check(num_steps=0)
    with self.assertRaisesRegex(
        UserError, r'config\.teacher\.weights=.*: its blocks/ffn_0/.* has '
        r'shape \(.*\), the network of config\.model \('):
      check(model=dict(ffn_dim=8))
    with self.assertRaisesRegex(UserError, 'no world here'):
      check(weights='nowhere')
    with self.assertRaisesRegex(UserError, 'num_steps=0 must be at least 1'):
      validate(weights='', num_steps=0)
    with self.assertRaisesRegex(UserError, "it starts from 'x'"):
      validate(start_from='x')
    validate(num_steps=0)

  def test_weights_of_what_the_network_has_not_are_named(self):
    self.save(jax.tree.map(np.asarray, tiny_world.make().params))
    config = self.config()
    config.data.actions = False
    with self.assertRaisesRegex(UserError, 'its action.* has no place in'):
      pretrained.check(config)
    files.save(World(config, {}, {}, tiny_world.make().starts), self.folder)
    with self.assertRaisesRegex(UserError, 'has no transformer'):
      pretrained.check(config)

  def test_nothing_may_be_missing_where_nothing_is_trained(self):
    # Of a model of prompts, which is to learn actions.
    without = tiny_world.config()
    without.data.actions, without.model.steered = False, False
    world = tiny_world.of_config(without)
    files.save(World(without, world.params, {}, world.starts), self.folder)
    config = self.config()
    config.model.steered = False
    pretrained.check(config)
    config.teacher.num_steps = 0
    with self.assertRaisesRegex(UserError, 'lacks action.*num_steps=0'):
      pretrained.check(config)


if __name__ == '__main__':
  absltest.main()

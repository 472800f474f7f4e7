"""Teacher, student and critic of three sizes, in one program."""

import functools

from absl.testing import absltest
import jax
import numpy as np
import pytest

from benchmarks import train_step
from tests.streaming import tiny_world
from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import loop
from worldsim_jax.train import stages
from worldsim_jax.train import state as train_state
from worldsim_jax.train import validation

TEACHER, CRITIC = dict(dim=48, ffn_dim=80, num_layers=3), dict(num_layers=1)


@functools.cache
def config():
  """teacher 48 wide, critic of one layer, student as config.model says."""
  small = tiny_world.config()
  small.stages = ('tokenizer', 'base', 'teacher', 'critic_base',
                  'teacher_forcing', 'self_forcing')
  for name, model in ('base', {}), ('critic_base', CRITIC):
    small[name] = small.teacher.copy_and_resolve_references()
    small[name].model = model
  small.teacher.model = TEACHER
  small.teacher_forcing.start_from = 'base'
  small.self_forcing.critic.start_from = 'critic_base'
  small.self_forcing.frozen_dtype = 'bfloat16'
  return small


def trained():
  """Untrained networks of all stages."""
  found = {}
  for name in config().stages[1:-1]:
    found[name] = jax.jit(make(name).init)(found)[name]
  return found


def make(name):
  return stages.make(name, stages.Inputs(
      config(), train_step.synthetic_batches(config()), films=tuple))


def width(params):
  return params['patch_embedding']['kernel'].shape[-1]


class SizesTest(absltest.TestCase):

  def test_a_network_is_of_the_size_of_what_it_starts_from(self):
    for name, dim, layers in (('teacher', 48, 3), ('base', 32, 2),
                              ('critic_base', 32, 1), ('self_forcing', 32, 2)):
      model = build.for_network(config(), name).model
      self.assertEqual((model.dim, model.num_layers), (dim, layers), name)
    self.assertEqual(build.student(config()).model.dim, 32)

  @pytest.mark.slow
  def test_three_sizes_train_in_one_program_on_a_mesh(self):
    stage, mesh = make('self_forcing'), meshes.make_mesh(
        {'fsdp': 2, 'tensor': 2}, jax.devices()[:4])
    with jax.set_mesh(mesh):
      networks = {k: meshes.place(mesh, v) for k, v in trained().items()}
      state = loop.initial_state(stage, networks)
      frozen = jax.jit(stage.frozen)(networks)
      step = train_state.make_train_step(stage.updates, seed=0)
      batch = meshes.place_batch(mesh, next(stage.batches()))
      state, metrics = step(state, frozen, batch)
    self.assertEqual(width(frozen['teacher']), 48)
    kernel = frozen['teacher']['blocks']['self_attn']['q']['kernel']
    self.assertEqual(kernel.dtype, 'bfloat16')
    self.assertEqual(kernel.sharding.shard_shape(kernel.shape), (3, 24, 24))
    self.assertEqual(width(state.params['self_forcing']), 32)
    depth = lambda name: len(state.params[name]['blocks']['modulation'])
    self.assertEqual((depth('self_forcing'), depth('critic')), (2, 1))
    for value in jax.tree.leaves(metrics):
      self.assertTrue(np.isfinite(value))

  def test_a_size_where_another_network_is_taken_over_is_refused(self):
    wrong = config().copy_and_resolve_references()
    wrong.teacher_forcing.model = dict(dim=8)
    with self.assertRaisesRegex(
        UserError, r"config.teacher_forcing.model=.* starts from 'base'"):
      validation.check(wrong)

  def test_a_critic_starts_from_a_stage_that_there_is(self):
    wrong = config().copy_and_resolve_references()
    wrong.self_forcing.critic.start_from = 'nobody'
    with self.assertRaisesRegex(
        UserError, "config.self_forcing.critic.start_from='nobody' is not"):
      validation.check(wrong)

  def test_only_states_and_averages_go_to_the_host(self):
    wrong = config().copy_and_resolve_references()
    wrong.teacher.offload = ('params',)
    with self.assertRaisesRegex(UserError, "config.teacher.offload: 'params'"):
      validation.check(wrong)


if __name__ == '__main__':
  absltest.main()

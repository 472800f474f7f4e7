"""A checkpoint goes to any mesh: same bits, laid out as the new mesh wants."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.streaming import tiny_world
from worldsim_jax.data import pipeline
from worldsim_jax.parallel import layout
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import checkpoints
from worldsim_jax.train import loop
from worldsim_jax.train import state as train_state

MESHES = {
    8: dict(data=1, fsdp=4, tensor=2),
    4: dict(data=2, fsdp=1, tensor=2),
    2: dict(data=1, fsdp=2),
    1: dict(data=1),
}


def mesh_of(num_devices):
  return meshes.make_mesh(
      MESHES[num_devices], devices=jax.devices()[:num_devices])


@functools.cache
def new_state():
  """A transformer and a critic with optimisers and an average, none zero."""
  make = lambda seed: tiny_world.random_variables(
      tiny_world.config(), seed)['student']
  updates = tuple(
      train_state.Update(name, None, optax.adamw(1e-3), ema=ema)
      for name, ema in (('student', .9), ('critic', None)))
  state = train_state.create({'student': make(0), 'critic': make(1)}, updates)
  leaves, treedef = jax.tree.flatten(state)
  return jax.tree.unflatten(treedef, [
      np.asarray(x) + np.asarray(i, x.dtype) for i, x in enumerate(leaves)])


@pytest.mark.slow
@absltest.skipIf(len(jax.devices()) < 8, 'needs eight devices')
class ReshardingTest(parameterized.TestCase):

  @parameterized.parameters((8, 8), (8, 4), (8, 2), (8, 1), (1, 8), (4, 2))
  def test_every_array_is_the_same_and_lies_as_the_rules_say(
      self, saved_on, restored_on):
    folder = epath.Path(self.create_tempdir().full_path)
    old, new = mesh_of(saved_on), mesh_of(restored_on)
    with checkpoints.Checkpoints(folder, {}) as saved:
      saved.save(7, meshes.place(old, new_state()), {'position': 7})
    like = meshes.abstract(new, new_state())
    before = {id(x) for x in jax.live_arrays()}
    with checkpoints.Checkpoints(folder, {}) as saved:
      restored, iterator_state = saved.restore(like)
    # Nothing whole is left beside the parts.
    known = before | {id(x) for x in jax.tree.leaves(restored)}
    self.assertEmpty([x.shape for x in jax.live_arrays()
                      if id(x) not in known and x.size > 1])
    self.assertEqual(iterator_state, {'position': 7})
    jax.tree.map(np.testing.assert_array_equal, restored, new_state())
    wanted = layout.shardings(new, new_state())
    jax.tree.map(
        lambda x, s: self.assertTrue(x.sharding.is_equivalent_to(s, x.ndim)),
        restored, wanted)
    for x in jax.tree.leaves(restored):
      part = x.sharding.shard_shape(x.shape)
      for shard in x.addressable_shards:
        self.assertEqual(shard.data.shape, part)
    split = sum(not x.is_fully_replicated for x in jax.tree.leaves(restored))
    self.assertGreater(split, 50 if restored_on > 1 else -1)


class Numbers:
  """Films of one number each, by the pipeline of a real run."""

  def __init__(self, given):
    films = [{'x': np.full((6, 4), i, np.float32)} for i in range(20)]
    self._batches = pipeline.make_iterator(
        films, batch_size=8, clip_frames=2, seed=0, fields=('x',),
        num_threads=1)
    self.get_state, self.set_state = (
        self._batches.get_state, self._batches.set_state)
    self._given = given

  def __next__(self):
    batch = next(self._batches)
    self._given.append(batch['x'][:, 0, 0])
    return batch


def train(workdir, num_devices, num_steps):
  """Trains on sums of whole numbers, which no order of adding rounds.

  Returns:
    (the final parameters, the batches asked for).
  """
  def loss(params, batch, unused_rng):
    kernel = params['toy']['ffn_0']['kernel']
    return (kernel * batch['x'].sum()).sum(), {}

  given = []
  stage = loop.Stage(
      'toy', num_steps, (train_state.Update('toy', loss, optax.sgd(1.)),),
      lambda trained: {'toy': {'ffn_0': {'kernel': jnp.ones((8, 16))}}},
      lambda trained: {}, lambda: Numbers(given), 1)
  state = loop.train(stage, {}, tiny_world.config().loop, 0, workdir, {},
                     mesh_of(num_devices))
  # The first is asked for twice: FLOPs are counted with it.
  return np.asarray(state.params['toy']['ffn_0']['kernel']), given[1:]


@pytest.mark.slow
@absltest.skipIf(len(jax.devices()) < 8, 'needs eight devices')
class ResumeTest(absltest.TestCase):

  def test_a_run_that_changes_devices_ends_as_one_that_does_not(self):
    folder = lambda: epath.Path(self.create_tempdir().full_path)
    expected, batches = train(folder(), 1, 9)
    workdir, given = folder(), []
    for num_devices, num_steps in (8, 3), (2, 6), (4, 9):
      kernel, more = train(workdir, num_devices, num_steps)
      given += more
    np.testing.assert_array_equal(given, batches)
    self.assertLen(given, 9)
    np.testing.assert_array_equal(kernel, expected)


if __name__ == '__main__':
  absltest.main()

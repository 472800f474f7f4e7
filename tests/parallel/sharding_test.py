"""A mesh computes what one device computes, for every training stage."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from benchmarks import train_step
from configs import quickstart
from configs import students
from tests.streaming import tiny_world
from worldsim_jax.parallel import layout
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import stages as stage_lib

AXES = ('data', 'fsdp', 'context', 'tensor')
# Of 8 devices: each axis alone (heads that do not divide take the ring), all
# but one, and unequal pairs.
MESHES = [(8, 1, 1, 1), (1, 8, 1, 1), (1, 1, 8, 1), (1, 1, 1, 8),
          (1, 2, 2, 2), (2, 1, 2, 2), (2, 2, 1, 2), (2, 2, 2, 1), (4, 2, 1, 1),
          (1, 1, 4, 2)]
# Of the other paradigms and divergences, of which most is the same.
OTHER_MESH = (2, 1, 2, 2)


@functools.cache
def config(kind):
  """Frames of 16 tokens, 4 heads, all streams; 8 clips."""
  small = quickstart.get_config('smoke')
  if kind == 'others':
    _other_stages(small)
  small.data.update(dict(height=32, width=32))
  small.model.update(dict(dim=32, ffn_dim=64, num_heads=4, num_layers=2))
  small.text.update(dict(encoder='minilm', dim=6, length=5))
  return small


def _other_stages(small):
  """What the quickstart has not, in place of its students."""
  common = dict(start_from='teacher', batch_size=8, clip_frames=4)
  small.causvid = students.diffusion_forced(clean_level=True, **common)
  # A finite difference would show rounding, divided by its small step.
  small.gan = students.teacher_forced(
      divergence='gan', penalty='exact', **common)
  # More new chunks than a stream's cache has room for: it rolls.
  small.rolling = students.self_forcing(
      exit_steps='per_chunk', **common | dict(clip_frames=8))
  small.stages = ('tokenizer', 'teacher', 'causvid', 'gan', 'rolling')


@functools.cache
def stages(kind):
  """(name, losses by network, params, batch) of each stage."""
  trained, found, settings = {}, [], config(kind)
  for seed, name in enumerate(settings.stages):
    inputs = stage_lib.Inputs(
        settings, train_step.synthetic_batches(settings), films=tuple)
    stage = stage_lib.make(name, inputs)
    params = jax.tree.map(np.asarray, {
        **stage.frozen(trained), **stage.init(trained)})
    if name != 'tokenizer':  # At initialisation heads and streams are zero.
      params = {network: own | tiny_world.random_variables(
          settings, seed + i)['student']
                for i, (network, own) in enumerate(params.items())}
    trained[name] = params[name]
    found.append((stage, params, next(stage.batches())))
  return found


@functools.cache
def gradients(kind, sizes):
  """Losses and gradients of all stages on a mesh of these sizes."""
  count = int(np.prod(sizes))
  mesh = meshes.make_mesh(dict(zip(AXES, sizes)), jax.devices()[:count])
  results = {}
  with jax.set_mesh(mesh):
    for stage, params, batch in stages(kind):

      @jax.jit
      def run(params, batch, updates=stage.updates):
        results = {}
        for update in updates:
          def loss(own, update=update):
            return update.loss({**params, update.network: own}, batch,
                               jax.random.key(1))[0]
          value, gradient = jax.value_and_grad(loss)(params[update.network])
          results[update.network] = value, layout.constrain(gradient)
        return results

      found = run(meshes.place(mesh, params), meshes.place_batch(mesh, batch))
      results[stage.name] = jax.tree.map(np.asarray, found)
  return results


def check(kind, sizes):
  expected = gradients(kind, (1, 1, 1, 1))
  found = gradients(kind, tuple(sizes))
  for stage, networks in expected.items():
    for network, (loss, gradient) in networks.items():
      other_loss, other = found[stage][network]
      np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
      scale = max(np.abs(x).max() for x in jax.tree.leaves(gradient))
      jax.tree.map(
          functools.partial(
              # fp32 sums in another order.
              np.testing.assert_allclose, rtol=0, atol=1e-5 * scale,
              err_msg=f'{stage} {network}'),
          other, gradient)


class ShardingTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    if len(jax.devices()) < 8:
      self.skipTest('needs eight devices')

  @parameterized.parameters(*MESHES)
  @pytest.mark.slow
  def test_every_mesh_computes_what_one_device_does(self, *sizes):
    check('quickstart', sizes)

  @pytest.mark.slow
  def test_so_do_the_other_paradigms_and_divergences(self):
    check('others', OTHER_MESH)


if __name__ == '__main__':
  absltest.main()

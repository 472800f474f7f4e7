"""The TPU's own compiler takes our programs and makes of them what we say."""

import importlib.util

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import jax.numpy as jnp
import pytest

from configs import quickstart
from worldsim_jax.parallel import hlo
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.parallel import topologies
from worldsim_jax.train import fit
from worldsim_jax.train import programs

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="needs libtpu: pip install 'worldsim_jax[aot]'")


def config(**mesh):
  """Small, with heads and a sequence that the TPU's kernel takes."""
  small = quickstart.get_config('smoke')
  small.model.update(dict(dim=256, num_heads=2, num_layers=2))
  small.mesh.update(dict(data=1) | mesh)
  return small


def devices(topology='v5e:2x2'):
  topologies.use_no_accelerator()
  return topologies.devices(topology)


@pytest.mark.slow
class KernelTest(parameterized.TestCase):

  @parameterized.parameters(('attention', 3), ('full', 4))
  def test_remat_keeps_what_the_backward_pass_of_attention_needs(
      self, remat, kernels):
    small = config()
    small.model.update(dict(remat=remat))
    mesh = meshes.make_mesh(small.mesh, devices('v5e:1x1')[1])
    program = programs.make('teacher', small, mesh)
    with jax.set_mesh(mesh):
      text = program.fn.lower(*program.args).compile().as_text()
    # Forward, dq and dkv; with 'full' the forward pass is done twice.
    count = text.count('custom_call_target="tpu_custom_call"')
    self.assertEqual(count, kernels)


@pytest.mark.slow
class FitTest(absltest.TestCase):

  def test_a_split_program_compiles_and_its_collectives_are_found(self):
    small = config(fsdp=2, context=2)
    chip, four = devices()
    found, = fit.on_devices(small, chip, four, ['teacher'])
    self.assertTrue(found.fits)
    self.assertEmpty(found.warnings)
    collectives = found.costs.collectives
    self.assertGreater(collectives['all-to-all'].count, 0)  # tokens to heads
    self.assertEqual(collectives['all-to-all'].widest, 2)
    gathered = collectives['all-gather'].bytes
    weights = sum(2 * x.size for x in jax.tree.leaves(
        programs.make('teacher', small, meshes.make_mesh(
            small.mesh, four)).args[0].params))
    # In bfloat16, for the forward and for the backward pass.
    self.assertBetween(gathered, weights * 3 / 4, 4 * weights)

  def test_what_the_compiler_refuses_is_told_with_its_largest_buffers(self):
    small = config(fsdp=2, context=2)
    small.teacher.batch_size = 2**16
    chip, four = devices()
    found, = fit.on_devices(small, chip, four, ['teacher'])
    self.assertFalse(found.fits)
    self.assertGreater(found.total, chip.memory)
    self.assertIn('HBM', found.buffers[0])
    self.assertIn("argument [2]['latents']", found.buffers[1])


@pytest.mark.slow
class SlicesTest(absltest.TestCase):

  def test_what_hosts_send_between_slices_is_found(self):
    topologies.use_no_accelerator()
    _, eight = topologies.devices('v5e:2x2', 2)
    mesh = meshes.make_mesh({'slice': 2, 'fsdp': 4}, eight)
    rows, shard = P(('slice', 'fsdp')), P('fsdp')
    size = 2048

    def gradient(x, y):
      return jax.lax.with_sharding_constraint(x.T @ y, shard)

    args = [jax.ShapeDtypeStruct((size, size), jnp.bfloat16,
                                 sharding=NamedSharding(mesh, rows))] * 2
    with jax.set_mesh(mesh):
      text = jax.jit(gradient).lower(*args).compile().as_text()
    found = hlo.costs(text, devices_per_slice=4, num_slices=2)
    # Scattered within the slice; each quarter then goes there and back.
    self.assertEqual(found.dcn_bytes, 2 * (2 * size * size / 4) / 2)
    self.assertEqual(found.collectives['all-reduce'],
                     hlo.Moved(1, found.dcn_bytes, 2))
    self.assertEqual(found.collectives['reduce-scatter'].widest, 4)


if __name__ == '__main__':
  absltest.main()

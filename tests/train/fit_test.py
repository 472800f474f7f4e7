"""Fit tells what programs need, from the compiler that is here: the CPU's."""

import json
import os
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
from etils import epath
import jax
import numpy as np
import pytest

from configs import quickstart
from configs import wan_1_3b
from configs import wan_14b
from tests.streaming import tiny_world
from worldsim_jax.errors import UserError
from worldsim_jax.parallel import chips
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.parallel import topologies
from worldsim_jax.train import fit
from worldsim_jax.train import programs

ROOMY = chips.this_cpu(1)


def config(**mesh):
  small = quickstart.get_config('smoke')
  small.mesh.update(dict(data=1) | mesh)
  return small


def fit_of(program, small, chip=ROOMY):
  devices = jax.devices()[:int(np.prod([
      x for x in small.mesh.to_dict().values()]))]
  mesh = meshes.make_mesh(small.mesh, devices)
  return fit.compile_for(
      programs.make(program, small, mesh), small, mesh, chip)


class FitTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_parameters_split_between_devices_take_their_share(self):
    whole, split = (fit_of('teacher', config(fsdp=n)) for n in (1, 4))
    self.assertTrue(whole.fits)
    self.assertEqual(whole.sent, 0)
    self.assertGreater(split.sent, 0)
    # All but biases and norms are split; the batch is, too.
    self.assertLess(split.arguments, 0.35 * whole.arguments)
    self.assertAlmostEqual(split.flops * 4, whole.flops)

  @pytest.mark.slow
  def test_a_stream_is_one_program_and_says_how_many_frames_it_makes(self):
    small = config()
    found = fit_of('stream', small)
    self.assertEqual(found.frames, small.student.chunk)
    self.assertGreater(found.flops, 0)
    self.assertGreater(found.costs.memory_bytes, 0)

  @pytest.mark.slow
  def test_a_stream_of_a_recurrent_model_is_counted_likewise(self):
    found = fit_of('stream', tiny_world.recurrent_config())
    self.assertGreater(found.flops, 0)

  @pytest.mark.slow
  def test_the_caches_of_wans_tokenizer_are_counted_where_they_are(self):
    small = tiny_world.wan_vae_config()
    small.mesh.update(dict(data=1))
    found = {name: fit_of(name, small)
             for name in ('start', 'stream', 'decode')}
    mesh = meshes.make_mesh(small.mesh, jax.devices()[:1])
    decode = programs.make('decode', small, mesh)
    variables, latents, carry = decode.args
    read = [variables['params'][name] for name in ('conv2', 'decoder')]
    self.assertEqual(found['decode'].arguments,
                     fit._shard_bytes((read, latents, carry)))
    carry = fit._shard_bytes(carry)
    self.assertGreater(carry, 10 * fit._shard_bytes(latents))
    self.assertGreater(found['stream'].arguments, carry)
    self.assertGreater(found['start'].total, found['start'].arguments + carry)
    self.assertEqual(found['stream'].frames, 2)

  def test_chips_that_a_batch_of_one_is_not_split_over_repeat_its_work(self):
    program = programs.make('stream', config(), meshes.make_mesh(
        {}, jax.devices()[:1]))
    sharing = lambda batch, **sizes: fit._sharing(
        program._replace(batch=batch), meshes.make_mesh(sizes))
    self.assertEqual(program.batch, 1)
    self.assertEqual(sharing(1, data=2, fsdp=2, tensor=2), 2)
    self.assertEqual(sharing(4, data=2, fsdp=2, tensor=2), 8)
    self.assertEqual(sharing(1, context=2, tensor=4), 8)
    decode = programs.make('decode', config(), meshes.make_mesh(
        {}, jax.devices()[:1]))
    self.assertEqual(
        fit._sharing(decode, meshes.make_mesh(dict(data=2, tensor=4))), 1)

  def test_the_roofline_is_the_longest_of_three(self):
    chip = ROOMY._replace(flops=1e9, memory_bandwidth=1e9, link_bandwidth=1e9,
                          dcn_bandwidth=1e9)
    times = fit_of('decode', config(), chip).roofline()
    found = fit_of('decode', config(), chip)
    self.assertEqual(times['arithmetic'], found.flops / 1e9)
    self.assertEqual(times['memory'], found.costs.memory_bytes / 1e9)
    self.assertEqual(times['network'], 0)

  def test_what_does_not_fit_is_named_with_its_largest_buffers(self):
    found = fit_of('decode', config(), ROOMY._replace(memory=1000.))
    self.assertFalse(found.fits)
    self.assertNotEmpty(found.buffers)
    self.assertIn('argument', found.buffers[0])

  def test_the_compilers_refusal_is_read(self):
    message = '''RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of
memory in memory space hbm. Used 43.21G of 31.25G hbm. Exceeded hbm capacity by
11.96G.
Largest program allocations in hbm:

  1. Size: 24.00G
     Operator: op_name="jit(f)/mul" source_file="x.py" source_line=3
     Shape: f32[80000,80000]{1,0:T(8,128)}
     Unpadded size: 23.84G
     ==========================
'''
    program = programs.make('decode', config(), meshes.make_mesh(
        {'data': 1}, jax.devices()[:1]))
    found = fit._too_large(message, program, ROOMY)
    self.assertFalse(found.fits)
    self.assertAlmostEqual(found.total / fit.GIB, 43.21)
    self.assertAlmostEqual(found.limit / fit.GIB, 31.25)
    self.assertEqual(found.buffers, ('24.00G  f32[80000,80000]  jit(f)/mul',))


class WarningsTest(absltest.TestCase):

  def warnings(self, **mesh):
    small = config(**mesh)
    small.model.update(dict(dim=96, num_heads=12))
    devices = jax.devices()[:int(np.prod(list(small.mesh.to_dict().values())))]
    mesh = meshes.make_mesh(small.mesh, devices)
    program = programs.make('teacher', small, mesh)
    return ' '.join(fit._warnings(program, small, mesh))

  def test_twelve_heads_do_not_divide_by_eight(self):
    self.assertIn('12 heads of teacher do not divide by mesh.tensor=8',
                  self.warnings(tensor=8))
    self.assertIn('12 heads of teacher do not divide by mesh.context=8',
                  self.warnings(context=8))

  def test_a_recurrent_stream_is_not_split_within_a_frame(self):
    small = tiny_world.recurrent_config()
    small.mesh.update(dict(data=1, context=2))
    mesh = meshes.make_mesh(small.mesh, jax.devices()[:2])
    said = ' '.join(fit._warnings(
        programs.make('stream', small, mesh), small, mesh))
    self.assertIn('teacher is recurrent: chips of mesh.tensor and mesh', said)
    self.assertNotIn('heads', said)

  def test_four_are_fine(self):
    self.assertEmpty(self.warnings(tensor=2, context=2))

  def test_what_is_copied_to_all_is_named_on_any_mesh(self):
    with mock.patch.object(fit, 'GIANT', 2000):
      self.assertIn('is whole on every chip', self.warnings(data=8))

  def test_a_stream_on_chips_that_only_repeat_it_is_told(self):
    small = config(fsdp=8)
    mesh = meshes.make_mesh(small.mesh)
    program = programs.make('stream', small, mesh)
    self.assertIn('a batch of 1 is not split',
                  ' '.join(fit._warnings(program, small, mesh)))

  def test_a_giant_that_is_whole_on_every_chip_is_named(self):
    with mock.patch.object(fit, 'GIANT', 2000):
      text = self.warnings(fsdp=8)
    self.assertIn('is whole on every chip', text)


class SearchTest(absltest.TestCase):

  @pytest.mark.slow
  def test_meshes_come_by_what_they_have_to_send(self):
    small = config(fsdp=-1)
    tried = list(fit.meshes_to_try(
        small, ROOMY, jax.devices()[:4], ['teacher']))
    self.assertNotIn(dict(data=1, fsdp=4, context=1, tensor=1), tried)
    self.assertEqual(tried[0], dict(data=1, fsdp=2, context=2, tensor=1))
    for sizes in tried:
      self.assertEqual(np.prod(list(sizes.values())), 4)

  @pytest.mark.slow
  def test_the_first_that_fits_is_found(self):
    copied, split = config(data=2), config(fsdp=2)
    totals = [fit_of('teacher', c).total for c in (copied, split)]
    self.assertLess(totals[1], totals[0])
    chip = ROOMY._replace(memory=sum(totals) / 2)
    found = fit._search(copied, chip, jax.devices()[:2], ['teacher'])
    self.assertTrue(found[0].fits)
    self.assertEqual(found[0].total, totals[1])

  def test_what_cannot_hold_its_arguments_is_not_compiled(self):
    small = config(fsdp=4)
    tiny = ROOMY._replace(memory=1000.)
    self.assertEmpty(list(fit.meshes_to_try(
        small, tiny, jax.devices()[:4], ['teacher'])))


class SizesTest(parameterized.TestCase):

  @parameterized.parameters(
      # The published checkpoints have 1,418,996,800 and
      # 14,288,491,584 parameters in 825 and 1,095 tensors.
      (wan_1_3b, 1_418_996_800, 30), (wan_14b, 14_288_491_584, 40))
  def test_wan_has_the_published_size(self, module, parameters, layers):
    shapes = programs._world(module.get_config()).params
    leaves = jax.tree.leaves(shapes)
    self.assertEqual(sum(x.size for x in leaves), parameters)
    self.assertEqual(shapes['blocks']['modulation'].shape[0], layers)


class TopologiesTest(parameterized.TestCase):

  @parameterized.parameters('v5p', 'v5p:', 'v5p:4x', 'z9:2x2', 'v6e:0x2', '')
  def test_a_name_that_is_none_is_told_what_is_expected(self, name):
    with self.assertRaisesRegex(UserError, 'CHIP:SHAPE is expected'):
      topologies.parse(name)

  @parameterized.parameters('v6e:32x32', 'v5e:4x4x4', 'v5p:8x8',
                            'v5p:100x100x100')
  def test_a_slice_that_nobody_sells_is_none(self, name):
    with self.assertRaisesRegex(UserError, 'dimensions and at most'):
      topologies.parse(name)

  def test_chips_are_found_by_their_names_and_by_jaxs(self):
    chip, shape = topologies.parse('v5p:4x4x4')
    self.assertEqual((chip.name, shape), ('v5p', (4, 4, 4)))
    self.assertEqual(chips.of_kind('TPU v5p'), chips.of_kind('TPU v5'))
    self.assertEqual(chips.of_kind('TPU v5 lite').name, 'v5e')
    self.assertIsNone(chips.of_kind('abacus'))


@pytest.mark.slow
class CommandTest(absltest.TestCase):

  def run_fit(self, *flags, devices=2):
    environment = dict(os.environ)
    environment['XLA_FLAGS'] = environment['XLA_FLAGS'].replace(
        'device_count=8', f'device_count={devices}')
    return subprocess.run(
        [sys.executable, '-m', 'worldsim_jax.main', '--mode=fit',
         '--config=configs/quickstart.py:smoke', *flags], env=environment,
        text=True, capture_output=True, check=False)

  def test_it_prints_a_table_and_leaves_a_report(self):
    folder = epath.Path(self.create_tempdir().full_path)
    done = self.run_fit('--topology=cpu:2', '--programs=teacher,decode',
                        f'--workdir={folder}/fit')
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertRegex(done.stdout, r'(?m)^teacher +\d')
    self.assertRegex(done.stdout, r'(?m)^decode +\d')
    summary = json.loads((folder / 'fit/summary.json').read_text())
    self.assertEqual(summary['teacher/fits'], 'yes')
    self.assertGreater(summary['teacher/all-reduce_bytes'], 0)
    self.assertIn('Collectives', (folder / 'fit/report.html').read_text())

  def test_mistakes_are_one_line_and_exit_code_2(self):
    for flags, said in (
        (['--topology=v9:2x2'], 'CHIP:SHAPE is expected'),
        ([], 'needs --topology'),
        (['--topology=cpu:2', '--programs=dance'], '--programs=dance is not'),
        (['--topology=cpu:64'], 'there are 2 CPU devices')):
      with self.subTest(said):
        done = self.run_fit(*flags)
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertIn(said, done.stderr)
        self.assertNotIn('Traceback', done.stderr)


if __name__ == '__main__':
  absltest.main()

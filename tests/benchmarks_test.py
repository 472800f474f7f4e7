"""Benchmarks run, say what they measured, and the GPU queue goes on."""

import importlib
import json
import os
import pathlib
import stat
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

import benchmarks
from benchmarks import geometry
from benchmarks import input as host_input
from benchmarks import pytorch
from benchmarks import record
from benchmarks import results
from benchmarks import stream
from benchmarks import timing
from benchmarks import torch_dit
from benchmarks import train_step
from benchmarks import wan_cpu
from benchmarks.configs import wan_1_3b
from configs import quickstart
from worldsim_jax.errors import UserError
from worldsim_jax.streaming import files

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMOKE = '--config=configs/quickstart.py:smoke'
PLAIN = (str, int, float, bool, type(None))


def run(*arguments):
  """`python -m benchmarks.run` as a user would, on one device."""
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return subprocess.run(
      [sys.executable, '-m', 'benchmarks.run', *arguments], cwd=ROOT,
      env=environment, capture_output=True, text=True, check=False)


def tiny_config(**student):
  config = quickstart.get_config('smoke')
  config.model.update(dict(dim=16, ffn_dim=16, num_heads=1, num_layers=1))
  config.student.update(student)
  return config


@pytest.mark.slow
class RegistryTest(absltest.TestCase):

  def test_every_name_is_a_module_with_a_benchmark(self):
    for name, measures in benchmarks.REGISTRY.items():
      module = importlib.import_module(f'benchmarks.{name}')
      self.assertTrue(callable(module.benchmark), name)
      self.assertNotIn('\n', measures)

  def test_list_names_every_benchmark_with_what_it_measures(self):
    lines = run('--list').stdout.splitlines()
    self.assertLen(lines, len(benchmarks.REGISTRY))
    for line, (name, measures) in zip(lines, benchmarks.REGISTRY.items()):
      self.assertEqual(line.split(maxsplit=1), [name, measures])

  def test_mistakes_end_with_one_line_and_exit_code_2(self):
    names = ', '.join(benchmarks.REGISTRY)
    for arguments, message in (
        (['strem'], f'strem: name one benchmark of {names}'),
        (['stream', '--config=nowhere.py'], 'nowhere.py'),
        (['stream', '--config.model.layers=2'], 'layers'),
        (['stream', '--config.student.chunk=5'], 'config.student.chunk=5'),
    ):
      with self.subTest(arguments=arguments):
        done = run(*arguments)
        self.assertEqual(done.returncode, 2)
        self.assertLen(done.stderr.splitlines(), 1)
        self.assertIn(message, done.stderr)


class TimingTest(absltest.TestCase):

  def test_variants_take_turns_and_the_first_turn_does_not_count(self):
    calls = []
    samples = timing.seconds(
        {name: lambda name=name: calls.append(name) for name in 'AB'}, 2)
    self.assertEqual(''.join(calls), 'ABABAB')
    self.assertEqual([len(samples[name]) for name in 'AB'], [2, 2])

  def test_spread_is_median_fastest_and_slowest(self):
    self.assertEqual(timing.spread('seconds', [3., 1., 8.]), {
        'seconds_median': 3., 'seconds_min': 1., 'seconds_max': 8.})

  def test_a_compilation_is_counted_once_and_a_second_call_not(self):
    double = jax.jit(lambda x: 2 * x + 1)
    x = np.ones(3, np.float32)
    with timing.compilations() as compiled:
      double(x)
    self.assertLen(compiled, 1)
    with timing.compilations() as compiled:
      double(x)
    self.assertEmpty(compiled)


class ResultsTest(absltest.TestCase):

  def test_a_wide_table_is_turned_on_its_side(self):
    narrow = results.table([{'name': 'a', 'seconds': 1.}, {'name': 'bcd'}])
    self.assertEqual(narrow.splitlines(), [
        'name  seconds', 'a           1', 'bcd         -'])
    wide = results.table([{f'column_{i:03d}': i for i in range(20)}])
    self.assertLen(wide.splitlines(), 20)

  def test_a_gpu_names_its_folder(self):
    gpu = mock.Mock(platform='gpu', device_kind='NVIDIA H100 80GB HBM3')
    for count, slug in ((1, 'nvidia-h100-80gb-hbm3'),
                        (8, 'nvidia-h100-80gb-hbm3-x8')):
      with mock.patch.object(jax, 'devices', lambda gpu=gpu: [gpu]):
        with mock.patch.object(jax, 'device_count', lambda n=count: n):
          self.assertEqual(results.device_slug(), slug)


class StreamTest(absltest.TestCase):

  def test_a_stream_that_slows_down_shows_in_the_ratio(self):
    seconds_RC = np.repeat([[2., 1., 1., 3.]] * 3, 4, axis=1)
    quarters = stream.rows(seconds_RC, frames_per_chunk=4, compilations=0)
    self.assertEqual([row['frames'] for row in quarters],
                     ['1-16', '17-32', '33-48', '49-64'])
    ratios = [row['ratio_to_second_quarter_median'] for row in quarters]
    self.assertEqual(ratios, [2., 1., 1., 3.])
    self.assertEqual(quarters[1]['seconds_per_frame_median'], 0.25)

  def test_a_machine_that_slows_down_does_not_show_in_the_ratio(self):
    clock = mock.Mock()
    clock.perf_counter.side_effect = np.cumsum(np.arange(3000.))
    with mock.patch.object(stream, 'time', clock):
      seconds_RC = stream.play(
          lambda: 0, lambda session: (session, None), streams=6, chunks=200,
          stagger=50)
    self.assertGreater(seconds_RC[0, -1], 3 * seconds_RC[0, 50])
    for row in stream.rows(seconds_RC, frames_per_chunk=1, compilations=0):
      # Calls of one turn are at most 8 ticks apart, at 100 ticks and later.
      self.assertBetween(row['ratio_to_second_quarter_median'], .9, 1.1)

  @pytest.mark.slow
  def test_a_run_writes_what_was_measured_and_where(self):
    out = self.create_tempdir().full_path
    done = run('stream', SMOKE, '--config.model.num_layers=1', '--repeats=3',
               '--frames=8', f'--out={out}')
    self.assertEqual(done.returncode, 0, done.stderr)
    cores = len(os.sched_getaffinity(0))
    path = pathlib.Path(out, f'cpu-{cores}/stream-quickstart-smoke-custom.json')
    self.assertIn(str(path), done.stdout)
    result = json.loads(path.read_text())
    self.assertEqual(list(result), [
        'benchmark', 'command', 'repeats', 'environment', 'config', 'rows'])
    self.assertEqual((result['benchmark'], result['repeats']), ('stream', 3))
    self.assertIn('--frames=8', result['command'])
    self.assertEqual(result['config']['model']['num_layers'], 1)
    self.assertContainsSubset(
        ['device', 'device_kind', 'jax', 'jaxlib', 'flax', 'python', 'commit',
         'date'], result['environment'])
    self.assertLen(result['rows'], 4)
    for row in result['rows']:
      self.assertEqual(row['compilations_in_all_streams'], 0)
      self.assertGreater(row['seconds_per_frame_median'], 0)
      for name, value in row.items():
        self.assertIsInstance(value, PLAIN, name)

  def test_too_little_to_compare_names_the_flag(self):
    for options, flag in (((5, 3), '--frames=3'), ((2, 64), '--repeats=2')):
      with self.assertRaisesRegex(UserError, flag):
        stream.benchmark(benchmarks.Options(tiny_config(), *options))

  def test_the_large_config_has_the_parameters_of_wan_1_3b(self):
    variables = jax.eval_shape(
        lambda: files.initial_variables(wan_1_3b.get_config()))
    sizes = [x.size for x in jax.tree.leaves(variables['student'])]
    self.assertEqual(sum(sizes), 1_418_996_800)


class TrainStepTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_stage_is_timed_through_its_own_step(self):
    config = tiny_config()
    config.stages = ('tokenizer',)
    [row] = train_step.benchmark(benchmarks.Options(config, repeats=1))
    self.assertEqual(row['stage'], 'tokenizer')
    self.assertGreater(row['seconds_per_step_median'], 0)
    self.assertGreater(row['model_tflop_per_step'], 0)
    self.assertIsNone(row['mfu'])  # No peak is known for a CPU.

  def test_batches_have_the_shapes_that_the_config_says(self):
    config = tiny_config()
    config.text.update(dict(dim=5, length=7))
    batches = train_step.synthetic_batches(config)
    frames = next(batches(config.tokenizer)())
    self.assertEqual(frames['rgb'].shape, (8, 4, 48, 64, 3))
    self.assertEqual(frames['rgb'].dtype, np.uint8)
    latents = next(batches(config.self_forcing)())
    self.assertEqual(
        {name: x.shape for name, x in latents.items()},
        {'latents': (8, 4, 6, 8, 4), 'actions': (8, 4, 3), 'text': (8, 7, 5)})


class InputTest(absltest.TestCase):

  @pytest.mark.slow
  def test_real_input_is_compared_with_synthetic_turn_by_turn(self):
    config = tiny_config()
    config.stages = ('tokenizer',)
    with mock.patch.object(host_input, 'TURNS', 2):
      rows = host_input.benchmark(benchmarks.Options(config, repeats=1))
    self.assertEqual([row['input'] for row in rows],
                     ['synthetic', 'in_memory', 'streamed'])
    for row in rows[1:]:
      for suffix in ('', '_cpu'):
        name = f'ratio_to_synthetic{suffix}'
        self.assertBetween(
            row[f'{name}_median'], row[f'{name}_low'], row[f'{name}_high'])
      self.assertGreater(row['pipeline_batches_per_step'], 0)

  def test_the_interval_holds_the_median_and_shrinks_with_turns(self):
    dice = np.random.default_rng(0)
    widths = []
    for turns in (10, 1000):
      ratios = dice.normal(1, .1, turns)
      low, high = host_input.interval(ratios)
      self.assertBetween(np.median(ratios), low, high)
      widths.append(high - low)
    self.assertLess(widths[1], widths[0] / 3)


@pytest.mark.slow
class RecordTest(absltest.TestCase):

  def test_every_step_from_film_to_clip_is_timed(self):
    small = mock.patch.multiple(
        record, FRAMES=5, HEIGHT=32, WIDTH=32, LATENTS=(2, 4, 4, 3),
        TEXT=(3, 4), EPISODES=2)
    with small:
      rows = record.benchmark(benchmarks.Options(tiny_config(), repeats=1))
    self.assertEqual([row['step'] for row in rows], [
        'decode', 'encode', 'write frames', 'read frames', 'decode',
        'write latents', 'read latents'])
    for row in rows:
      self.assertGreater(row['records_per_second_per_core_median'], 0)


class GeometryTest(absltest.TestCase):

  def test_a_map_has_the_rates_of_all_ways_and_a_residual(self):
    row = geometry.measure('gen:1', frames=6, repeats=1)
    for way in ('numba', 'numpy', 'flow', 'rgb', 'rgb_numba', 'everything'):
      self.assertGreater(row[f'{way}_frames_per_second_per_core_median'], 0)
    self.assertLess(row['residual_median_pixels'], 0.5)
    for name, value in row.items():
      self.assertIsInstance(value, PLAIN, name)


class TorchTest(parameterized.TestCase):

  @parameterized.parameters(
      (torch_dit, 'torch'), (wan_cpu, 'torch'), (wan_cpu, 'diffusers'))
  def test_a_missing_package_ends_with_the_pip_line(self, module, package):
    present = dict.fromkeys(('torch', 'diffusers'), mock.Mock())
    with mock.patch.dict(sys.modules, present | {package: None}):
      with self.assertRaisesRegex(UserError, r"pip install -e '\.\[parity\]'"):
        module.benchmark(benchmarks.Options(tiny_config()))

  def test_different_outputs_are_not_compared(self):
    with self.assertRaisesRegex(UserError, 'not the same computation'):
      pytorch.difference(np.ones(3), np.full(3, 1.1), 1e-5)

  @pytest.mark.slow
  def test_both_sides_compute_the_same(self):
    try:
      from benchmarks import torch_wan  # pylint: disable=g-import-not-at-top
    except ImportError:
      self.skipTest('needs PyTorch (extra [parity])')
    import torch
    config = tiny_config()
    model = torch_dit.comparable_model(config)
    inputs = torch_dit.random_inputs(model, config, batch=2, frames=3)
    params = torch_dit.random_params(model, inputs)
    theirs = torch_wan.WanTransformer(model, 3, (6, 8))
    theirs.load(params)
    x, timesteps, text = inputs
    ours = model.apply({'params': params}, x, timesteps,
                       torch_dit.Conditioning(text=text))
    with torch.inference_mode():
      out = theirs(*map(torch.tensor, inputs))
    # Raises above the benchmark's tolerance, rounding of float32 sums.
    pytorch.difference(out, ours, torch_dit.TOLERANCE['cpu'])

  @pytest.mark.slow
  def test_wan_is_compared_with_diffusers_model_by_model(self):
    try:
      import diffusers  # pylint: disable=g-import-not-at-top,unused-import
    except ImportError:
      self.skipTest('needs diffusers (extra [parity])')
    small = mock.patch.multiple(
        wan_cpu,
        TRANSFORMERS=(wan_cpu.Transformer(1, 1, 16, 2, 4, 6, (3, 8)),),
        DECODERS=(wan_cpu.Decoder(4, 2, 16, 8),))
    with small:
      rows = wan_cpu.benchmark(benchmarks.Options(tiny_config(), repeats=1))
    self.assertEqual([(row['what'], row['size']) for row in rows], [
        ('transformer', '1 layers of 128, 12 tokens'),
        ('vae decode', 'base 4, 5 frames of 16x8')])
    for row in rows:
      self.assertAlmostEqual(
          row['ratio_torch_over_ours_median'],
          row['seconds_torch_median'] / row['seconds_ours_median'])
      self.assertLessEqual(
          row['largest_relative_difference'], wan_cpu.TOLERANCE)
      for name, value in row.items():
        self.assertIsInstance(value, PLAIN, name)

  def test_wan_is_compared_on_cpus_only(self):
    with mock.patch.object(jax, 'default_backend', lambda: 'gpu'):
      with self.assertRaisesRegex(UserError, 'JAX_PLATFORMS=cpu'):
        wan_cpu.benchmark(benchmarks.Options(tiny_config()))


FAKE_PYTHON = """#!/bin/sh
case "$*" in
  -) echo fake-gpu ;;
  *train_step*--config=*) echo out of memory; exit 1 ;;
  *torch_dit*) echo error: no torch; exit 2 ;;
  *) echo "$@" ;;
esac
"""


def queue(*arguments, **environment):
  return subprocess.run(
      ['bash', str(ROOT / 'benchmarks/gpu_queue.sh'), *arguments],
      env={'PATH': os.environ['PATH']} | environment, capture_output=True,
      text=True, check=False)


class QueueTest(absltest.TestCase):
  STEPS = ['train_step', 'stream', 'train_step_wan', 'stream_wan', 'moc',
           'train_step_moc', 'torch_dit', 'paradigms', 'doom']

  def test_dry_run_lists_every_step_most_valuable_first(self):
    done = queue(DRY_RUN='1')
    self.assertEqual(done.returncode, 0, done.stderr)
    lines = done.stdout.splitlines()
    self.assertEqual([line.split(':')[0] for line in lines], self.STEPS)
    self.assertTrue(all(': timeout ' in line for line in lines))

  def test_all_limits_but_of_the_trainings_fit_into_25_minutes(self):
    lines = queue(DRY_RUN='1').stdout.splitlines()
    limits = [int(line.split()[2]) for line in lines]
    self.assertLess(sum(limits[:-2]), 1500)
    self.assertLess(max(limits[-2:]), 1500)  # They get what the others leave.

  def test_it_goes_on_after_a_failure_and_tells_what_did_not_run(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    python = folder / 'python'
    python.write_text(FAKE_PYTHON)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    done = queue(PYTHON=str(python), RESULTS=str(folder / 'out'),
                 WORKDIR=str(folder / 'run'))
    self.assertEqual(done.returncode, 1, done.stderr)
    ran, not_run = done.stdout.split('== did not run to its end')
    ran = ran.split('== ran')[1]
    for name in ('train_step', 'stream', 'stream_wan', 'moc', 'paradigms',
                 'doom'):
      self.assertIn(f'  {name}: ', ran)
    self.assertIn('  train_step_wan: exit code 1', not_run)
    self.assertIn('  torch_dit: error: no torch', not_run)
    logs = folder / 'out/fake-gpu/logs'
    self.assertCountEqual([p.stem for p in logs.iterdir()], self.STEPS)

  @pytest.mark.slow
  def test_mistakes_end_with_exit_code_2(self):
    for arguments, environment, message in (
        (['traen'], {}, 'traen: the steps are train_step stream'),
        ([], {'WHEELS': '/nowhere'}, 'WHEELS=/nowhere: no wheels there'),
        ([], {'PYTHON': sys.executable, 'JAX_PLATFORMS': 'cpu'}, 'no GPU'),
    ):
      with self.subTest(arguments=arguments, environment=environment):
        done = queue(*arguments, **environment)
        self.assertEqual(done.returncode, 2)
        self.assertIn(message, done.stderr)


if __name__ == '__main__':
  absltest.main()

"""Whole runs at smoke size: start to end, killed, repeated, damaged."""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from absl.testing import absltest
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from benchmarks import kills
from benchmarks import train_step
from configs import wan_1_3b
from tests.storage import bucket
from tests.streaming import tiny_world
from worldsim_jax.models import wan_vae
from worldsim_jax.parallel import flops
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World
from worldsim_jax.train import datasets
from worldsim_jax.train import loop
from worldsim_jax.train import recording
from worldsim_jax.train import run
from worldsim_jax.train import stages
from worldsim_jax.train import state

# Each start compiles four training steps; a cache on disk makes the many
# restarts below affordable. It holds programs, not results.
SHARED = {}
KILLS = int(os.environ.get('WORLDSIM_KILLS', '2'))
STEPS = 6  # of every stage
STAGES = ('tokenizer', 'teacher', 'teacher_forcing', 'self_forcing')


def setUpModule():
  # A new one: a run that is found done proves nothing.
  folder = tempfile.TemporaryDirectory()
  unittest.addModuleCleanup(folder.cleanup)
  SHARED['folder'] = pathlib.Path(folder.name)


def start(workdir, *flags, environment=os.environ):
  xla_flags = [flag for flag in os.environ['XLA_FLAGS'].split()
               if 'device_count' not in flag]  # One device, compiled fast.
  environment = environment | {
      'XLA_FLAGS': ' '.join(xla_flags),
      'JAX_COMPILATION_CACHE_DIR': str(SHARED['folder'] / 'programs'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2'}
  return subprocess.Popen(
      [sys.executable, '-m', 'worldsim_jax.main',
       '--config=configs/quickstart.py:smoke', f'--workdir={workdir}',
       f'--config.data.dir={SHARED["folder"] / "data"}',
       '--config.data.num_workers=2', *flags],
      env=environment, text=True, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT)


def finish(workdir, *flags, **kwargs):
  process = start(workdir, *flags, **kwargs)
  text, _ = process.communicate(timeout=1200)
  return process.returncode, text


@functools.cache
def whole_run():
  """The workdir of a run that nothing disturbed."""
  workdir = SHARED['folder'] / 'whole'
  code, text = finish(workdir)
  assert code == 0, text
  return workdir


def parameters(workdir):
  """All arrays of the world that a run left."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.restore(pathlib.Path(workdir) / 'world' / 'params')
  return jax.tree.map(np.asarray, tree)


def checkpoint_times(workdir):
  """When the last checkpoint of each stage was written."""
  return {name: (workdir / name / str(STEPS) / 'state').stat().st_mtime_ns
          for name in STAGES if (workdir / name).exists()}


@pytest.mark.slow
class WorkdirTest(absltest.TestCase):

  def test_a_disk_that_is_full_is_found_before_anything_is_made(self):
    code = (
        'import resource, sys\n'
        'from worldsim_jax.errors import UserError\n'
        'from worldsim_jax.train import run\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n'
        'try:\n'
        '  run.prepare_workdir(sys.argv[1])\n'
        'except UserError as e:\n'
        '  print(e)\n')
    folder = self.create_tempdir().full_path
    done = subprocess.run(
        [sys.executable, '-c', code, folder], check=False, text=True,
        capture_output=True,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)})
    self.assertIn(f'--workdir={folder} cannot be written: ', done.stdout)
    self.assertEmpty(os.listdir(folder))


class FingerprintTest(absltest.TestCase):

  def test_a_run_goes_on_with_another_way_to_compute_the_same(self):
    print_of = lambda config: run.fingerprint(config, 'self_forcing')
    before, config = print_of(tiny_world.config()), tiny_world.config()
    config.model.update(dict(remat='full', attention='xla', unroll=2))
    config.teacher.offload = ('opt_state',)
    config.data.dir = '/elsewhere'
    del config.vae.kind  # There was one only, once.
    del config.data.shots, config.data.shot_captions, config.data.monsters
    self.assertEqual(print_of(config), before)
    config.data.shots = 2
    self.assertNotEqual(print_of(config), before)
    config.data.shots = 1
    config.model.ffn_dim *= 2
    self.assertNotEqual(print_of(config), before)


@pytest.mark.slow
class MakeStageTest(absltest.TestCase):

  def flops(self, remat):
    """Of a teacher's step: as counted, and of the program that runs."""
    config = tiny_world.config()
    config.model.remat = remat
    stage = stages.make('teacher', stages.Inputs(
        config, train_step.synthetic_batches(config), films=tuple))
    initial = loop.abstract_state(stage, {})
    arguments = (state.make_train_step(stage.updates, seed=0), initial,
                 stage.frozen({}), next(stage.batches()))
    return loop.model_flops(stage, *arguments), flops.count(*arguments)

  def test_model_flops_are_the_same_with_and_without_remat(self):
    model, program = self.flops('none')
    self.assertEqual(model, program)
    for remat in 'dots', 'full':
      model_with_remat, program_with_remat = self.flops(remat)
      self.assertEqual(model_with_remat, model)
      self.assertGreater(program_with_remat, program)


@pytest.mark.slow
class GivenTokenizerTest(absltest.TestCase):

  def test_a_run_on_latents_of_wans_tokenizer_leaves_a_world_with_it(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    config = wan_1_3b.get_config('tiny,wan_vae')
    given = tiny_world.of_config(config)
    files.save(given, folder / 'converted')
    frames = datasets.frames(config, folder)
    config.data.latents = recording.record(
        frames, str(folder / 'sets'), tokenizer=str(folder / 'converted'))
    summary = run.train_and_evaluate(config, folder / 'run')
    self.assertGreater(summary['student_psnr_next_frame'], 0.)
    made = files.load(folder / 'run')
    self.assertIsInstance(made.vae, wan_vae.WanVAE)
    jax.tree.map(np.testing.assert_array_equal, made.vae_variables,
                 given.vae_variables)
    _, film = made.step(made.stream(), 'forward')
    self.assertEqual(film.shape, (12, 48, 64, 3))


@pytest.mark.slow
class RunTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.whole = whole_run()

  def test_a_run_leaves_all_its_results(self):
    for name in ('report.html', 'films.mp4', 'summary.json', 'metrics.jsonl',
                 'config.json', 'world/config.json', 'world/params'):
      self.assertTrue((self.whole / name).exists(), name)
    summary = json.loads((self.whole / 'summary.json').read_text())
    for player in ('student', 'teacher', 'copy', 'vae', 'wrong'):
      self.assertGreater(summary[f'{player}_psnr_next_frame'], 0.)

  def test_a_second_run_says_that_all_is_done(self):
    code, text = finish(self.whole)
    self.assertEqual(code, 0)
    self.assertIn('all is done', text)

  def test_another_configuration_is_refused_by_the_key_that_differs(self):
    before = (self.whole / 'config.json').read_text()
    code, text = finish(self.whole, '--config.model.dim=64')
    self.assertEqual(code, 2, text)
    self.assertIn('config.model.dim=32 there and 64 now', text)
    self.assertEqual((self.whole / 'config.json').read_text(), before)

  def test_settings_of_the_machine_may_change(self):
    code, text = finish(self.whole, '--config.data.num_workers=1')
    self.assertEqual(code, 0)
    self.assertIn('all is done', text)

  def test_a_run_goes_on_from_given_weights_and_says_when_they_change(self):
    workdir, weights = SHARED['folder'] / 'given', SHARED['folder'] / 'weights'
    shutil.copytree(whole_run() / 'world', weights)
    flags = ("--config.stages=('tokenizer', 'teacher', 'teacher_forcing')",
             f'--config.teacher.weights={weights}',
             '--config.teacher.num_steps=0')
    code, text = finish(workdir, *flags)
    self.assertEqual(code, 0, text)
    self.assertIn(f'teacher: starts from {weights}', text)
    self.assertFalse((workdir / 'teacher').exists())
    self.assertTrue((workdir / 'report.html').exists())
    code, text = finish(workdir, *flags)
    self.assertIn('all is done', text)
    # Other weights under the same name.
    other = files.load(weights)
    files.save(World(other.config, jax.tree.map(
        lambda x: 2 * x, other.params), other.vae_variables, other.starts),
               weights)
    code, text = finish(workdir, *flags)
    self.assertEqual(code, 2)
    self.assertIn('weights_are', text)

  def test_another_evaluation_trains_nothing(self):
    workdir = self.copy_of_whole('evaluated')
    before = checkpoint_times(workdir)
    films = (workdir / 'films.mp4').stat().st_mtime_ns
    code, text = finish(workdir, '--config.evaluate.film_clips=1')
    self.assertEqual(code, 0, text)
    self.assertGreater((workdir / 'films.mp4').stat().st_mtime_ns, films)
    self.assertEqual(checkpoint_times(workdir), before)
    self.assertNotIn('resumes', text)

  def test_an_evaluation_on_demand_leaves_the_runs_own_results(self):
    workdir = self.copy_of_whole('on_demand')
    before = checkpoint_times(workdir)
    own = (workdir / 'summary.json').read_bytes()
    code, text = finish(
        workdir, '--mode=evaluate', "--config.evaluate.sections=('following',)")
    self.assertEqual(code, 0, text)
    folder = workdir / 'evaluation' / 'student'
    summary = json.loads((folder / 'summary.json').read_text())
    self.assertEqual(summary['action_discrimination_real'], 1)
    self.assertTrue((folder / 'report.html').exists())
    self.assertEqual((workdir / 'summary.json').read_bytes(), own)
    self.assertEqual(checkpoint_times(workdir), before)
    _, text = finish(workdir)  # What was evaluated on demand changes nothing.
    self.assertIn('all is done', text)

  def test_a_stage_with_other_settings_begins_when_its_folders_are_gone(self):
    workdir = self.copy_of_whole('changed')
    flag = '--config.self_forcing.optimizer.learning_rate=1e-6'
    code, text = finish(workdir, flag)
    self.assertEqual(code, 2, text)
    folder = re.search(r'or remove (\S+) and', text)[1]
    self.assertEqual(folder, str(workdir / 'self_forcing'))
    before = checkpoint_times(workdir)
    shutil.rmtree(folder)
    code, text = finish(workdir, flag)
    self.assertEqual(code, 0, text)
    after = checkpoint_times(workdir)
    self.assertEqual(
        [name for name in STAGES if after[name] != before[name]],
        ['self_forcing'])

  def test_an_untrained_run_is_not_evaluated(self):
    workdir = self.copy_of_whole('unfinished')
    shutil.rmtree(workdir / 'teacher_forcing')
    code, text = finish(workdir, '--mode=evaluate')
    self.assertEqual(code, 2, text)
    self.assertIn("'teacher_forcing' is not trained", text)

  def copy_of_whole(self, name):
    return shutil.copytree(self.whole, SHARED['folder'] / name)

  def test_kills_at_random_moments_change_nothing(self):
    row = kills.measure(KILLS, seed=0, folder=SHARED['folder'])
    self.assertGreaterEqual(row['kills'], KILLS)

  def test_nan_stops_the_run_and_names_the_step(self):
    workdir = SHARED['folder'] / 'nan'
    code, text = finish(
        workdir, '--config.teacher.optimizer.learning_rate=1e30')
    self.assertEqual(code, 2, text)
    self.assertRegex(
        text, r'error: teacher: (loss|grad_norm) is (nan|inf) at step \d')
    self.assertIn(f'remove {workdir}/teacher to train', text)
    self.assertTrue((workdir / 'tokenizer' / '6').exists())


@pytest.mark.slow
class BucketRunTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.bucket, environment = self.enter_context(bucket.serve())
    self.environment = environment | {
        'XDG_CACHE_HOME': str(SHARED['folder'] / 'cache')}
    self.workdir = f'gs://{bucket.NAME}/runs/x'

  def run_main(self, *flags):
    """For a process that reads and writes the bucket; returns its output."""
    code, text = finish(self.workdir, *flags, environment=self.environment)
    self.assertEqual(code, 0, text)
    return text

  def kill_when_there_is(self, *names):
    process = start(self.workdir, environment=self.environment)
    while not set(names) <= set(self.bucket.names()):
      self.assertIsNone(process.poll(), 'ended before it was killed')
      time.sleep(.05)
    process.kill()
    process.communicate()

  def test_a_run_in_a_bucket_killed_and_damaged_ends_as_a_local_one(self):
    # Inside a save, and between two.
    self.kill_when_there_is('runs/x/teacher/3/state/_METADATA')
    self.kill_when_there_is('runs/x/teacher_forcing/3/commit_success.txt',
                            'runs/x/teacher/6/commit_success.txt')
    config = 'runs/x/teacher/6/config/metadata'
    self.bucket.put(config, b'{}')
    text = self.run_main()
    self.assertRegex(text, f'teacher/6 is unreadable .*{config} has 2 bytes')
    self.assertIn('teacher_forcing resumes at step 3', text)
    copy = SHARED['folder'] / 'downloaded'
    self.bucket.download('runs/x/', copy)
    for name in ('report.html', 'films.mp4', 'summary.json', 'config.json',
                 'self_forcing-parameters.txt', 'tensorboard/teacher'):
      self.assertTrue((copy / name).exists(), name)
    self.assertEmpty(list(copy.glob('*.incomplete')))
    # Also read as the local world that its checksums hold for.
    jax.tree.map(np.testing.assert_array_equal,
                 files.load(copy).variables, files.load(whole_run()).variables)
    steps = [(r['stage'], r['step']) for r in map(
        json.loads, (copy / 'metrics.jsonl').read_text().splitlines())]
    self.assertLen(set(steps), len(steps), 'a step was logged twice')
    self.assertIn('all is done', self.run_main())
    self.run_main('--mode=sample', '--stage=teacher_forcing')
    self.run_main('--mode=export')
    self.assertContainsSubset(
        {'runs/x/sample.mp4', 'runs/x/export/advance.stablehlo',
         'runs/x/export/checksums.json'}, self.bucket.names())

  def test_a_bucket_that_does_not_answer_is_one_line(self):
    nowhere = bucket.environment('http://localhost:9')  # discard
    running = [start(self.workdir, *flags, environment=nowhere)
               for flags in ([], ['--mode=sample'])]  # They mostly wait.
    for process in running:
      text, _ = process.communicate(timeout=1200)
      self.assertEqual(process.returncode, 2, text)
      self.assertRegex(text, f'error: .*{self.workdir} cannot be .*localhost')
      self.assertNotIn('Traceback', text)

  def test_a_bucket_that_is_not_there_is_one_line(self):
    code, text = finish('gs://nowhere/x', environment=self.environment)
    self.assertEqual(code, 2, text)
    self.assertRegex(text, 'error: .*gs://nowhere/x cannot be ')
    self.assertNotIn('Traceback', text)


if __name__ == '__main__':
  absltest.main()

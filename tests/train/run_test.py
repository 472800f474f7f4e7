"""Whole runs at smoke size: start to end, killed, repeated, damaged."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

from absl.testing import absltest
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

# Each start compiles four training steps; a cache on disk makes the many
# restarts below affordable. It holds programs, not results.
SHARED = {}
KILLS = int(os.environ.get('WORLDSIM_KILLS', '3'))


def setUpModule():
  folder = pathlib.Path(absltest.get_default_test_tmpdir()) / 'runs'
  folder.mkdir(parents=True, exist_ok=True)
  SHARED['folder'] = folder


def start(workdir, *flags):
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  environment |= {
      'JAX_COMPILATION_CACHE_DIR': str(SHARED['folder'] / 'programs'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2'}
  return subprocess.Popen(
      [sys.executable, '-m', 'worldsim_jax.main',
       '--config=configs/quickstart.py:smoke', f'--workdir={workdir}',
       f'--config.data.dir={SHARED["folder"] / "data"}', *flags],
      env=environment, text=True, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT)


def finish(workdir, *flags):
  process = start(workdir, *flags)
  text, _ = process.communicate(timeout=600)
  return process.returncode, text


def parameters(workdir):
  """All arrays of the world that a run left."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.restore(pathlib.Path(workdir) / 'world' / 'params')
  return jax.tree.map(np.asarray, tree)


@pytest.mark.slow
class RunTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.whole = SHARED['folder'] / 'whole'
    code, text = finish(cls.whole)
    assert code == 0, text

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
    code, text = finish(self.whole, '--config.model.dim=64')
    self.assertEqual(code, 2, text)
    self.assertIn('config.model.dim=32 there and 64 now', text)

  def test_kills_at_random_moments_change_nothing(self):
    workdir, dice = SHARED['folder'] / 'killed', random.Random(0)
    for _ in range(KILLS):
      process = start(workdir)
      time.sleep(dice.uniform(8, 40))
      process.send_signal(signal.SIGKILL)
      process.communicate()
    code, text = finish(workdir)
    self.assertEqual(code, 0, text)
    jax.tree.map(np.testing.assert_array_equal,
                 parameters(workdir), parameters(self.whole))
    steps = [(r['stage'], r['step']) for r in map(
        json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())]
    self.assertLen(set(steps), len(steps), 'a step was logged twice')

  def test_nan_stops_the_run_and_names_the_step(self):
    workdir = SHARED['folder'] / 'nan'
    code, text = finish(
        workdir, '--config.teacher.optimizer.learning_rate=1e30')
    self.assertEqual(code, 2, text)
    self.assertRegex(text, r'error: teacher: loss is (nan|inf) at step \d')
    self.assertTrue((workdir / 'tokenizer' / '6').exists())


if __name__ == '__main__':
  absltest.main()

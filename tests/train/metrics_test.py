"""A stage's log is complete, survives kill -9 and never waits for the step."""

import io
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax import errors
from worldsim_jax.evaluate import report
from worldsim_jax.train import metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_python(code, *arguments):
  return subprocess.Popen(
      [sys.executable, '-c', code, *arguments],
      cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(ROOT)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
  )


class MetricLoggerTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = self.create_tempdir().full_path
    self.stream = io.StringIO()

  def logger(self, num_steps=10, stage='teacher', **options):
    return metrics.MetricLogger(
        self.workdir,
        stage=stage,
        num_steps=num_steps,
        stream=self.stream,
        **options,
    )

  def run_steps(self, steps, loss=lambda step: 1.0 / (step + 1), **options):
    with self.logger(**options) as logger:
      for step in steps:
        logger.push(step, {'loss': jnp.float32(loss(step))})

  def records(self, stage='teacher'):
    return report.read_metrics(self.workdir).get(stage, [])

  def steps(self, stage='teacher'):
    return [record['step'] for record in self.records(stage)]

  def test_what_is_trained_is_a_table_beside_the_log(self):
    params = {'net': {'kernel': np.ones((30, 50)), 'bias': np.ones(50)}}
    with self.logger(num_steps=1) as logger:
      logger.parameters(params)
    table = pathlib.Path(
        self.workdir, 'teacher-parameters.txt'
    ).read_text()
    self.assertRegex(table, r'net/kernel +\| \(30, 50\) .* 1,500')
    self.assertIn('Total: 1,550', table)
    self.assertIn('trains 1.55k parameters', self.stream.getvalue())

  def test_first_last_and_every_kth_step_are_logged(self):
    self.run_steps(range(11), num_steps=11, log_every=4)
    self.assertEqual(self.steps(), [0, 3, 7, 10])

  def test_logged_values_are_the_device_s_to_the_last_bit(self):
    values = [float(jnp.float32(math.pi * 10.0**e)) for e in range(-6, 4)]
    self.run_steps(range(10), loss=lambda step: values[step], log_every=1)
    self.assertEqual(
        [float(jnp.float32(r['loss'])) for r in self.records()], values
    )

  def test_push_returns_while_the_device_still_computes(self):
    slow = jax.jit(
        lambda x: jax.lax.fori_loop(0, 200, lambda _, y: jnp.tanh(y @ y), x)[
            0, 0
        ]
    )
    x = jnp.zeros((500, 500))
    slow(x).block_until_ready()  # Compiles.
    with self.logger() as logger:
      loss = slow(x)
      logger.push(0, {'loss': loss})
      self.assertFalse(loss.is_ready())

  def test_pushing_works_where_implicit_transfers_are_forbidden(self):
    with self.logger(log_every=1) as logger:
      losses = [jnp.float32(step) for step in range(3)]
      with jax.transfer_guard('disallow'):
        for step, loss in enumerate(losses):
          logger.push(step, {'loss': loss})
    self.assertEqual(self.steps(), [0, 1, 2])

  def test_a_metric_that_few_steps_have_is_logged_all_the_same(self):
    with self.logger(log_every=5) as logger:
      for step in range(10):
        values = {'critic/loss': jnp.float32(step)}
        if step % 3 == 0:
          values['generator/loss'] = jnp.float32(100 + step)
        logger.push(step, values)
    self.assertEqual(
        [record['generator/loss'] for record in self.records()],
        [100, 103, 109],
    )

  def test_resuming_drops_what_will_be_done_again_and_keeps_other_stages(self):
    self.run_steps(range(10), stage='tokenizer', log_every=1)
    self.run_steps(range(8), log_every=1)
    self.run_steps(range(5, 10), first_step=5, log_every=1)
    self.assertEqual(self.steps(), list(range(10)))
    self.assertEqual(self.steps('tokenizer'), list(range(10)))

  def test_half_a_line_is_dropped(self):
    self.run_steps(range(3), log_every=1)
    path = pathlib.Path(self.workdir, 'metrics.jsonl')
    path.write_text(path.read_text()[:-10])
    self.assertEqual(self.steps(), [0, 1])
    self.run_steps(range(2, 4), first_step=2, log_every=1)
    for line in path.read_text().splitlines():
      json.loads(line)
    self.assertEqual(self.steps(), [0, 1, 2, 3])

  def test_a_run_killed_at_any_moment_and_resumed_has_every_step_once(self):
    code = (
        'import sys, time\n'
        'from worldsim_jax.train import metrics\n'
        'logger = metrics.MetricLogger(sys.argv[1], stage="teacher",'
        ' num_steps=10**6, log_every=1)\n'
        'for step in range(10**6):\n'
        '  logger.push(step, {"loss": 1.0})\n'
    )
    child = run_python(code, self.workdir)
    path = pathlib.Path(self.workdir, 'metrics.jsonl')
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < 10_000:
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    self.run_steps(range(15, 30), num_steps=30, first_step=15, log_every=1)
    self.assertEqual(self.steps(), list(range(30)))

  def test_a_disk_that_is_full_ends_with_one_line_that_names_the_file(self):
    code = (
        'import resource, sys\n'
        'from worldsim_jax import errors\n'
        'from worldsim_jax.train import metrics\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n'
        'try:\n'
        '  with metrics.MetricLogger(sys.argv[1], stage="teacher",'
        ' num_steps=1000, log_every=1) as logger:\n'
        '    for step in range(1000):\n'
        '      logger.push(step, {"loss": 1.0})\n'
        'except errors.UserError as error:\n'
        '  print(error)\n'
    )
    output, _ = run_python(code, self.workdir).communicate(timeout=60)
    self.assertIn(f'cannot write {self.workdir}/metrics.jsonl', output)

  @parameterized.parameters(math.nan, math.inf, -math.inf)
  def test_a_loss_that_is_not_finite_ends_the_run_one_push_later(self, value):
    logger = self.logger()
    logger.push(0, {'loss': jnp.float32(1)})
    logger.push(1, {'critic/loss': jnp.float32(value)})
    with self.assertRaisesRegex(
        metrics.NonFiniteLoss, r'teacher: critic/loss is -?(nan|inf) at step 1'
    ):
      logger.push(2, {'loss': jnp.float32(1)})
    logger.close()
    self.assertIsNone(self.records()[1]['critic/loss'])
    self.assertTrue(issubclass(metrics.NonFiniteLoss, errors.UserError))

  def test_the_advice_names_the_key_and_the_folder_of_the_stage(self):
    for name, key in (
        ('grad_norm', 'config.teacher.optimizer'),
        ('teacher/loss', 'config.teacher.optimizer'),
        ('critic/grad_norm', 'config.teacher.critic.optimizer'),
    ):
      logger = self.logger()
      logger.push(0, {name: jnp.float32(jnp.inf)})
      with self.assertRaisesRegex(
          metrics.NonFiniteLoss,
          f'{name} is inf .* Lower {key}.learning_rate and remove '
          f'{self.workdir}/teacher ',
      ):
        logger.close()

  def test_a_loss_is_named_before_its_gradient(self):
    logger = self.logger()
    logger.push(0, {'grad_norm': jnp.nan, 'loss': jnp.nan})
    with self.assertRaisesRegex(metrics.NonFiniteLoss, 'teacher: loss is nan'):
      logger.close()

  def test_a_stage_that_is_done_does_not_say_that_it_resumes(self):
    for first, said in (0, ''), (4, 'resumes at step 4 of 10'), (10, 'is done'):
      self.stream = io.StringIO()
      self.logger(first_step=first).close()
      self.assertEqual(self.stream.getvalue().partition(' ')[2].strip(), said)

  def test_a_last_loss_that_is_not_finite_is_found_by_closing(self):
    logger = self.logger()
    logger.push(9, {'loss': jnp.float32(jnp.nan)})
    with self.assertRaisesRegex(metrics.NonFiniteLoss, 'at step 9'):
      logger.close()

  def test_another_metric_may_be_nan_and_becomes_null(self):
    with self.logger() as logger:
      logger.push(0, {'loss': jnp.float32(1), 'snr': jnp.float32(jnp.nan)})
    self.assertIsNone(self.records()[0]['snr'])

  def test_the_compiling_step_and_pauses_are_not_in_the_rate(self):
    with self.logger(log_every=5, tokens_per_step=100) as logger:
      time.sleep(0.5)  # As if step 0 compiled.
      for step in range(10):
        logger.push(step, {'loss': jnp.float32(step)})
        time.sleep(0.01)
        if step == 6:
          with logger.paused():
            time.sleep(0.5)
    self.assertNotIn('seconds_per_step', self.records()[0])
    for record in self.records()[1:]:
      # Half of what one counted pause would add to five steps.
      self.assertBetween(record['seconds_per_step'], 0.009, 0.05)
      self.assertAlmostEqual(
          record['tokens_per_second'] * record['seconds_per_step'], 100, 4
      )

  def test_mfu_is_the_share_of_all_devices_peak(self):
    self.run_steps(range(10), flops_per_step=3e6, peak_flops=1e9)
    last = self.records()[-1]
    self.assertAlmostEqual(
        last['mfu'],
        last['flops_per_second'] / (1e9 * jax.device_count()),
        places=6,
    )

  def test_without_a_known_peak_there_is_no_mfu(self):
    self.run_steps(range(10), flops_per_step=3e6)
    self.assertIn('flops_per_second', self.records()[-1])
    self.assertNotIn('mfu', self.records()[-1])

  def test_arrays_and_names_of_our_own_columns_are_refused(self):
    logger = self.logger()
    with self.assertRaisesRegex(ValueError, "'step'"):
      logger.push(0, {'step': 1.0})
    logger.push(0, {'per_frame': jnp.zeros(3)})
    with self.assertRaisesRegex(ValueError, r'per_frame has shape \(3,\)'):
      logger.close()

  def test_steps_must_come_in_order(self):
    with self.logger() as logger:
      logger.push(3, {'loss': 1.0})
      with self.assertRaisesRegex(ValueError, 'step 3 was pushed after 3'):
        logger.push(3, {'loss': 1.0})

  def test_an_error_in_the_loop_is_not_hidden_by_the_log(self):
    with self.assertRaisesRegex(KeyError, 'from the loop'):
      with self.logger() as logger:
        logger.push(0, {'loss': jnp.float32(jnp.nan)})
        raise KeyError('from the loop')

  def test_the_terminal_line_has_units_and_short_names(self):
    with self.logger(tokens_per_step=1440, flops_per_step=1e9) as logger:
      for step in range(10):
        logger.push(step, {'grad_norm': 1.234, 'loss': 0.04312})
        time.sleep(0.01)
    last = self.stream.getvalue().splitlines()[-1]
    self.assertRegex(
        last,
        r'^teacher      \[#{10}\]  10/10  loss 0\.0431  grad 1\.23  .*s/step'
        r'  .*k tok/s  .* GFLOP/s  mem [\d.]+/\d+ GiB  took 00:0\d$',
    )
    self.assertTrue(last.isascii())


class DeviceTest(parameterized.TestCase):

  @parameterized.parameters(
      ('NVIDIA H100 80GB HBM3', 989e12),
      ('NVIDIA H100 PCIe', 756e12),
      ('NVIDIA H200', 989e12),
      ('NVIDIA A100-SXM4-40GB', 312e12),
      ('TPU v4', 275e12),
      ('TPU v5 lite', 197e12),
      ('TPU v5', 459e12),
      ('TPU v5p', 459e12),
      ('TPU v6 lite', 918e12),
      ('cpu', None),
  )
  def test_peak_is_known_by_the_name_that_jax_gives(self, kind, flops):
    self.assertEqual(metrics.device_peak_flops(kind), flops)

  def test_memory_in_use_is_less_than_there_is(self):
    used, total = metrics.memory()
    self.assertBetween(used, 2**20, total)


if __name__ == '__main__':
  absltest.main()

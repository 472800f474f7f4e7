"""The command line as a user meets it: real processes, real exit codes."""

import os
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import pytest


def run_main(*flags, timeout=120):
  """Runs the entry point; returns the finished process with its text."""
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return subprocess.run(
      [sys.executable, '-m', 'worldsim_jax.main', *flags], timeout=timeout,
      env=environment, text=True, capture_output=True, check=False)


QUICKSTART = '--config=configs/quickstart.py:smoke'


@pytest.mark.slow
class BadInputTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ('unknown_key', [QUICKSTART, '--config.model.dimm=3'],
       "--config has no key 'dimm'; its file lists them (did you mean 'dim'?)"),
      ('key_of_an_unknown_stage',
       [QUICKSTART, '--config.teachers.shots=1'],
       "--config has no key 'teachers'; its file lists them (did you mean "
       "'teacher'?)"),
      ('beyond_a_tuple', [QUICKSTART, '--config.student.timesteps[9]=1'],
       'cannot read the flags: tuple index out of range'),
      ('unknown_mode', ['--mode=fly'], '--mode=fly is not one of train'),
      ('unknown_flag', ['--workdirr=x'], 'workdirr'),
      ('unknown_config_argument', ['--config=configs/quickstart.py:huge'],
       "'huge' is not one of: smoke"),
      ('missing_config', ['--config=configs/nothing.py'], 'configs/nothing.py'),
      ('value_of_another_type', [QUICKSTART, '--config.seed=abc'], 'abc'),
      ('no_workdir', [QUICKSTART], '--mode=train needs --workdir'),
      ('chunk_does_not_divide', [QUICKSTART, '--config.student.chunk=3'],
       'config.student.chunk=3 must divide config.student.context_frames=2'),
      ('unknown_stage', [QUICKSTART, "--config.stages=('warp',)"], 'warp'),
      ('evaluated_teacher', [
          QUICKSTART, "--config.stages=('tokenizer',)",
          '--config.evaluate.teacher=nonsense'],
       "config.evaluate.teacher='nonsense' is not a model among"),
      ('nothing_to_evaluate', [QUICKSTART, '--mode=evaluate'],
       "'tokenizer' is not trained in --workdir="),
      ('size_not_divisible', [QUICKSTART, '--config.data.height=50'],
       'config.data.height=50 must be a multiple of'),
      ('heads_do_not_divide', [QUICKSTART, '--config.model.num_heads=5'],
       'config.model.num_heads=5'),
      ('nothing_to_sample', ['--mode=sample', '--workdir=/nonexistent'],
       'no world here'),
      ('other_urls', [QUICKSTART, '--workdir=s3://bucket/run'],
       's3://bucket/run: only URLs of gs:// can be used'),
      ('half_a_run', [QUICKSTART, '--coordinator=h:1'],
       '--num_processes and --process_id missing'),
      ('bad_action', ['--mode=sample', '--workdir=x', '--actions=fly*3'],
       "'fly*3'"),
  )
  def test_is_one_line_that_names_it_and_exit_code_2(self, flags, said):
    folder = self.create_tempdir().full_path
    workdir = [] if any('workdir' in f for f in flags) or said.endswith(
        'needs --workdir') else [f'--workdir={folder}/run']
    done = run_main(*flags, *workdir)
    self.assertEqual(done.returncode, 2, done.stderr)
    lines = [l for l in done.stderr.splitlines() if l.startswith('error: ')]
    self.assertLen(lines, 1, done.stderr)
    self.assertIn(said, lines[0])
    self.assertNotIn('Traceback', done.stderr)
    self.assertEmpty(os.listdir(folder))

  def test_a_workdir_that_cannot_be_written_is_named(self):
    done = run_main(QUICKSTART, '--workdir=/proc/here')
    self.assertEqual(done.returncode, 2)
    self.assertIn('--workdir=/proc/here cannot be written', done.stderr)


if __name__ == '__main__':
  absltest.main()

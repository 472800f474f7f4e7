"""Jobs keep their order, and a worker that dies is mourned in one line."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from worldsim_jax.data import workers
from worldsim_jax.errors import UserError


def square(number):
  return number**2


def die(how, words):
  """Ends its process by a signal, or an exit code; 0 lives."""
  print(words, file=sys.stderr, flush=True)
  if how < 0:
    os.kill(os.getpid(), -how)
  if how > 0:
    os._exit(how)
  return words


def start_another(note, how=0):
  """Notes the id of a process that does not mind whose child it is."""
  pathlib.Path(note).write_text(str(subprocess.Popen(['sleep', '600']).pid))
  if how:
    os.kill(os.getpid(), how)
  time.sleep(600)


def is_running(pid):
  """Whether there is such a process that is more than a line in a table."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return False
  return stat.rpartition(')')[2].split()[0] not in 'XZ'


def refuse(name):
  raise UserError(f'{name} is refused')


class WorkersTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.note = os.path.join(self.create_tempdir().full_path, 'note')

  @parameterized.parameters(0, 2)
  def test_results_come_in_the_order_of_the_jobs(self, num_workers):
    jobs = ((k,) for k in range(9))
    found = list(workers.run(square, jobs, num_workers))
    self.assertEqual(found, [k**2 for k in range(9)])

  def test_what_a_job_raises_is_raised_here(self):
    with self.assertRaisesRegex(UserError, 'gen:1 is refused'):
      list(workers.run(refuse, [('gen:1',)], 1))

  @parameterized.parameters(
      (-signal.SIGSEGV, r'at gen:1 \(SIGSEGV; its last words: no such .dir\)'),
      (3, r'at gen:1 \(exit code 3; its last words: no such .dir\)'),
      (-signal.SIGKILL, 'killed, .* lower config.data.num_workers'),
  )
  def test_a_death_is_one_line_with_the_last_words(self, how, said):
    folder = self.create_tempdir().full_path
    jobs = [(how, 'no such\n  /dir\n'), (0, 'fine')]
    with mock.patch.object(tempfile, 'tempdir', folder):
      with self.assertRaisesRegex(UserError, said) as caught:
        list(workers.run(die, jobs, 1, name_of=lambda job: f'gen:{len(job)-1}'))
    self.assertNotIn('\n', str(caught.exception))
    self.assertEmpty(os.listdir(folder))
    self.assertEmpty(multiprocessing.active_children())

  def test_a_reader_who_stops_early_leaves_no_process(self):
    results = workers.run(square, ((k,) for k in range(99)), 2)
    self.assertEqual(next(results), 0)
    results.close()
    self.assertEmpty(multiprocessing.active_children())

  def test_what_workers_have_started_does_not_outlive_this_process(self):
    code = ('import sys\n'
            'from tests.data import workers_test as t\n'
            'if __name__ == "__main__":\n'
            '  list(t.workers.run(t.start_another, [(sys.argv[1],)], 1))\n')
    script = self.create_tempfile('script.py', code).full_path
    with subprocess.Popen(
        [sys.executable, script, self.note], text=True, stdout=subprocess.PIPE,
        env=os.environ | {'PYTHONPATH': os.getcwd()}) as process:
      self.wait_for_note()
      process.kill()
      # The pipe's end: all who hold it are gone.
      process.communicate(timeout=60)
    self.assertGone()

  def test_nor_a_worker_that_is_killed(self):
    with self.assertRaisesRegex(UserError, 'killed, maybe for want of memory'):
      list(workers.run(start_another, [(self.note, signal.SIGKILL)], 1))
    self.assertGone()

  def test_whoever_is_interrupted_does_not_wait_for_jobs(self):
    def interrupt(*unused):
      raise InterruptedError('told to stop')

    self.addCleanup(signal.signal, signal.SIGUSR1,
                    signal.signal(signal.SIGUSR1, interrupt))
    def when_it_is_at_work():
      self.wait_for_note()
      os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=when_it_is_at_work).start()
    with self.assertRaisesRegex(InterruptedError, 'told to stop'):
      list(workers.run(start_another, [(self.note,)] * 3, 1))
    self.assertGone()
    self.assertEmpty(multiprocessing.active_children())

  def wait_for_note(self):
    while not os.path.exists(self.note) or not pathlib.Path(
        self.note).read_text():
      time.sleep(.02)

  def assertGone(self):
    """The process that was noted has ended, or does so at once."""
    pid = int(pathlib.Path(self.note).read_text())
    self.addCleanup(subprocess.run, ['kill', '-9', str(pid)], check=False,
                    stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while is_running(pid):
      self.assertLess(time.monotonic(), end, f'process {pid} lives on')
      time.sleep(.02)


if __name__ == '__main__':
  absltest.main()

"""Signals become an exception, or wait until the loop has saved."""

import os
import signal
import subprocess
import sys
import threading
import time

from absl.testing import absltest
import jax
import pytest

from worldsim_jax.errors import Preempted
from worldsim_jax.errors import PREEMPTED
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.parallel import preemption


def send(number):
  """A signal to this process, which Python has seen when this returns."""
  os.kill(os.getpid(), number)
  time.sleep(.01)


class PreemptionTest(absltest.TestCase):

  def test_sigterm_and_the_first_ctrl_c_raise_where_the_program_is(self):
    for number in (signal.SIGTERM, signal.SIGINT):
      with self.assertRaisesRegex(Preempted, signal.Signals(number).name):
        with preemption.handled():
          send(number)
          self.fail('went on')

  def test_handlers_are_as_before_afterwards(self):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with self.assertRaises(Preempted), preemption.handled():
      self.assertNotEqual(signal.getsignal(signal.SIGTERM), before[0])
      send(signal.SIGTERM)
    self.assertEqual(preemption.requested(), '')
    self.assertEqual(
        (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)),
        before)

  def test_a_loop_ends_its_step_first(self):
    one = meshes.make_mesh(devices=jax.devices()[:1])
    done = []
    with self.assertRaises(Preempted), preemption.handled():
      stop_sign = preemption.StopSign(one)
      with preemption.deferred():
        self.assertFalse(stop_sign.is_up())
        send(signal.SIGTERM)
        done.append('step')
        self.assertTrue(stop_sign.is_up())
        done.append('save')
      done.append('went on')
    self.assertEqual(done, ['step', 'save'])

  def test_cleaning_up_is_not_interrupted_but_by_ctrl_c_again(self):
    done = []
    with self.assertRaises(KeyboardInterrupt), preemption.handled():
      try:
        send(signal.SIGTERM)
      finally:
        send(signal.SIGTERM)
        done.append('cleaned up')
        send(signal.SIGINT)
        done.append('went on')
    self.assertEqual(done, ['cleaned up'])

  def test_where_an_exception_would_be_dropped_it_is_raised_a_moment_later(
      self):
    class Freed:

      def __del__(self):
        send(signal.SIGTERM)

    done = []
    with self.assertRaises(Preempted), preemption.handled():
      Freed()
      done.append('freed')
      time.sleep(30)
      done.append('went on')
    self.assertEqual(done, ['freed'])

  def test_other_threads_leave_signals_alone(self):
    handlers = []

    def run():
      with preemption.handled():
        handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    self.assertEqual(handlers, [signal.getsignal(signal.SIGTERM)])

  @pytest.mark.slow
  def test_what_cannot_be_interrupted_ends_with_the_process(self):
    # A very slow hash keeps the main thread in C, as a compilation does.
    code = (
        'import hashlib\n'
        'from worldsim_jax.parallel import preemption\n'
        'preemption.SECONDS_TO_END = .5\n'
        'with preemption.handled():\n'
        '  print("ready", flush=True)\n'
        '  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)\n')
    process = subprocess.Popen(
        [sys.executable, '-c', code], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)})
    self.assertEqual(process.stdout.readline(), 'ready\n')
    time.sleep(.5)  # Until it is in C.
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    self.assertEqual(process.returncode, PREEMPTED)
    self.assertIn('preempted: told to stop by SIGTERM', said)


if __name__ == '__main__':
  absltest.main()

"""Starts several processes on this machine and sees how each of them ends."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np

DEVICES = 4  # Of all processes together.
PROGRAM = [sys.executable, '-m', 'tests.distributed.program']
ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port() -> int:
  with socket.create_server(('localhost', 0)) as server:
    return server.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
  """Of a process with so many devices."""
  flags = [flag for flag in os.environ['XLA_FLAGS'].split()
           if 'device_count' not in flag]
  flags.append(f'--xla_force_host_platform_device_count={devices}')
  return os.environ | {'XLA_FLAGS': ' '.join(flags), 'PYTHONPATH': str(ROOT)}


class Run:
  """`count` processes of tests/distributed/program.py.

  Args:
    workdir: of all of them.
    count: how many share DEVICES.
    started: how many of them are started; default: all.
    **options: of the program.
  """

  def __init__(self, workdir, count, started=None, num_steps=12, start=(),
               **options):
    self.workdir = pathlib.Path(workdir)
    self.workdir.mkdir(exist_ok=True)
    (self.workdir / 'started').unlink(missing_ok=True)
    options |= {'workdir': str(workdir), 'num_steps': num_steps}
    port, self.processes = free_port(), []
    for index in range(count if started is None else started):
      options['start'] = {
          'coordinator': f'localhost:{port}', 'num_processes': count,
          'process_id': index} | dict(start) if count > 1 else {}
      self.processes.append(subprocess.Popen(
          [*PROGRAM, json.dumps(options)], text=True, cwd=ROOT,
          env=environment(DEVICES // count), stdout=subprocess.PIPE,
          stderr=subprocess.PIPE))

  def wait_for_start(self):
    self._wait(lambda: (self.workdir / 'started').exists())

  def wait_for_step(self, step: int):
    """Until so many steps are logged."""
    self._wait(lambda: len(losses(self.workdir)) > step)

  def _wait(self, condition):
    end = time.monotonic() + 120
    while not condition():
      for process in self.processes:
        assert process.poll() is None, process.communicate()
      assert time.monotonic() < end, 'nothing happens'
      time.sleep(.02)

  def signal(self, number, *indices):
    for index in indices:
      self.processes[index].send_signal(number)

  def end(self, *indices, timeout=120):
    """[(exit code, stdout, our lines of stderr)] of these, or of all."""
    ends = []
    for index in indices or range(len(self.processes)):
      process = self.processes[index]
      out, err = process.communicate(timeout=timeout)
      lines = [line for line in err.splitlines()
               if line.startswith(('error: ', 'preempted: '))]
      ends.append((process.returncode, out, lines or [err[-2000:]]))
    return ends

  def close(self):
    """Ends what a failed test has left."""
    for process in self.processes:
      if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def losses(workdir) -> list[float]:
  """Logged so far, in the order of the file; every step is there once."""
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  if not path.exists():
    return []
  lines = [line for line in path.read_text().splitlines() if line[-1] == '}']
  return [json.loads(line)['loss'] for line in lines]


def params(workdir) -> np.ndarray:
  return np.load(pathlib.Path(workdir) / 'params.npy')

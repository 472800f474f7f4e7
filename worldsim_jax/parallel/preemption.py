"""Stopping in order: SIGTERM, or Ctrl-C once.

Whoever takes a machine away (a scheduler, a spot market, a user) sends SIGTERM
and grants half a minute or so. Inside the training loop the signal is noted,
the step is finished and saved. Elsewhere `Preempted` is raised where the
program happens to be; all that it writes appears complete or not at all.

  with preemption.handled():
    ...                              # Preempted may be raised here
    with preemption.deferred():
      while not stop_sign.is_up():   # but not here
        step()

Processes that train together must save at the same step: their `StopSign`s are
a collective of their own, one number per device, read one step late like the
metrics.
"""

import contextlib
import gc
import os
import signal
import socket
import threading

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from worldsim_jax.errors import Preempted
from worldsim_jax.errors import PREEMPTED
from worldsim_jax.parallel import distributed

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# For what cannot be interrupted, say a compilation, before the process ends
# all the same.
SECONDS_TO_END = 10.


class _Noted:
  """What the handler knows; one for the process, as signals are."""

  def __init__(self):
    self.signal_name = ''  # Of the first signal that came.
    self.deferrals = 0


_noted = _Noted()


def requested() -> str:
  """The name of the signal that told this process to stop, or ''."""
  return _noted.signal_name


@contextlib.contextmanager
def handled():
  """Turns the signals into `Preempted`; does nothing outside the main thread.

  A second Ctrl-C is an ordinary one.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.signal(number, _handle) for number in SIGNALS}
  # Python runs handlers between two instructions of its own. The file is
  # written to at once, even while C++ compiles for minutes.
  ours, theirs = socket.socketpair()
  theirs.setblocking(False)
  file_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
  threading.Thread(target=_end_if_stuck, args=(ours,), daemon=True).start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(file_before)
    for number, handler in before.items():
      signal.signal(number, handler)
    theirs.close()
    _noted.__init__()


@contextlib.contextmanager
def deferred():
  """Inside, signals are only noted; raises `Preempted` at the end if one was.

  Whoever is inside asks `requested()`, or a `StopSign`, and ends soon.
  """
  _noted.deferrals += 1
  try:
    yield
  finally:
    _noted.deferrals -= 1
  if requested() and not _noted.deferrals:
    raise Preempted(_told(requested()))


class StopSign:
  """Whether to stop, which all processes of a mesh learn at the same step."""

  def __init__(self, mesh):
    everywhere = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    self._sharding = None if everywhere.is_fully_addressable else everywhere
    self._count = mesh.devices.size
    self._any = jax.jit(
        jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
    self._last = None

  def is_up(self) -> bool:
    """To be called once after every step, by all processes."""
    if self._sharding is None:
      return bool(requested())
    own = np.full(self._count, bool(requested()), np.int32)
    flags = jax.make_array_from_callback(
        own.shape, self._sharding, lambda index: own[index])
    # The number of the step before is there by now: nobody waits for it.
    last, self._last = self._last, self._any(flags)
    return last is not None and bool(last)


def _handle(number, frame):
  if _swallows(frame):
    threading.Timer(.02, os.kill, (os.getpid(), number)).start()
    return
  if requested():
    if number == signal.SIGINT:
      raise KeyboardInterrupt
    return  # Cleaning up is not interrupted.
  _noted.signal_name = signal.Signals(number).name
  if not _noted.deferrals:
    raise Preempted(_told(requested()))


def _swallows(frame) -> bool:
  """Whether Python would drop an exception: it does where it frees memory."""
  callbacks = {getattr(callback, '__code__', None) for callback in gc.callbacks}
  while frame is not None:
    if frame.f_code in callbacks or frame.f_code.co_name == '__del__':
      return True
    frame = frame.f_back
  return False


def _told(name: str) -> str:
  return (f'told to stop by {name} outside of a training loop; the same '
          'command resumes.')


def _end_if_stuck(file):
  """Ends the process some time after a signal if the main thread does not."""
  with file:
    while signals := file.recv(1):
      # In the loop it ends with its step.
      if signals[0] not in SIGNALS or _noted.deferrals:
        continue
      file.settimeout(SECONDS_TO_END)
      with contextlib.suppress(TimeoutError):
        while file.recv(1):
          pass
        return  # The other end was closed: the main thread was in time.
      # The handler, which notes the name, waits for the main thread.
      name = signal.Signals(signals[0]).name
      os._exit(distributed.last_words(
          PREEMPTED, f'preempted: {_told(name)}'))

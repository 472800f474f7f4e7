"""Several processes as one run: start, wait for each other, end together.

The same command is started on every host. Who the others are is told by the
environment (a TPU pod's metadata, SLURM, Kubernetes) or by three flags; a
process that is alone does nothing of all this. Process 0 prints and writes the
results, all of them train and save.
"""

import concurrent.futures
import contextlib
import itertools
import logging
import os
import re
import socket
import sys
import threading
import time
import uuid

import jax
from jax.experimental import multihost_utils
import numpy as np

from worldsim_jax.errors import LOST_HOST
from worldsim_jax.errors import UserError
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.parallel import peers

# Rendering a world takes hours where it takes minutes here; a process that is
# lost meanwhile is noticed by `peers`, not by this.
_SECONDS_AT_A_BARRIER = 24 * 3600
_SECONDS_FOR_NEWS = 1.
_SECONDS_TO_DETECT = 30.
# How XLA, JAX and gloo say that another process did not answer.
_NO_ANSWER = re.compile(
    'gloo|coordination|barrier|heartbeat|UNAVAILABLE|Connection (closed|reset)',
    re.IGNORECASE)


class _Run:
  """What this process knows of the others; None while it is alone."""
  peers = None
  heartbeat = 30.
  numbers = itertools.count()  # Of barriers and tokens, equal in all processes.


def start(coordinator: str | None = None, num_processes: int | None = None,
          process_id: int | None = None, *, detect: bool = True,
          heartbeat_seconds: float = 30., connect_seconds: float = 300.):
  """Joins the run, or returns at once if there is one process only.

  To be called before JAX is asked for devices.

  Args:
    coordinator: host:port of process 0; with it come the next two.
    num_processes: of the run.
    process_id: of this one, from 0.
    detect: whether to ask the environment if they are not given.
    heartbeat_seconds: without a sign of life, after which a host is lost.
    connect_seconds: to wait for the others.

  Raises:
    UserError: if the arguments cannot be.
  """
  given = _checked(coordinator, num_processes, process_id)
  if heartbeat_seconds < 5:
    raise UserError(f'--heartbeat_seconds={heartbeat_seconds:g} must be at '
                    'least 5: a busy host needs a moment to answer.')
  if given is None and detect:
    given = _detected(connect_seconds)
  if given is None or given[1] == 1:
    return
  coordinator, count, index, *_ = given
  _check_address(coordinator, index)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  # It would take SIGTERM away from parallel/preemption.py.
  jax.config.update('jax_enable_preemption_service', False)
  problem = (f'error: process {index}: not all of {count} processes came to '
             f'{coordinator} within {connect_seconds:g} s; start the same '
             'command on all hosts, each with its own --process_id.')
  peers.speak_before_abort(lambda: _at_abort(problem))
  jax.distributed.initialize(
      *given, initialization_timeout=int(connect_seconds),
      heartbeat_timeout_seconds=int(heartbeat_seconds),
      shutdown_timeout_seconds=int(heartbeat_seconds))
  _Run.heartbeat = heartbeat_seconds
  host = coordinator.rpartition(':')[0].strip('[]')
  _Run.peers = _connect(index, count, host, connect_seconds)
  if index:
    _be_quiet()


def has_others() -> bool:
  """Whether this process is one of several."""
  return _Run.peers is not None


def is_main() -> bool:
  """Whether this process prints and writes the results."""
  return jax.process_index() == 0


def barrier(what: str):
  """Waits for all processes, for hours if need be; `what` is for errors."""
  if _Run.peers:
    name = f'worldsim/{what}/{next(_Run.numbers)}'
    _interruptibly(
        _client().wait_at_barrier, name, 1000 * _SECONDS_AT_A_BARRIER)


def same_everywhere(tree):
  """Process 0's values, in all processes.

  For what each computes from data of its own disk: hosts may round differently.
  """
  if not _Run.peers:
    return tree
  tree = jax.tree.map(np.asarray, meshes.fetch(tree))
  return multihost_utils.broadcast_one_to_all(tree)


def sees_main(directory) -> bool:
  """Whether a folder is the one that process 0 sees under this name.

  To be called by all processes; it must exist.
  """
  if not _Run.peers:
    return True
  key = f'worldsim/token/{next(_Run.numbers)}'
  if is_main():
    _client().key_value_set(key, uuid.uuid4().hex)
  token = _interruptibly(
      _client().blocking_key_value_get, key, 1000 * _SECONDS_AT_A_BARRIER)
  path = os.path.join(os.fspath(directory), f'.seen-by-all-{token}')
  if is_main():
    with open(path, 'x', encoding='utf-8'):
      pass
  barrier('written')
  try:
    return os.path.exists(path)
  finally:
    barrier('looked')
    if is_main():
      os.remove(path)


def in_order(make, directory):
  """make(), by process 0 first for processes that share its folder.

  Processes with a disk of their own make it at the same time. All of them
  return when all are done, however long that takes.
  """
  if not _Run.peers:
    return make()
  os.makedirs(directory, exist_ok=True)
  barrier('folder')
  if sees_main(directory) and not is_main():
    barrier('made')
    return make()  # It finds what process 0 has made.
  made = make()
  barrier('made')
  return made


@contextlib.contextmanager
def progress(tell):
  """Inside, a line about a lost host ends with tell()."""
  if not _Run.peers:
    yield
    return
  before, _Run.peers.progress = _Run.peers.progress, tell
  yield  # After an exception it is still so.
  _Run.peers.progress = before


def share(num_processes: int | None = None, process_id: int | None = None,
          detect: bool = True) -> tuple[int, int]:
  """(index, count) of this process, for work that needs no connection.

  Args:
    num_processes, process_id: from flags, given together.
    detect: whether the environment is asked where there are none.

  Raises:
    UserError: if they do not go together.
  """
  if num_processes is None and process_id is None:
    found = _detected(_SECONDS_TO_DETECT) if detect else None
    return (found[2], found[1]) if found else (0, 1)
  if num_processes is None or process_id is None:
    raise UserError('--num_processes and --process_id are given together.')
  if not 0 <= process_id < num_processes:
    raise UserError(f'--process_id={process_id} must be from 0 to '
                    f'--num_processes={num_processes} - 1.')
  return process_id, num_processes


def stop():
  """Ends the run where all processes do; waits for them."""
  if _Run.peers:
    barrier('end')
    _Run.peers.done()
    jax.distributed.shutdown()
    _Run.peers = None


def leave(code: int, line: str):
  """Prints the line and ends; if others are still at work, they are told.

  Args:
    code: for the system.
    line: what is printed, say 'error: ...'.
  """
  code = last_words(code, line)
  if jax.distributed.is_initialized():
    os._exit(code)  # Not through JAX, which would wait for the others.
  sys.exit(code)


def last_words(code: int, line: str) -> int:
  """As `leave`, but returns the code to end with."""
  kind, _, why = line.partition(': ')
  if _Run.peers:
    if _Run.peers.ends_with is not None:  # All is said.
      _Run.peers.let_others_end()
      return _Run.peers.ends_with
    _wait_for_news(why)
    if _NO_ANSWER.search(why):
      code, line = LOST_HOST, _Run.peers.lost(
          f'another process did not answer ({why[:200]})')
    else:
      line = f'{kind}: process {jax.process_index()}: {why}'
  with contextlib.suppress(OSError):
    sys.stdout.flush()
  print(line, file=sys.stderr, flush=True)
  if _Run.peers:
    _Run.peers.leave(code, why)
  return code


def _wait_for_news(why: str):
  """Of another process, which then end this one with a better reason."""
  is_their_fault = _NO_ANSWER.search(why)
  time.sleep(_Run.heartbeat + 5 if is_their_fault else _SECONDS_FOR_NEWS)


def _interruptibly(function, *args):
  """function(*args) in a thread: signals are handled while it waits in C++."""
  future = concurrent.futures.Future()

  def run():
    try:
      future.set_result(function(*args))
    except Exception as e:  # It is raised where it is waited for.
      future.set_exception(e)

  threading.Thread(target=run, daemon=True).start()
  return future.result()


def _client():
  """JAX's connection to its coordination service, which it does not export."""
  from jax._src import distributed

  return distributed.global_state.client


def _at_abort(problem: str) -> tuple[int, str]:
  if _Run.peers is None:
    return LOST_HOST, problem
  # JAX may be the first to notice; our connections tell who it was.
  end = time.monotonic() + _SECONDS_FOR_NEWS
  while _Run.peers.ends_with is None and time.monotonic() < end:
    time.sleep(.05)
  if _Run.peers.ends_with is not None:  # All is said.
    return _Run.peers.ends_with, ''
  return LOST_HOST, _Run.peers.lost(
      'another process was lost, as JAX says above')


def _connect(index, count, host, connect_seconds) -> peers.Peers:
  client, key = _client(), 'worldsim/peers'
  try:
    return peers.Peers(
        index, count, host, lambda text: client.key_value_set(key, text),
        lambda: client.blocking_key_value_get(key, int(1000 * connect_seconds)),
        _Run.heartbeat)
  except OSError as e:
    raise UserError(
        f'process {index}: no connection between the hosts but that to '
        f'--coordinator ({e}); open all ports of process 0, {host}, to the '
        'others.') from e


def _checked(coordinator, num_processes, process_id):
  """The three flags, or None if there are none."""
  flags = {'coordinator': coordinator, 'num_processes': num_processes,
           'process_id': process_id}
  missing = [f'--{name}' for name, value in flags.items() if value is None]
  if len(missing) == len(flags):
    return None
  if missing:
    raise UserError(f'{" and ".join(missing)} missing: --coordinator, '
                    '--num_processes and --process_id are given together, or '
                    'none of them.')
  if not re.fullmatch(r'.+:\d+', coordinator):
    raise UserError(f'--coordinator={coordinator} must be host:port, of '
                    'process 0.')
  share(num_processes, process_id)
  return coordinator, num_processes, process_id


def _check_address(coordinator: str, index: int):
  """What JAX would answer by a crash."""
  host, _, port = coordinator.rpartition(':')
  try:
    socket.getaddrinfo(host.strip('[]'), int(port))
    if not index:
      socket.create_server(('', int(port))).close()
  except (OSError, OverflowError) as e:
    raise UserError(
        f'--coordinator={coordinator} cannot be used here: {e}') from e


def _detected(timeout: float):
  """What the environment tells of the run; None if it tells of none."""
  from jax._src import clusters

  try:
    if not any(not c.opt_in_only_method and c.is_env_present()
               and c.get_process_count() > 1
               for c in clusters.ClusterEnv._cluster_types):
      return None
    return clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, int(timeout))
  except Exception as e:  # As many types as there are environments.
    raise UserError(
        'the environment does not tell who takes part in this run '
        f'({type(e).__name__}: {e}); --coordinator, --num_processes and '
        '--process_id do, and --distributed=off runs this process alone.'
    ) from e


def _be_quiet():
  """Leaves the terminal to process 0; errors are printed all the same."""
  sys.stdout = open(os.devnull, 'w', encoding='utf-8')
  for name in (None, 'absl'):
    logging.getLogger(name).setLevel(logging.ERROR)

"""A function over many jobs in processes that never outlive this one.

What a worker writes to its standard error goes to a file: it is its last words
if the worker dies, and nothing that a user should see if it does not.
"""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading

from worldsim_jax.errors import UserError

LAST_WORDS = 200  # characters


def run(function, jobs, num_workers: int, name_of=str):
  """Yields function(*job) in the order of the jobs.

  Args:
    function: of a module, as other processes must find it.
    jobs: tuples of arguments.
    num_workers: processes; 0 runs everything in this one.
    name_of: job -> what an error calls it.

  Raises:
    UserError: if a worker dies. What `function` raises is raised here.
  """
  if not num_workers:
    yield from (function(*job) for job in jobs)
    return
  others, workers = set(multiprocessing.active_children()), set()
  jobs, pending = collections.deque(jobs), collections.deque()
  with tempfile.TemporaryDirectory(prefix='worldsim_workers_') as folder:
    try:
      with _pool(num_workers, folder) as pool:
        try:
          while jobs or pending:
            # A short queue: results must not pile up if the disk is slow.
            while jobs and len(pending) < 2 * num_workers:
              job = jobs.popleft()
              pending.append((job, pool.submit(function, *job)))
              workers |= set(multiprocessing.active_children()) - others
            yield pending[0][1].result()
            pending.popleft()
        except concurrent.futures.process.BrokenProcessPool:
          raise
        except BaseException:  # What is in work is for nobody.
          _kill(set(multiprocessing.active_children()) - others)
          raise
    except concurrent.futures.process.BrokenProcessPool as e:
      # The jobs are begun in their order: these were in work, or next.
      names = [name_of(job) for job, _ in pending][:num_workers]
      at, why = ' or '.join(dict.fromkeys(names)), _obituary(workers, folder)
      _kill(workers)
      raise UserError(f'a worker process died at {at} ({why})') from e


def threads(function, items, num_threads: int):
  """Yields function(item) in order, for what waits for disks or networks."""
  pending = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    try:
      for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > 2 * num_threads:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    finally:
      for future in pending:
        future.cancel()


def _pool(num_workers, folder):
  # Spawned, not forked: this process may hold accelerator threads.
  return concurrent.futures.ProcessPoolExecutor(
      num_workers,
      multiprocessing.get_context('spawn'),
      initializer=_begin,
      initargs=(folder,),
  )


def _begin(folder):
  """The first thing that a worker does."""
  try:
    log = os.open(_log_of(folder, os.getpid()), os.O_WRONLY | os.O_CREAT)
  except FileNotFoundError:  # The parent has ended, and another worker saw it.
    os._exit(1)
  os.dup2(log, 2)
  os.close(log)
  # With a worker go the processes that it has started: an engine's ends with
  # its parent, but not in the first moments of its life.
  os.setpgrp()

  def watch():
    # A worker whose parent is killed would wait for jobs for ever.
    multiprocessing.parent_process().join()
    shutil.rmtree(folder, ignore_errors=True)
    os.kill(0, signal.SIGKILL)  # All of its group.

  threading.Thread(target=watch, daemon=True).start()


def _kill(workers):
  """Ends workers, and what they have started, even if they are dead."""
  for worker in workers:
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.killpg(worker.pid, signal.SIGKILL)
    worker.kill()  # Of one that has not begun there is no group.


def _log_of(folder, pid):
  return os.path.join(folder, f'{pid}.log')


def _obituary(workers, folder):
  """Of what the first worker died, and its last words."""
  # The pool ends the others by SIGTERM once one has died.
  dead = [w for w in workers if w.exitcode not in (None, 0, -signal.SIGTERM)]
  if not dead:
    return 'for an unknown reason'
  code = dead[0].exitcode
  if code == -signal.SIGKILL:
    return (
        'killed, maybe for want of memory: try a lower config.data.num_workers'
    )
  cause = signal.Signals(-code).name if code < 0 else f'exit code {code}'
  said = ''
  if os.path.exists(path := _log_of(folder, dead[0].pid)):
    with open(path, errors='replace') as f:
      said = ' '.join(f.read().split())[-LAST_WORDS:]
  return f'{cause}; its last words: {said or "none"}'

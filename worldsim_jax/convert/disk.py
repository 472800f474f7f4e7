"""Files that are large: room for them, and none of them half written."""

from collections.abc import Sequence
import contextlib
import fcntl
import os
import pathlib
import shutil

from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths


def local(path) -> pathlib.Path:
  """A path that can be written piece by piece.

  Raises:
    UserError: if it is in a bucket.
  """
  if paths.is_remote(path):
    raise UserError(f'{path}: weight files are written to a local folder only; '
                    'copy them from there')
  return pathlib.Path(path)


def check_space(path, needed: int):
  """Whether `needed` bytes can be written beside what is there.

  Raises:
    UserError: if they cannot.
  """
  folder = local(path).absolute()
  while not folder.exists():
    folder = folder.parent
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise UserError(f'{path} needs {_size(needed)} and {folder} has '
                    f'{_size(free)} free; nothing was written')


@contextlib.contextmanager
def replacing(targets: Sequence[pathlib.Path]):
  """Yields names to write to; they become the targets together, in order.

  Raises:
    UserError: if the disk refuses. Then, and after any other error, the targets
      are what they were.
  """
  temporary = [path.with_name(f'{path.name}.incomplete') for path in targets]
  try:
    for path in targets:
      path.parent.mkdir(parents=True, exist_ok=True)
    yield temporary
    for path, target in zip(temporary, targets):
      os.replace(path, target)
  except OSError as e:
    raise UserError(f'{targets[-1]} could not be written: '
                    f'{paths.first_line(e)}') from e
  finally:
    for path in temporary:
      with contextlib.suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def alone(target):
  """Keeps other processes of this machine from writing the same target.

  Raises:
    UserError: if one does so now.
  """
  if paths.is_remote(target):
    yield
    return
  target = pathlib.Path(os.path.abspath(target))
  lock = target.with_name(f'{target.name}.lock')
  target.parent.mkdir(parents=True, exist_ok=True)
  with open(lock, 'wb') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Till the process ends.
    except OSError as e:
      raise UserError(f'another process is writing {target}') from e
    try:
      yield
    finally:
      lock.unlink(missing_ok=True)


def _size(count: int) -> str:
  return f'{count / 1e9:.1f} GB' if count >= 1e8 else f'{count:,} bytes'

"""Where a run's files lie: in a local folder, or under gs://bucket/path.

Arrays reach a bucket through TensorStore's own driver, everything else through
etils.epath and gcsfs. What only a local file will do for (films, event files)
is written locally and copied; what must be read fast (records) stays local, in
`local_folder`.

An object of a bucket appears when it is complete, so writing one is atomic; a
folder of a bucket is only a common prefix, and renaming it is not.
"""

import contextlib
import functools
import logging
import os
import shutil
import sys
import tempfile

from etils import epath

from worldsim_jax.errors import UserError

_SCHEME = 'gs://'
# What only talking to a bucket raises, in the modules that do.
_REMOTE_ERRORS = (
    ('gcsfs.retry', 'HttpError'),
    ('aiohttp', 'ClientError'),
    ('requests', 'RequestException'),
    ('google.auth.exceptions', 'GoogleAuthError'),
    ('google.api_core.exceptions', 'GoogleAPIError'),
)


def is_remote(path) -> bool:
  return '://' in os.fspath(path)


def must_be_local(path, name: str):
  """Raises UserError, with the flag's name, for a URL."""
  if path and is_remote(path):
    raise UserError(f'{name}={path}: record sets are kept in folders only; '
                    'write to a disk and copy the set, or mount the bucket.')


def folder(path) -> epath.Path:
  """A path that can be read and written.

  Raises:
    UserError: if it is a URL of something else than gs://, or gcsfs is missing.
  """
  if is_remote(path):
    if not os.fspath(path).startswith(_SCHEME):
      raise UserError(f'{path}: only URLs of {_SCHEME} can be used.')
    _prepare_gcs()
  return epath.Path(path)


def absolute(path) -> epath.Path:
  """As `folder`; Orbax takes absolute paths only."""
  return folder(path if is_remote(path) else os.path.abspath(path))


def local_folder(workdir) -> str:
  """A run's folder on this machine: the workdir, or a cache of a remote one."""
  if not is_remote(workdir):
    return os.fspath(workdir)
  cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return os.path.join(
      cache, 'worldsim_jax', os.fspath(workdir).removeprefix(_SCHEME))


@contextlib.contextmanager
def local_file(path):
  """Yields a local path to write to; a remote file is made of it afterwards."""
  if not is_remote(path):
    yield os.fspath(path)
    return
  with tempfile.TemporaryDirectory() as temporary:
    local = os.path.join(temporary, os.path.basename(os.fspath(path)))
    yield local
    upload(local, path)


def upload(local: str, path):
  """Copies a local file into a bucket; other attempts are replaced."""
  with open(local, 'rb') as source, folder(path).open('wb') as target:
    shutil.copyfileobj(source, target, 2**24)


def write_text(path, text: str):
  """Replaces a file in one go: a reader sees the old text or the new."""
  path = folder(path)
  if is_remote(path):
    path.write_text(text)
    return
  temporary = path.with_name(f'{path.name}.tmp')
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary.write_text(text)
  temporary.replace(path)


def remote_errors() -> tuple[type[BaseException], ...]:
  """What may be raised by a bucket that cannot be reached, beside OSError."""
  modules = ((sys.modules.get(name), kind) for name, kind in _REMOTE_ERRORS)
  return tuple(getattr(module, kind) for module, kind in modules if module)


@contextlib.contextmanager
def named_errors(path):
  """What a bucket answers, or does not, becomes one line; for remote paths."""
  try:
    yield
  except UserError:
    raise
  except (OSError, *remote_errors()) as e:
    if path is None or not is_remote(path):
      raise
    raise UserError(f'{path} cannot be reached: {first_line(e)}') from e


def first_line(error: BaseException) -> str:
  if 'No space left' in str(error):
    return 'no space left on the device'
  line = (str(error).strip().splitlines() or [type(error).__name__])[0]
  # TensorStore's begin with what was tried and end with why not, and where.
  line = line.partition(' [source locations=')[0]
  return line if len(line) <= 300 else f'{line[:150]} ... {line[-150:]}'


@functools.cache
def _prepare_gcs():
  try:
    import fsspec
    import gcsfs  # pylint: disable=unused-import
  except ImportError as e:
    raise UserError(
        "gs:// paths need gcsfs: pip install 'worldsim_jax[gcs]'") from e
  # TensorStore writes past gcsfs, whose remembered listings would be wrong.
  fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False
  # It prints tracebacks of errors that it also raises.
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)

"""Checksums of a folder's files, so that damage is found before they are read.

`write` adds to a folder whose files are complete

  checksums.json   {"files": {"state/d/3705": [size, "crc32c"], ...}, ...}

and `check` finds the first file that is missing, has another size or another
content, or was not there. The checksum is CRC-32C because a bucket computes it
of every object by itself: there, both cost one listing and no reading. Locally
it runs at the speed of memory, on pages that were just written.

It finds accidents, not forgeries.
"""

from concurrent import futures
import base64
import hashlib
import json
import os

from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths

MANIFEST = 'checksums.json'
_READ_BYTES = 2**22
_READERS = 8  # Threads; a network file system answers many at once.


class Damaged(UserError):
  """A file is not as it was written."""


def write(folder, later=()):
  """Adds checksums.json.

  Args:
    folder: local or gs://; complete but for `later`.
    later: names of files that will still be written, and are not checked.
  """
  folder = paths.folder(folder)
  found = _listing(folder)
  for name in (MANIFEST, *later):
    found.pop(name, None)
  sums = _checksums(folder, found)
  files = {name: [size, sums[name]] for name, (size, _) in found.items()}
  content = {'files': files, 'later': sorted(later)}
  paths.write_text(
      folder / MANIFEST, json.dumps(content | {'crc32c': _crc_of(content)}))


def check(folder, under: str = '', share: tuple[int, int] = (0, 1),
          extra_files: bool = False):
  """Compares a folder with its checksums.json.

  Args:
    folder: local or gs://.
    under: the beginning of the names to check.
    share: (index, count); contents of every count-th file only, from index on.
    extra_files: whether files may have been added.

  Raises:
    Damaged: with the name of the first file that is not as it was.
  """
  folder = paths.folder(folder)
  try:
    _check(folder, under, share, extra_files)
  except OSError as e:  # A disk that gives a file back no more.
    if paths.is_remote(folder):
      raise
    raise Damaged(f'{e.filename or folder} cannot be read: {e.strerror}') from e


def fingerprint(folder) -> str:
  """Another one for a folder with other files, which are not read."""
  content = (paths.folder(folder) / MANIFEST).read_bytes()
  return hashlib.sha256(content).hexdigest()[:12]


def _check(folder, under, share, extra_files):
  content = _read_manifest(folder)
  expected = {name: entry for name, entry in content['files'].items()
              if name.startswith(under)}
  found = _listing(folder)
  for name, (size, _) in sorted(expected.items()):
    if name not in found:
      raise Damaged(f'{folder}/{name} is missing')
    if found[name][0] != size:
      raise Damaged(f'{folder}/{name} has {found[name][0]} bytes, not {size}')
  known = {MANIFEST, *content['later'], *content['files']}
  added = sorted(found.keys() - known)
  if added and not extra_files:
    raise Damaged(f'{folder}/{added[0]} does not belong there')
  index, count = share
  mine = sorted(expected)[index::count]
  sums = _checksums(folder, {name: found[name] for name in mine})
  for name in mine:
    if sums[name] != expected[name][1]:
      raise Damaged(f'{folder}/{name} is damaged: its checksum is '
                    f'{sums[name]}, not {expected[name][1]}')


def _read_manifest(folder) -> dict:
  path = folder / MANIFEST
  try:
    content = json.loads(path.read_text())
    crc = content.pop('crc32c')
  except FileNotFoundError as e:
    raise Damaged(f'{path} is missing') from e
  except (ValueError, AttributeError, KeyError, TypeError) as e:
    raise Damaged(f'{path} is damaged: {paths.first_line(e)}') from e
  if crc != _crc_of(content):
    raise Damaged(f'{path} is damaged: its checksum is {_crc_of(content)}, '
                  f'not {crc}')
  return content


def _crc_of(content: dict) -> str:
  return _hex(_crc32c().value(json.dumps(content, sort_keys=True).encode()))


def _listing(folder) -> dict[str, tuple[int, str | None]]:
  """(size, CRC-32C where the storage knows it) of all files, by name."""
  if paths.is_remote(folder):
    import fsspec  # `paths.folder` has looked for it.

    system, root = fsspec.core.url_to_fs(os.fspath(folder))
    return {path[len(root) + 1:]: (int(info['size']), _decoded(info))
            for path, info in system.find(root, detail=True).items()
            if not path.endswith('/')}
  found = {}
  for parent, _, names in os.walk(folder):
    for name in names:
      path = os.path.join(parent, name)
      relative = os.path.relpath(path, folder).replace(os.sep, '/')
      found[relative] = os.path.getsize(path), None
  return found


def _decoded(info) -> str | None:
  crc = info.get('crc32c')
  return crc and base64.b64decode(crc).hex()


def _checksums(folder, found) -> dict[str, str]:
  """By name; of files whose storage does not know them, by reading."""
  with futures.ThreadPoolExecutor(_READERS) as pool:
    sums = {name: crc or pool.submit(_read_crc, folder / name)
            for name, (_, crc) in found.items()}
    return {name: crc if isinstance(crc, str) else crc.result()
            for name, crc in sums.items()}


def _read_crc(path) -> str:
  crc32c, crc = _crc32c(), 0
  with path.open('rb') as file:
    while chunk := file.read(_READ_BYTES):
      crc = crc32c.extend(crc, chunk)
  return _hex(crc)


def _hex(crc: int) -> str:
  return f'{crc:08x}'


def _crc32c():
  import google_crc32c

  return google_crc32c

"""Files of torch.save (.pt, .pth, .ckpt), read and written without PyTorch.

Such a file is a zip archive, whose entries are not compressed:

  archive/data.pkl    the tree; `torch_pickle` reads it without running it
  archive/byteorder   'little'
  archive/data/0      the bytes of a storage, and so on
  archive/version     '3'

A tensor is thus a place in the file, and is read from there.
"""

import math
import struct
from typing import NamedTuple
import zipfile

from worldsim_jax.convert import disk
from worldsim_jax.convert import tensors
from worldsim_jax.convert import torch_pickle
from worldsim_jax.convert.tensors import short
from worldsim_jax.convert.tensors import Tensor
from worldsim_jax.convert.tensors import Weights
from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths

MAGIC = b'PK\x03\x04'
_LEGACY = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # PyTorch's number.
_HEADER = struct.Struct('<4s22xHH')  # A zip entry's; lengths of what follows.
_ENCRYPTED = 1
# A pickle of 1,000 tensors has 200 kB. Its objects may be 60 times as large.
_MAX_PICKLE = 2**23
_MAX_DEPTH, _MAX_NODES = 32, 2 * 10**5
_ALIGNMENT = 64  # Of data, as in PyTorch's own files.
_PADDING = b'FB'  # The zip field that PyTorch fills up to there.


class _Entry(NamedTuple):
  offset: int
  size: int


def open_torch(path) -> Weights:
  """The tensors of a file of torch.save.

  Names are the keys of its dicts, joined by slashes; what is neither tensor nor
  container is in `Weights.scalars`.

  Raises:
    UserError: if it is no such file, or holds anything but tensors, numbers and
      strings. Nothing that it names is imported or called.
  """
  try:
    entries = _entries(path)
    stream = entries['data.pkl']
    if stream.size > _MAX_PICKLE:
      raise ValueError(f'its pickle has {stream.size} bytes')
    tree = torch_pickle.load(tensors.read_bytes(path, *stream).tobytes())
    found, scalars = _flatten(tree, str(path), entries)
  except UserError:
    raise
  except ValueError as e:
    raise UserError(f'{path} is refused: {paths.first_line(e)}') from e
  return Weights(found, path, scalars)


def write_torch(path, tree):
  """Writes a file that torch.load(weights_only=True) reads.

  One tensor at a time is in memory.

  Args:
    path: of the file, which appears when it is complete.
    tree: dict, list or tuple, nested, of tensors (`tensors.Readable` or
      arrays), numbers and strings.

  Raises:
    UserError: if there is no room for it, said before anything is written.
  """
  target = disk.local(path)
  stream, found = torch_pickle.dump(tree)
  sizes = [tensors.size_of(x) for x in found]
  # Of each entry: two headers and what aligns it.
  disk.check_space(path, len(stream) + sum(sizes) + 400 * (len(sizes) + 4))
  with disk.replacing([target]) as (temporary,), open(temporary, 'wb') as f:
    with zipfile.ZipFile(f, 'w', zipfile.ZIP_STORED) as archive:
      _add(f, archive, 'data.pkl', stream, len(stream))
      _add(f, archive, 'byteorder', b'little', 6)
      for i, (tensor, size) in enumerate(zip(found, sizes)):
        # Not in a variable, which would keep it while the next one is read.
        _add(f, archive, f'data/{i}', tensors.contents(f'data/{i}', tensor),
             size)
      _add(f, archive, 'version', b'3\n', 2)


def _add(f, archive, name, content, size):
  """Writes an entry, its data aligned."""
  entry = zipfile.ZipInfo(f'archive/{name}')  # Of 1980: the same bytes always.
  large = size > 2**30
  before = f.tell() + _HEADER.size + len(entry.filename) + 20 * large
  padding = -(before + 4) % _ALIGNMENT
  entry.extra = struct.pack('<2sH', _PADDING, padding) + bytes(padding)
  with archive.open(entry, 'w', force_zip64=large) as out:
    out.write(content)


def _entries(path) -> dict[str, _Entry]:
  """Where the archive's entries lie, by their names in its one folder."""
  with tensors.opened(path) as f:
    _check_magic(f.read(len(_LEGACY)))
    size = f.seek(0, 2)
    try:
      with zipfile.ZipFile(f) as archive:
        infos = archive.infolist()
    except Exception as e:  # A damaged table raises whatever it runs into.
      raise ValueError('its table of contents is missing or damaged; is it '
                       'all there?') from e
    folder = _folder([info.filename for info in infos])
    found = {}
    for info in infos:
      name = info.filename.removeprefix(folder)
      if name in found:
        raise ValueError(f'it has two entries {short(name)}')
      found[name] = _place(f, info, size)
  order = found.get('byteorder')
  if order and tensors.read_bytes(path, *order).tobytes() != b'little':
    raise ValueError('its byteorder is not little')
  return found


def _check_magic(start: bytes):
  if start.startswith(MAGIC):
    return
  if start.startswith(tensors.LFS):
    raise ValueError("it is Git LFS's placeholder for one; run git lfs pull")
  if start == _LEGACY:
    raise ValueError('it has the format from before PyTorch 1.6; save it '
                     'again with torch.save')
  raise ValueError('it is no file of torch.save')


def _folder(names) -> str:
  """The one that all entries are in, with a slash at its end."""
  pickles = [name for name in names if name.endswith('/data.pkl')]
  if len(pickles) != 1 or pickles[0].count('/') != 1:
    raise ValueError('it has no data.pkl, so it is not of torch.save')
  folder = pickles[0].removesuffix('data.pkl')
  if f'{folder}constants.pkl' in names:
    raise ValueError('it is a TorchScript program; save its state_dict()')
  for name in names:
    # Nothing is unpacked; such names are nevertheless nobody's but a foe's.
    if not name.startswith(folder) or {'', '..'} & set(name.split('/')):
      raise ValueError(f'it has an entry {short(name)}')
  return folder


def _place(f, info, file_size: int) -> _Entry:
  """Where an entry's data is; PyTorch neither compresses nor encrypts."""
  name = short(info.filename)
  if info.flag_bits & _ENCRYPTED:
    raise ValueError(f'{name} is encrypted')
  if info.compress_type != zipfile.ZIP_STORED or (
      info.compress_size != info.file_size):
    raise ValueError(f'{name} is compressed')
  f.seek(max(info.header_offset, 0))
  header = f.read(_HEADER.size)
  if (info.header_offset < 0 or len(header) < _HEADER.size
      or not header.startswith(MAGIC)):
    raise ValueError(f'{name} is not where it should be')
  _, name_size, extra_size = _HEADER.unpack(header)
  offset = info.header_offset + _HEADER.size + name_size + extra_size
  if offset + info.file_size > file_size:
    raise ValueError(f'{name} goes beyond the end of the file')
  return _Entry(offset, info.file_size)


def _flatten(tree, file, entries):
  """Tensors and scalars of a tree, by their paths."""
  found, scalars, nodes = {}, {}, 0

  def visit(node, path):
    nonlocal nodes
    nodes += 1
    # Containers may hold themselves, and each other many times.
    if len(path) > _MAX_DEPTH or nodes > _MAX_NODES:
      raise ValueError('its containers go on and on')
    name = '/'.join(path)
    if isinstance(node, dict):
      for key, value in node.items():
        if type(key) not in (str, int):
          raise ValueError(f'it has a key that is {short(key)}')
        visit(value, (*path, str(key)))
    elif type(node) in (list, tuple):
      for i, value in enumerate(node):
        visit(value, (*path, str(i)))
    elif name in found or name in scalars:
      raise ValueError(f'it has {short(name)} twice')
    elif isinstance(node, torch_pickle.View):
      found[name] = _tensor(name, file, node, entries)
    else:
      scalars[name] = torch_pickle.scalar(node)

  visit(tree, ())
  if not found:
    raise ValueError('it has no tensors')
  return found, scalars


def _tensor(name, file, view, entries) -> Tensor:
  """A view as a place in the file, if it fits into its storage."""
  entry = entries.get(f'data/{view.storage.key}')
  if entry is None:
    raise ValueError(f'the data of {short(name)} is not in it')
  kind, size = view.storage.kind, view.dtype.itemsize
  claimed = view.storage.count * (kind.dtype.itemsize if kind else 1)
  if claimed > entry.size:
    raise ValueError(f'{short(name)} needs {claimed} bytes, of which it has '
                     f'{entry.size}')
  elements = math.prod(view.shape)
  end = view.offset + tensors.span_of(view.shape, view.strides)
  # The product, too: with a stride of zero, one number can fill any shape.
  if elements and max(end, elements) * size > claimed:
    raise ValueError(f'{short(name)} of shape {short(view.shape)} and strides '
                     f'{short(view.strides)} does not fit into its '
                     f'{claimed} bytes')
  return Tensor(name, file, entry.offset + view.offset * size, view.shape,
                view.strides, view.dtype)

"""Safetensors files, single and sharded, read and written tensor by tensor.

  8 bytes     n, little endian
  n bytes     JSON: {name: {dtype, shape, data_offsets: [begin, end]}, ...}
  the rest    the tensors, each in C order, without gaps

A set of shards has an index beside it, which says what is where:

  {"metadata": {"total_size": ...}, "weight_map": {name: file, ...}}

The safetensors package reads lazily, too, but asks NumPy for bfloat16 and
float8, which it does not have, and writes all tensors at once. Hence the header
is read and written here; tests compare with that package.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import itertools
import json
import math
import pathlib
import re
import struct

from worldsim_jax.convert import disk
from worldsim_jax.convert import tensors
from worldsim_jax.convert.tensors import Readable
from worldsim_jax.convert.tensors import short
from worldsim_jax.convert.tensors import Tensor
from worldsim_jax.convert.tensors import Weights
from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths

SUFFIX = '.safetensors'
INDEX = f'{SUFFIX}.index.json'
_LENGTH = struct.Struct('<Q')
_MAX_HEADER = 10**8  # As in the safetensors package.
_DTYPES = {kind.safetensors: kind.dtype for kind in tensors.KINDS
           if kind.safetensors}
_SHARD = re.compile(r'(.+)-(\d{5})-of-(\d{5})\.safetensors')


def open_safetensors(files, source=None) -> Weights:
  """The tensors of one file, or of several together.

  Args:
    files: a path, or several.
    source: what to call them together in messages; by default the first.

  Raises:
    UserError: if one of them is no such file or is damaged, or two of them have
      a tensor of the same name.
  """
  files = [files] if isinstance(files, (str, pathlib.PurePath)) else list(files)
  found, scalars = {}, {}
  for file in files:
    own, metadata = _read_header(file)
    for name in own.keys() & found.keys():
      raise UserError(f'{file} and {found[name].file} both have a tensor '
                      f'{short(name)}')
    found |= own
    scalars |= metadata
  return Weights(found, source or files[0], scalars)


def open_index(path) -> Weights:
  """The tensors of the shards that an index lists.

  Raises:
    UserError: if a shard is missing or has not the tensors that it should have.
  """
  path = paths.folder(path)
  weight_map = _weight_map(path)
  shards = sorted(set(weight_map.values()))
  missing = [name for name in shards if not (path.parent / name).exists()]
  if missing:
    raise UserError(f'{path} lists {short(missing[0])}, which is not there '
                    f'({len(missing)} of {len(shards)} files are missing)')
  weights = open_safetensors([path.parent / name for name in shards], path)
  for name in weights.keys() | weight_map.keys():
    expected = weight_map.get(name, 'no file')
    found = paths.folder(weights[name].file).name if name in weights else (
        'no file')
    if found != expected:
      raise UserError(f'{path} has tensor {short(name)} in {short(expected)}, '
                      f'but it is in {short(found)}')
  return weights


def stem(name: str) -> str:
  """What the files of one set have in common."""
  match = _SHARD.fullmatch(name)
  return match[1] if match else name


def open_all(folder, files) -> Weights:
  """All files of a folder without an index.

  Raises:
    UserError: if they are shards of which some are missing.
  """
  names = {file.name for file in files}
  for match in filter(None, map(_SHARD.fullmatch, sorted(names))):
    stem, _, count = match.groups()
    for i in range(1, int(count) + 1):
      name = f'{stem}-{i:05}-of-{count}{SUFFIX}'
      if name not in names:
        raise UserError(f'{folder} has {match[0]} but neither {name} nor an '
                        f'index ({stem}{INDEX})')
  return open_safetensors(files, folder)


def write_safetensors(path, named: Mapping[str, Readable] | Iterable,
                      metadata: Mapping[str, str] | None = None,
                      shard_bytes: int | None = None):
  """Writes tensors, one at a time in memory.

  Args:
    path: `folder/stem.safetensors`. Several shards are called
      `stem-00001-of-00002.safetensors`, with `stem.safetensors.index.json`, as
      diffusers and transformers have them.
    named: tensors (`tensors.Readable` or arrays) by name, or pairs of the two.
      Their shapes are asked for before the first of them is read.
    metadata: of the files; by default that of PyTorch's, without which
      transformers reads none.
    shard_bytes: what the tensors of a shard may have together.

  Raises:
    UserError: if there is no room for them, or files of another set are in the
      way; said before anything is written.
  """
  target = disk.local(path)
  if target.suffix != SUFFIX:
    raise ValueError(f'{path} should end with {SUFFIX}')
  pairs = list(named.items() if isinstance(named, Mapping) else named)
  shards = _shards([(name, tensors.readable(x)) for name, x in pairs],
                   shard_bytes)
  if len(dict(pairs)) != len(pairs):
    raise ValueError('two tensors have the same name')
  files = _targets(target, len(shards))
  _check_others(target, files)
  headers = [_header(shard, metadata or {'format': 'pt'}) for shard in shards]
  sizes = [sum(tensors.size_of(x) for _, x in shard) for shard in shards]
  index = json.dumps({
      'metadata': {'total_size': sum(sizes)},
      'weight_map': {name: file.name for file, shard in zip(files, shards)
                     for name, _ in shard},
  }, indent=2, sort_keys=True) + '\n'
  disk.check_space(path, sum(sizes) + sum(map(len, headers)) + 2 * len(index))
  with disk.replacing(files) as temporary:
    for file, header, shard in zip(temporary, headers, shards):
      _write_file(file, header, shard)
    if len(shards) > 1:
      temporary[-1].write_text(index)


def _read_header(path) -> tuple[dict[str, Tensor], dict[str, str]]:
  """A file's tensors by name, and its metadata."""
  try:
    with tensors.opened(path) as f:
      size = f.seek(0, 2)
      f.seek(0)
      start = f.read(_LENGTH.size)
      if len(start) < _LENGTH.size:
        raise ValueError('it is cut off')
      length, = _LENGTH.unpack(start)
      if length > min(_MAX_HEADER, size - _LENGTH.size):
        raise ValueError(_no_header(start))
      header = _json(f.read(length))
    metadata = header.pop('__metadata__', {})
    if not _is_strings(metadata):
      raise ValueError('its __metadata__ is not of strings')
    found = _tensors(path, header, _LENGTH.size + length, size)
  except UserError:
    raise
  except ValueError as e:
    raise UserError(f'{path} is no whole safetensors file: '
                    f'{paths.first_line(e)}') from e
  return found, metadata


def _no_header(start: bytes) -> str:
  if start == tensors.LFS:
    return "it is Git LFS's placeholder for one; run git lfs pull"
  return 'it is cut off in its header, or is something else'


def _json(text: bytes) -> dict:
  def unique(pairs):
    if len(dict(pairs)) != len(pairs):
      raise ValueError('its header has a name twice')
    return dict(pairs)

  try:
    found = json.loads(text, object_pairs_hook=unique)
  except RecursionError as e:
    raise ValueError('its header is nested') from e
  if not isinstance(found, dict):
    raise ValueError('its header is no JSON object')
  return found


def _is_strings(mapping) -> bool:
  return isinstance(mapping, Mapping) and all(
      isinstance(value, str) for value in mapping.values())


def _tensors(path, header, start: int, size: int) -> dict[str, Tensor]:
  """Tensors of a header, which must fill the file without gaps."""
  found, ranges = {}, []
  for name, entry in header.items():
    if not isinstance(entry, dict) or not {
        'dtype', 'shape', 'data_offsets'} <= entry.keys():
      raise ValueError(f'{short(name)} has no dtype, shape and data_offsets')
    dtype, shape, offsets = (
        entry[key] for key in ('dtype', 'shape', 'data_offsets'))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
      raise ValueError(f'{short(name)} has the unknown dtype {short(dtype)}')
    dtype = _DTYPES[dtype]
    if not isinstance(shape, list):
      raise ValueError(f'{short(name)} has no shape')
    tensors.check_shape(shape, dtype)
    if not (isinstance(offsets, list) and len(offsets) == 2
            and all(type(n) is int for n in offsets)):
      raise ValueError(f'{short(name)} has no place')
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
      raise ValueError(f'{short(name)} of {dtype} {short(shape)} cannot have '
                       f'{short(end - begin)} bytes')
    ranges.append((begin, end, name))
    found[name] = Tensor(name, str(path), start + begin, tuple(shape),
                         tensors.strides_of(shape), dtype)
  expected = 0
  for begin, end, name in sorted(ranges):
    if begin != expected:
      raise ValueError(f'{short(name)} begins at {short(begin)} of its data '
                       f'instead of at {short(expected)}')
    expected = end
  if start + expected != size:
    raise ValueError(f'it should have {short(start + expected)} bytes and has '
                     f'{size}')
  return found


def _weight_map(path) -> dict[str, str]:
  with tensors.opened(path) as f:
    text = f.read()
  try:
    weight_map = _json(text).get('weight_map')
  except ValueError as e:
    raise UserError(f'{path} is damaged: {paths.first_line(e)}') from e
  if not _is_strings(weight_map) or not weight_map:
    raise UserError(f'{path} has no weight_map of file names')
  for file in weight_map.values():
    if not file.endswith(SUFFIX) or re.search(r'[/\\]', file):
      raise UserError(f'{path} lists {short(file)}, which is no {SUFFIX} file '
                      'beside it')
  return weight_map


def _shards(pairs, shard_bytes):
  """Cuts a list of (name, tensor), in order; one tensor always fits."""
  shards, size = [[]], 0
  for name, tensor in pairs:
    own = tensors.size_of(tensor)
    if shards[-1] and shard_bytes and size + own > shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append((name, tensor))
    size += own
  # Each tensor begins at a multiple of its element if the large ones are first.
  return [sorted(shard, key=lambda pair: -pair[1].dtype.itemsize)
          for shard in shards]


def _targets(target: pathlib.Path, count: int) -> list[pathlib.Path]:
  if count == 1:
    return [target]
  names = [f'{target.stem}-{i:05}-of-{count:05}{SUFFIX}'
           for i in range(1, count + 1)]
  return [target.with_name(name) for name in (*names, target.stem + INDEX)]


def _check_others(target: pathlib.Path, files):
  """Readers would mix shards of two sets, or take the wrong one."""
  others = re.compile(re.escape(target.stem) + r'(-\d{5}-of-\d{5})?'
                      r'\.safetensors(\.index\.json)?')
  names = {file.name for file in files}
  if not target.parent.is_dir():
    return
  for path in sorted(target.parent.iterdir()):
    if others.fullmatch(path.name) and path.name not in names:
      raise UserError(f'{path} is of another set of weights; write to another '
                      'folder, or remove it')


def _header(shard, metadata) -> bytes:
  """Length and JSON, padded so that the data begins at a multiple of 8."""
  sizes = (tensors.size_of(x) for _, x in shard)
  ends = list(itertools.accumulate(sizes, initial=0))
  entries = {'__metadata__': dict(metadata)}
  if not _is_strings(metadata) or '__metadata__' in dict(shard):
    raise ValueError('metadata of a safetensors file is of strings, and no '
                     'tensor can be called __metadata__')
  for (name, tensor), begin, end in zip(shard, ends, ends[1:]):
    kind = tensors.BY_NAME.get(tensor.dtype.name)
    if kind is None or not kind.safetensors:
      raise ValueError(f'safetensors has no {tensor.dtype}')
    entries[name] = {'dtype': kind.safetensors, 'shape': list(tensor.shape),
                     'data_offsets': [begin, end]}
  text = json.dumps(entries, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  return _LENGTH.pack(len(text)) + text


def _write_file(path, header, shard):
  with path.open('wb') as f:
    f.write(header)
    for name, tensor in shard:
      f.write(tensors.contents(name, tensor))

"""Tensors of weight files, each read when it is asked for.

A `Tensor` is a place in a file: shape, strides and an offset. Opening a file of
57 GB reads its table of contents; `Tensor.read` then reads that tensor's bytes
and no others. What a file claims about sizes is checked when it is opened,
before anything of that size is allocated.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import math
from typing import NamedTuple
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths

MAX_DIMENSIONS = 64  # Of a NumPy array.
LFS = b'version '  # What a file begins with that Git LFS has not fetched.
_MAX_SIZE = 2**62  # NumPy counts bytes in 64 bits, empty arrays' too.


class Kind(NamedTuple):
  """A dtype; its name is NumPy's and PyTorch's alike."""
  dtype: np.dtype
  safetensors: str | None  # Its name there, if there is one.
  storage: str | None  # PyTorch's typed storage, if there is one.


def _kind(scalar, safetensors=None, storage=None):
  return Kind(jnp.dtype(scalar), safetensors, storage)


KINDS = (
    _kind(np.float64, 'F64', 'DoubleStorage'),
    _kind(np.float32, 'F32', 'FloatStorage'),
    _kind(np.float16, 'F16', 'HalfStorage'),
    _kind(jnp.bfloat16, 'BF16', 'BFloat16Storage'),
    _kind(jnp.float8_e4m3fn, 'F8_E4M3'),
    _kind(jnp.float8_e5m2, 'F8_E5M2'),
    _kind(jnp.float8_e4m3fnuz, 'F8_E4M3FNUZ'),
    _kind(jnp.float8_e5m2fnuz, 'F8_E5M2FNUZ'),
    _kind(jnp.float8_e8m0fnu, 'F8_E8M0'),
    _kind(np.int64, 'I64', 'LongStorage'),
    _kind(np.int32, 'I32', 'IntStorage'),
    _kind(np.int16, 'I16', 'ShortStorage'),
    _kind(np.int8, 'I8', 'CharStorage'),
    _kind(np.uint64, 'U64'),
    _kind(np.uint32, 'U32'),
    _kind(np.uint16, 'U16'),
    _kind(np.uint8, 'U8', 'ByteStorage'),
    _kind(np.bool_, 'BOOL', 'BoolStorage'),
    _kind(np.complex64, 'C64', 'ComplexFloatStorage'),
    _kind(np.complex128, None, 'ComplexDoubleStorage'),
)
BY_NAME = {kind.dtype.name: kind for kind in KINDS}


class Readable(Protocol):
  """What can be written to a file: `Tensor`, `Computed`."""
  shape: tuple[int, ...]
  dtype: np.dtype

  def read(self) -> np.ndarray:
    ...


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of a file.

  Attributes:
    name: in the file, groups included.
    file: where it is.
    offset: bytes before its first element.
    shape: its sizes.
    strides: as in PyTorch, in elements; none are negative.
    dtype: as in the file.
  """
  name: str
  file: str
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  dtype: np.dtype

  @property
  def nbytes(self) -> int:
    return size_of(self)

  def read(self) -> np.ndarray:
    """A new array, in C order. Others of the file are not touched.

    Raises:
      UserError: if the file has changed since it was opened.
    """
    if 0 in self.shape:
      return np.empty(self.shape, self.dtype)
    size = self.dtype.itemsize
    span = span_of(self.shape, self.strides) * size
    raw = read_bytes(self.file, self.offset, span)
    if all(n == 1 or step == dense for n, step, dense in zip(
        self.shape, self.strides, strides_of(self.shape))):
      return raw.view(self.dtype).reshape(self.shape)
    # Along an axis of one, a file may claim any stride.
    steps = [step * size if n > 1 else 0
             for n, step in zip(self.shape, self.strides)]
    return np.ndarray(self.shape, self.dtype, raw, strides=steps).copy()


@dataclasses.dataclass(frozen=True)
class Computed:
  """A tensor that is made when it is asked for, of a size known before."""
  shape: tuple[int, ...]
  dtype: np.dtype
  make: Callable[[], np.ndarray]

  def read(self) -> np.ndarray:
    return self.make()


class Weights(Mapping[str, Tensor]):
  """The tensors of a file or of several, by name.

  Names in groups have a slash: 'generator/model.head.head.weight'.

  >>> weights = open_weights('self_forcing_dmd.pt')
  >>> weights.groups()
  {'generator': 825, 'critic': 825, 'generator_ema': 825}
  >>> weights.group('generator_ema')['model.head.head.weight'].read().shape
  (64, 1536)
  """

  def __init__(self, tensors: Mapping[str, Tensor], file, scalars=None,
               config=None):
    """Of tensors by name.

    Args:
      tensors: by name.
      file: what was opened, for messages.
      scalars: numbers and strings that lie beside the tensors, by name.
      config: of a folder's config.json, if there is one.
    """
    self._tensors = dict(tensors)
    self.file = str(file)
    self.scalars = dict(scalars or {})
    self.config = config

  def __getitem__(self, name: str) -> Tensor:
    return self._tensors[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._tensors)

  def __len__(self) -> int:
    return len(self._tensors)

  @property
  def nbytes(self) -> int:
    """Of all tensors, read one after the other."""
    return sum(tensor.nbytes for tensor in self.values())

  def groups(self) -> dict[str, int]:
    """How many tensors there are in each of the outermost groups."""
    found = {}
    for name in self:
      group, slash, _ = name.partition('/')
      if slash:
        found[group] = found.get(group, 0) + 1
    return found

  def group(self, name: str) -> 'Weights':
    """The tensors of one group, its name taken off theirs.

    Raises:
      UserError: if there is no such group.
    """
    prefix = f'{name}/'
    inside = {key.removeprefix(prefix): tensor
              for key, tensor in self.items() if key.startswith(prefix)}
    if not inside:
      raise UserError(f'{self.file} has no group {name!r} but '
                      f'{short(", ".join(self.groups()) or "none at all")}')
    scalars = {key.removeprefix(prefix): value
               for key, value in self.scalars.items() if key.startswith(prefix)}
    return Weights(inside, self.file, scalars, self.config)


def readable(tensor) -> Readable:
  """An array, as it can be written; anything else as it is."""
  if isinstance(tensor, np.ndarray):
    return Computed(tensor.shape, tensor.dtype, lambda: tensor)
  if not hasattr(tensor, 'read'):
    raise ValueError(f'a {type(tensor).__name__} is no tensor')
  return tensor


def contents(name: str, tensor: Readable) -> memoryview:
  """Reads a tensor and returns its bytes as files have them.

  Raises:
    ValueError: if it is not what it said that it was.
  """
  array = np.asarray(tensor.read())
  if (array.shape, array.dtype) != (tuple(tensor.shape), tensor.dtype):
    raise ValueError(
        f'{name} was announced as {tensor.dtype} {tuple(tensor.shape)}, and is '
        f'{array.dtype} {array.shape}')
  array = np.ascontiguousarray(array, array.dtype.newbyteorder('<'))
  return memoryview(array.reshape(-1).view(np.uint8))


def size_of(tensor: Readable) -> int:
  """Bytes, once it is read."""
  return math.prod(tensor.shape) * tensor.dtype.itemsize


def strides_of(shape) -> tuple[int, ...]:
  """Of an array in C order, in elements."""
  return tuple(math.prod(shape[i + 1:]) for i in range(len(shape)))


def span_of(shape, strides) -> int:
  """Elements from the first one to the last one of a strided tensor."""
  if 0 in shape:
    return 0
  return 1 + sum((n - 1) * step for n, step in zip(shape, strides))


def check_shape(shape, dtype: np.dtype):
  """Raises ValueError unless it could be the shape of an array."""
  if len(shape) > MAX_DIMENSIONS:
    raise ValueError(f'it has a shape of {len(shape)} dimensions')
  if not all(type(n) is int and n >= 0 for n in shape):
    raise ValueError(f'{short(shape)} is no shape')
  if math.prod(max(n, 1) for n in shape) * dtype.itemsize > _MAX_SIZE:
    raise ValueError(f'{short(shape)} is larger than any array')


@contextlib.contextmanager
def opened(file):
  """A file to read from, of a folder or a bucket.

  Raises:
    UserError: if it cannot be opened.
  """
  try:
    with paths.folder(file).open('rb') as f:
      yield f
  except (OSError, *paths.remote_errors()) as e:
    raise UserError(
        f'{file} cannot be read: {paths.first_line(e)}') from e


def read_bytes(file, offset: int, count: int) -> np.ndarray:
  """`count` bytes of a file as uint8.

  Raises:
    UserError: if there are fewer.
  """
  buffer = np.empty(count, np.uint8)
  if not count:
    return buffer
  rest = memoryview(buffer)
  with opened(file) as f:
    f.seek(offset)
    while rest:
      read = f.readinto(rest)
      if not read:
        raise UserError(
            f'{file} is cut off: {len(rest)} of {count} bytes at {offset} are '
            'missing; was it replaced while it was read?')
      rest = rest[read:]
  return buffer


def short(value) -> str:
  """What a file says, fit for a line of a message."""
  if type(value) in (list, tuple) and len(value) <= MAX_DIMENSIONS and all(
      type(n) in (int, str) for n in value):
    value = f'({", ".join(map(str, value))})'
  elif type(value) not in (int, str):
    value = f'a {type(value).__name__}'  # Whose text may be of any length.
  text = str(value)[:81].encode('unicode_escape').decode()
  return text if len(text) <= 80 else f'{text[:77]}...'

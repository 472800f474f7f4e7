"""The pickle stream in a file of torch.save, of which tensors are admitted.

A pickle is a program: it may ask for any object by its module and name, and
call it. Here it gets what `_NAMES` holds and nothing else. These are stand-ins
of our own, which build records; neither torch nor whatever else the file names
is looked up, imported or called. Two fences are in front of that: only the
opcodes that torch.save needs may occur, and the stand-ins cannot be changed.

  c torch._utils _rebuild_tensor_v2          the function that is asked for
  ( 'storage' torch.FloatStorage '0' 'cpu' 24 ) Q      bytes of entry data/0
  ( storage 0 (4, 6) (6, 1) False hooks ) R            its call -> `View`
"""

import dataclasses
import io
import pickle
import pickletools

import numpy as np

from worldsim_jax.convert import tensors
from worldsim_jax.convert.tensors import short

# What torch.save writes, in any protocol. Absent: INST, OBJ, NEWOBJ, EXT and
# all else that makes objects in ways of its own.
_OPCODES = frozenset('''
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE
    BININT BININT1 BININT2 LONG1 BINFLOAT
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS
    BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
    GLOBAL STACK_GLOBAL BINPERSID REDUCE BUILD'''.split())
_SCALARS = (bool, int, float, str, type(None))


class _Inert:
  """Cannot be given a state, which a pickle may try with what it holds."""
  __slots__ = ()

  def __setstate__(self, state):
    raise ValueError(f'it sets the state of a {type(self).__name__}')


@dataclasses.dataclass(frozen=True)
class Storage(_Inert):
  """An entry data/`key` of the archive, of `count` elements."""
  kind: tensors.Kind | None  # None: bytes of no dtype.
  key: str
  count: int


@dataclasses.dataclass(frozen=True)
class View(_Inert):
  """A tensor: `shape` and `strides` over a storage, in elements."""
  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  dtype: np.dtype


class _StorageType(_Inert):
  """torch.FloatStorage and others."""
  __slots__ = ('kind',)

  def __init__(self, kind):
    self.kind = kind


class _DType(_Inert):
  """torch.float32 and others."""
  __slots__ = ('dtype',)

  def __init__(self, dtype):
    self.dtype = dtype


class _TensorType(_Inert):
  """torch.Tensor and its two subclasses."""
  __slots__ = ()


class _Function(_Inert):
  """One of the functions below, which the file may call."""
  __slots__ = ('function',)

  def __init__(self, function):
    self.function = function

  def __call__(self, *args):
    return self.function(*args)


class _OrderedDict(dict):

  def __setstate__(self, state):
    """A module's state_dict has its version here; we have no use for it."""


def load(stream: bytes):
  """The tree of a pickle: dict, list, tuple, `View`, numbers and strings.

  Raises:
    ValueError: if there is anything else in it, or it is damaged.
  """
  try:
    _check_opcodes(stream)
    return _Unpickler(io.BytesIO(stream), encoding='utf-8').load()
  except ValueError:
    raise
  except Exception as e:  # A wrong stream raises whatever it runs into.
    raise ValueError(f'its pickle is damaged ({short(str(e))})') from e


def _check_opcodes(stream):
  for opcode, argument, position in _operations(stream):
    if opcode.name == 'GLOBAL':  # Also below; here before others are called.
      _find(*argument.split(' ', 1))
    if opcode.name not in _OPCODES:
      raise ValueError(f'opcode {opcode.name} at byte {position} of its pickle '
                       'makes other things than tensors')
    # The memo is an array up to its largest index.
    if 'BINPUT' in opcode.name and argument > len(stream):
      raise ValueError(f'its pickle numbers an object {argument}')
  if position != len(stream) - 1:
    raise ValueError('bytes follow its pickle')


def _operations(stream):
  try:
    yield from pickletools.genops(stream)
  except ValueError as e:
    raise ValueError(f'its pickle is damaged ({short(str(e))})') from e


class _Unpickler(pickle.Unpickler):

  def find_class(self, module, name):
    return _find(module, name)

  def persistent_load(self, pid):
    if not (type(pid) is tuple and len(pid) == 5 and pid[0] == 'storage'):
      raise ValueError('it names data in a way that torch.save does not')
    _, kind, key, _, count = pid
    if not (isinstance(kind, _StorageType) and _is_count(count)
            and type(key) is str and key.isascii() and key.isalnum()):
      raise ValueError(f'it names data as {short(key)} of {short(count)}')
    return Storage(kind.kind, key, count)


def _find(module, name):
  found = _NAMES.get((module, name))
  if found is None:
    raise ValueError(f'it asks for {short(f"{module}.{name}")}, which is no '
                     'part of a tensor')
  return found


def _is_count(value) -> bool:
  return type(value) is int and value >= 0


def _view(storage, offset, shape, strides, dtype) -> View:
  if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype):
    raise ValueError('it has a tensor without data')
  if not (_is_count(offset) and type(shape) in (tuple, list)
          and type(strides) in (tuple, list) and len(shape) == len(strides)):
    raise ValueError('it has a tensor of no possible shape')
  tensors.check_shape(shape, dtype)
  if not all(_is_count(step) for step in strides):
    raise ValueError(f'it has a tensor of strides {short(strides)}')
  return View(storage, offset, tuple(shape), tuple(strides), dtype)


def _rebuild_tensor(storage, offset, shape, strides, requires_grad=False,
                    hooks=None, metadata=None):
  """Also _rebuild_tensor_v2, which has the last three arguments."""
  del requires_grad, hooks
  _check_metadata(metadata)
  kind = getattr(storage, 'kind', None)
  return _view(storage, offset, shape, strides, kind and kind.dtype)


def _rebuild_tensor_v3(storage, offset, shape, strides, requires_grad, hooks,
                       dtype, metadata=None):
  """Of dtypes for which there is no typed storage."""
  del requires_grad, hooks
  _check_metadata(metadata)
  return _view(storage, offset, shape, strides, getattr(dtype, 'dtype', None))


def _check_metadata(metadata):
  """A tensor may be marked as the negative or conjugate of what is stored."""
  if metadata:
    raise ValueError('it has a tensor that is marked as a conjugate or a '
                     'negative; use resolve_conj() or resolve_neg() on it')


def _rebuild_parameter(data, *unused):
  del unused  # Whether it is trained, hooks, attributes.
  if not isinstance(data, View):
    raise ValueError('it has a parameter that is no tensor')
  return data


def _rebuild_from_type(function, tensor_type, args, unused_state):
  """Of a tensor that has attributes."""
  if not (isinstance(function, _Function) and type(args) is tuple
          and isinstance(tensor_type, _TensorType)):
    raise ValueError('it has a tensor of a type of its own')
  return _rebuild_parameter(function(*args))


def _ordered_dict():
  return _OrderedDict()


def _size(sizes):
  if type(sizes) is not tuple:
    raise ValueError('it has a torch.Size of something else than sizes')
  return sizes


def _names():
  names = {
      ('collections', 'OrderedDict'): _Function(_ordered_dict),
      ('torch', 'Size'): _Function(_size),
      ('torch._tensor', '_rebuild_from_type_v2'): _Function(_rebuild_from_type),
      ('torch', 'Tensor'): _TensorType(),
      ('torch.nn.parameter', 'Parameter'): _TensorType(),
      ('torch.nn.parameter', 'Buffer'): _TensorType(),
      ('torch', 'UntypedStorage'): _StorageType(None),
      ('torch.storage', 'UntypedStorage'): _StorageType(None),
  }
  for name, function in (
      ('_rebuild_tensor', _rebuild_tensor),
      ('_rebuild_tensor_v2', _rebuild_tensor),
      ('_rebuild_tensor_v3', _rebuild_tensor_v3),
      ('_rebuild_parameter', _rebuild_parameter),
      ('_rebuild_parameter_with_state', _rebuild_parameter)):
    names['torch._utils', name] = _Function(function)
  for kind in tensors.KINDS:
    names['torch', kind.dtype.name] = _DType(kind.dtype)
    if kind.storage:
      names['torch', kind.storage] = _StorageType(kind)
  return names


_NAMES = _names()


def scalar(value):
  """A number or string of a tree; a dtype by its name.

  Raises:
    ValueError: if it is neither.
  """
  if type(value) in _SCALARS:
    return value
  if isinstance(value, _DType):
    return value.dtype.name
  raise ValueError(f'it has a {type(value).__name__.strip("_")}')


def dump(tree) -> tuple[bytes, list[tensors.Readable]]:
  """The pickle of a tree, and the tensors that are to be entries data/0, 1, ...

  Args:
    tree: dict, list or tuple, nested, of tensors, numbers and strings.
  """
  found = {}  # By id.
  stream = b''.join(_pickled(tree, found))
  return pickle.PROTO + b'\x02' + stream + pickle.STOP, [
      tensor for _, tensor in found.values()]


def _pickled(tree, found):
  """Yields the opcodes of a tree."""
  if isinstance(tree, dict):
    yield pickle.EMPTY_DICT + pickle.MARK
    for key, value in tree.items():
      if type(key) not in (str, int):
        raise ValueError(f'{key!r} cannot be a key of a torch file')
      yield _literal(key)
      yield from _pickled(value, found)
    yield pickle.SETITEMS
  elif type(tree) in (list, tuple):
    yield pickle.MARK if type(tree) is tuple else (
        pickle.EMPTY_LIST + pickle.MARK)
    for value in tree:
      yield from _pickled(value, found)
    yield pickle.TUPLE if type(tree) is tuple else pickle.APPENDS
  elif type(tree) in _SCALARS:
    yield _literal(tree)
  else:
    # One that is there twice is written once, as PyTorch would. What has an id
    # is kept, or another could get it.
    _, tensor = found.setdefault(id(tree), (tree, tensors.readable(tree)))
    yield _pickled_tensor(str(list(found).index(id(tree))), tensor)


def _literal(value) -> bytes:
  return pickle.dumps(value, protocol=2)[2:-1]  # Without PROTO and STOP.


def _pickled_tensor(key, tensor) -> bytes:
  """A call of torch's function, as its own pickles have it."""
  shape = tuple(int(n) for n in tensor.shape)
  kind = tensors.BY_NAME.get(tensor.dtype.name)
  if kind is None:
    raise ValueError(f'PyTorch has no {tensor.dtype}')
  count = int(np.prod(shape, dtype=np.int64))
  if kind.storage:
    function, storage = '_rebuild_tensor_v2', f'torch\n{kind.storage}'
  else:
    function, storage = '_rebuild_tensor_v3', 'torch.storage\nUntypedStorage'
    count *= kind.dtype.itemsize
  hooks = _global('collections\nOrderedDict') + b')R'
  # PyTorch's strides; an axis of no elements counts as one.
  strides = tensors.strides_of([max(n, 1) for n in shape])
  dtype = b'' if kind.storage else _global(f'torch\n{kind.dtype.name}')
  return b''.join([
      _global(f'torch._utils\n{function}'), b'((', _literal('storage'),
      _global(storage), _literal(key), _literal('cpu'), _literal(count), b'tQ',
      _literal(0), _literal(shape), _literal(strides), _literal(False), hooks,
      dtype, b'tR'])


def _global(name: str) -> bytes:
  return pickle.GLOBAL + f'{name}\n'.encode()

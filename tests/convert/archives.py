"""Files of torch.save, put together by hand, in the ways of friend and foe."""

import pathlib
import pickle
import tracemalloc
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import hypothesis
import numpy as np

from worldsim_jax.convert import torch_file
from worldsim_jax.errors import UserError

# Where it keeps what it notes; tests leave nothing in the repository.
hypothesis.configuration.set_hypothesis_home_dir(
    pathlib.Path(absltest.get_default_test_tmpdir(), 'hypothesis'))
settings = hypothesis.settings(
    max_examples=60, deadline=None, database=None, derandomize=True)


def glob(name: str) -> bytes:
  """Asks for an object: 'module name'."""
  return b'c' + name.replace(' ', '\n').encode() + b'\n'


def literal(value) -> bytes:
  return pickle.dumps(value, protocol=2)[2:-1]


def call(function: str, *args: bytes) -> bytes:
  return glob(function) + b'(' + b''.join(args) + b'tR'


def storage(kind='torch FloatStorage', key='0', count=6) -> bytes:
  return b'(%s%s%s%s%stQ' % (literal('storage'), glob(kind), literal(key),
                             literal('cpu'), literal(count))


def tensor(offset=0, shape=(2, 3), strides=(3, 1), data=None) -> bytes:
  return call('torch._utils _rebuild_tensor_v2', data or storage(),
              literal(offset), literal(shape), literal(strides),
              literal(False), call('collections OrderedDict'))


def tree(**items: bytes) -> bytes:
  """A dict."""
  content = b''.join(literal(key) + value for key, value in items.items())
  return b'}(' + content + b'u'


def write(path, content: bytes, data=None, extra=None, folder='archive/',
          protocol=2, compression=zipfile.ZIP_STORED):
  """Writes an archive of a pickle and data by key."""
  entries = {'data.pkl': b'\x80%c' % protocol + content + b'.'}
  data = {'0': bytes(24)} if data is None else data
  entries |= {f'data/{key}': value for key, value in data.items()}
  entries |= {'version': b'3\n'} | (extra or {})
  with zipfile.ZipFile(path, 'w', compression) as archive:
    for name, value in entries.items():
      archive.writestr(folder + name, value)
  return path


def some_bits(kind, shape, seed=0):
  """An array of any bits; a bool has only two values."""
  bits = np.random.default_rng(seed).integers(
      0, 2 if kind.dtype == bool else 256, (*shape, kind.dtype.itemsize),
      np.uint8)
  return bits.reshape(-1).view(kind.dtype).reshape(shape)


def assert_same_bits(found, expected):
  assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
  assert found.tobytes() == expected.tobytes()


def peak_of(function) -> int:
  """Bytes allocated at the worst moment."""
  tracemalloc.start()
  try:
    function()
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


class RefusalCase(parameterized.TestCase):
  """Has a file, and a canary that code in it would make."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir())
    self.path = self.folder / 'refused.pt'
    self.canary = self.folder / 'canary'

  def assertRefused(self, pattern, path=None):
    path = path or self.path
    with self.assertRaisesRegex(UserError, pattern) as raised:
      torch_file.open_torch(path)
    message = str(raised.exception)
    self.assertIn(str(path), message)
    self.assertNotIn('\n', message)
    self.assertLess(len(message), 500)
    self.assertFalse(self.canary.exists())

"""Safetensors files: as the safetensors package has them, tensor by tensor."""

import json
import os
import pathlib
import shutil
import struct
from unittest import mock

from absl.testing import absltest
import hypothesis
from hypothesis import strategies
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors_numpy

from tests.convert import archives
from worldsim_jax.convert import safetensors_file
from worldsim_jax.convert import tensors
from worldsim_jax.errors import UserError

MEGABYTE = 2**20
FILES = pathlib.Path(
    absltest.get_default_test_tmpdir(), f'safetensors_test.{os.getpid()}')
KINDS = strategies.sampled_from([k for k in tensors.KINDS if k.safetensors])
SHAPES = strategies.lists(strategies.integers(0, 4), max_size=4)


def setUpModule():
  FILES.mkdir(parents=True, exist_ok=True)


def tearDownModule():
  shutil.rmtree(FILES)


def write_raw(path, header, data=b''):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(text)) + text + data)


def entry(begin=0, end=24, dtype='F32', shape=(2, 3)):
  return {'dtype': dtype, 'shape': shape, 'data_offsets': [begin, end]}


class Case(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir())
    self.path = self.folder / 'model.safetensors'

  def assertRefused(self, pattern, function, *args):
    with self.assertRaisesRegex(UserError, pattern) as raised:
      function(*args)
    self.assertNotIn('\n', str(raised.exception))
    self.assertLess(len(str(raised.exception)), 500)


class SafetensorsTest(Case):

  @archives.settings
  @hypothesis.given(
      strategies.lists(strategies.tuples(KINDS, SHAPES), max_size=6),
      strategies.sampled_from((None, 1, 40, 300)))
  def test_what_is_written_is_read(self, specs, shard_bytes):
    arrays = {f'x.{i}': archives.some_bits(kind, shape, i)
              for i, (kind, shape) in enumerate(specs)}
    folder = FILES / 'any'
    safetensors_file.write_safetensors(
        folder / 'model.safetensors', arrays, {'by': 'us'}, shard_bytes)
    index = folder / 'model.safetensors.index.json'
    weights = (safetensors_file.open_index(index) if index.exists() else
               safetensors_file.open_safetensors(folder / 'model.safetensors'))
    self.assertEqual(set(weights), set(arrays))
    self.assertEqual(weights.scalars, {'by': 'us'})
    for name, array in arrays.items():
      archives.assert_same_bits(weights[name].read(), array)
      self.assertEqual(weights[name].offset % array.dtype.itemsize, 0)
    shutil.rmtree(folder, ignore_errors=True)

  def test_the_safetensors_package_reads_ours_and_we_its(self):
    arrays = {'b': np.arange(5, dtype=np.float32), 'a': np.ones((2, 0, 3)),
              'c': np.array(7, np.int64), 'd': np.array([True, False]),
              'e': np.arange(3, dtype=np.uint8)}
    safetensors_file.write_safetensors(self.path, arrays)
    theirs = safetensors_numpy.load_file(self.path)
    self.assertEqual(theirs.keys(), arrays.keys())
    for name, array in arrays.items():
      archives.assert_same_bits(theirs[name], array)
    safetensors_numpy.save_file(arrays, self.path, {'format': 'np'})
    ours = safetensors_file.open_safetensors(str(self.path))
    self.assertEqual(ours.scalars, {'format': 'np'})
    for name, array in arrays.items():
      archives.assert_same_bits(ours[name].read(), array)

  def test_shards_are_named_and_indexed_as_diffusers_does(self):
    arrays = {f'w{i}': np.full(n, i, np.float32)
              for i, n in enumerate((3, 3, 9, 1))}
    path = self.folder / 'new' / 'diffusion_pytorch_model.safetensors'
    safetensors_file.write_safetensors(path, arrays.items(), shard_bytes=24)
    stem = 'diffusion_pytorch_model'
    self.assertEqual(sorted(os.listdir(path.parent)), [
        f'{stem}-00001-of-00003.safetensors',
        f'{stem}-00002-of-00003.safetensors',
        f'{stem}-00003-of-00003.safetensors', f'{stem}.safetensors.index.json'])
    index = path.with_name(f'{stem}.safetensors.index.json')
    self.assertEqual(json.loads(index.read_text()), {
        'metadata': {'total_size': 64},
        'weight_map': {'w0': f'{stem}-00001-of-00003.safetensors',
                       'w1': f'{stem}-00001-of-00003.safetensors',
                       'w2': f'{stem}-00002-of-00003.safetensors',
                       'w3': f'{stem}-00003-of-00003.safetensors'}})
    weights = safetensors_file.open_index(index)
    self.assertEqual(weights['w2'].read()[0], 2)
    self.assertStartsWith(weights['w2'].file, str(path.parent))
    # What transformers wants to see in a file of PyTorch's.
    self.assertEqual(weights.scalars, {'format': 'pt'})

  def test_one_tensor_of_many_is_read_and_written_at_a_time(self):
    many = {f'x{i}': tensors.Computed(
        (512, 512), np.dtype(jnp.bfloat16),
        lambda i=i: np.full((512, 512), i, jnp.bfloat16)) for i in range(32)}
    written = archives.peak_of(
        lambda: safetensors_file.write_safetensors(
            self.path, many, shard_bytes=5 * MEGABYTE))
    index = self.path.with_name('model.safetensors.index.json')
    opened = archives.peak_of(lambda: safetensors_file.open_index(index))
    weights = safetensors_file.open_index(index)
    read = archives.peak_of(weights['x7'].read)
    # Of 16 MB; beside a tensor's 0.5 MB the files' headers.
    self.assertLess(written, 0.8 * MEGABYTE)
    self.assertLess(opened, 0.3 * MEGABYTE)
    self.assertLess(read, 0.6 * MEGABYTE)
    self.assertEqual(weights['x7'].read()[0, 0], 7)

  def test_a_header_that_does_not_fit_is_refused(self):
    for header, reason in (
        ({'w': entry(shape=(2, 4))}, 'cannot have 24 bytes'),
        ({'w': entry(shape=(10**9, 10**9))}, 'cannot have 24 bytes'),
        ({'w': entry(shape=(2**62, 2**62))}, 'larger than any array'),
        ({'w': entry(shape=(-2, -3))}, 'no shape'),
        ({'w': entry(shape=(2, 3.))}, 'no shape'),
        ({'w': entry(shape=6)}, 'no shape'),
        ({'w': entry(end=28, shape=(7,))}, 'should have .* bytes and has'),
        ({'w': entry(end=20, shape=(5,))}, 'should have .* bytes and has'),
        ({'w': entry(4, 24, shape=(5,))}, 'begins at 4 .* instead of at 0'),
        ({'w': entry(), 'x': entry()}, 'begins at 0 .* instead of at 24'),
        ({'w': entry(-24, 0)}, 'begins at -24'),
        ({'w': entry(0., 24.)}, 'no place'),
        ({'w': entry(dtype='Q4')}, 'unknown dtype Q4'),
        ({'w': entry(dtype=['F32'])}, 'unknown dtype'),
        ({'w': {'dtype': 'F32'}}, 'no dtype, shape and data_offsets'),
        ({'w': 3}, 'no dtype, shape and data_offsets'),
        ({'__metadata__': {'a': 1}, 'w': entry()}, '__metadata__'),
        ([1], 'no JSON object'), (b'{"w": ', ''), (b'\xff', ''),
        (b'[' * 10**5, 'nested'), (b'{"w": 1, "w": 2}', 'a name twice')):
      write_raw(self.path, header, bytes(24))
      self.assertRefused(reason, safetensors_file.open_safetensors, self.path)
    write_raw(self.path, {'w': entry()}, bytes(24))
    safetensors_file.open_safetensors(self.path)

  def test_a_file_that_is_cut_off_anywhere_is_refused(self):
    write_raw(self.path, {'w': entry()}, bytes(24))
    whole = self.path.read_bytes()
    for length in range(len(whole)):
      self.path.write_bytes(whole[:length])
      self.assertRefused('no whole safetensors file',
                         safetensors_file.open_safetensors, self.path)

  def test_what_is_no_such_file_is_refused_before_it_is_read(self):
    for content, reason in (
        (struct.pack('<Q', 2**63) + b'{}', 'something else'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
        (b'', 'cut off')):
      self.path.write_bytes(content)
      self.assertRefused(reason, safetensors_file.open_safetensors, self.path)
    self.assertRefused('cannot be read', safetensors_file.open_safetensors,
                       self.folder / 'absent.safetensors')

  def test_files_with_the_same_tensor_are_refused(self):
    other = self.folder / 'other.safetensors'
    for path in (self.path, other):
      safetensors_file.write_safetensors(path, {'w': np.ones(2)})
    self.assertRefused('both have a tensor w',
                       safetensors_file.open_safetensors, [self.path, other])


class IndexTest(Case):
  """A set of shards and the index that lists them."""

  def setUp(self):
    super().setUp()
    self.index = self.folder / 'model.safetensors.index.json'
    safetensors_file.write_safetensors(
        self.path, {f'w{i}': np.full(2, i) for i in range(6)}, shard_bytes=32)
    self.shards = [self.folder / f'model-0000{i}-of-00003.safetensors'
                   for i in (1, 2, 3)]

  def rewrite(self, **changes):
    content = json.loads(self.index.read_text())
    content['weight_map'] |= changes
    self.index.write_text(json.dumps(content))

  def test_a_missing_shard_is_named(self):
    self.shards[1].unlink()
    self.assertRefused(
        r'lists model-00002-of-00003.safetensors, .* \(1 of 3 files',
        safetensors_file.open_index, self.index)
    self.index.unlink()
    self.assertRefused(
        'neither model-00002-of-00003.safetensors nor an index',
        safetensors_file.open_all, self.folder, [self.shards[0]])

  def test_an_index_that_does_not_tell_the_truth_is_refused(self):
    self.rewrite(w0=self.shards[1].name)
    self.assertRefused('tensor w0 in model-00002.*but it is in model-00001',
                       safetensors_file.open_index, self.index)
    self.rewrite(w0=self.shards[0].name, w9=self.shards[0].name)
    self.assertRefused('tensor w9 in model-00001.*but it is in no file',
                       safetensors_file.open_index, self.index)

  def test_an_index_reaches_only_files_beside_it(self):
    for name in ('../model.safetensors', '/etc/x.safetensors', 'config.json',
                 'a\\b.safetensors'):
      self.rewrite(w0=name)
      self.assertRefused('which is no .safetensors file beside it',
                         safetensors_file.open_index, self.index)

  def test_a_damaged_index_is_refused(self):
    for content in ('', '{', '[]', '{}', '{"weight_map": {}}',
                    '{"weight_map": {"w": 1}}'):
      self.index.write_text(content)
      self.assertRefused('model.safetensors.index.json',
                         safetensors_file.open_index, self.index)

  def test_another_set_is_not_mixed_with_this_one(self):
    before = sorted(os.listdir(self.folder))
    self.assertRefused('is of another set of weights',
                       safetensors_file.write_safetensors, self.path,
                       {'w': np.ones(2)})
    self.assertEqual(sorted(os.listdir(self.folder)), before)
    # The same names are replaced.
    safetensors_file.write_safetensors(
        self.path, {f'w{i}': np.full(2, i + 5) for i in range(6)},
        shard_bytes=32)
    weights = safetensors_file.open_index(self.index)
    self.assertEqual(weights['w2'].read()[0], 7)


class WriteTest(Case):

  def setUp(self):
    super().setUp()
    self.path = self.folder / 'new' / self.path.name

  def test_nothing_is_written_when_there_is_no_room(self):
    usage = mock.Mock(free=10**6)
    with mock.patch.object(shutil, 'disk_usage', return_value=usage):
      with self.assertRaisesRegex(UserError, 'needs .* has 1,000,000 bytes'):
        safetensors_file.write_safetensors(
            self.path, {'w': np.zeros(10**6, np.uint8)})
    self.assertEmpty(list(self.folder.iterdir()))

  def test_nothing_is_left_when_writing_fails(self):
    for error, expected in ((OSError('full'), UserError),
                            (KeyboardInterrupt(), KeyboardInterrupt)):
      broken = tensors.Computed((2,), np.dtype(np.float32),
                                mock.Mock(side_effect=error))
      with self.assertRaises(expected):
        safetensors_file.write_safetensors(
            self.path, {'v': np.zeros(3), 'w': broken}, shard_bytes=8)
      self.assertEmpty(os.listdir(self.path.parent))

  def test_what_does_not_belong_in_a_file_is_an_error(self):
    x = np.ones(2)
    wrong = tensors.Computed((2,), np.dtype(np.float32), lambda: x)
    for path, named, metadata in (
        (self.path, {'w': wrong}, None), (self.path, {'w': object()}, None),
        (self.path, [('w', x), ('w', x)], None),
        (self.path, {'w': x.astype(complex)}, None),
        (self.path, {'__metadata__': x}, None),
        (self.path, {'w': x}, {'step': 3}),
        (self.path.with_suffix('.pt'), {'w': x}, None)):
      with self.assertRaises(ValueError):
        safetensors_file.write_safetensors(path, named, metadata)
    self.assertFalse(self.path.exists())


if __name__ == '__main__':
  absltest.main()

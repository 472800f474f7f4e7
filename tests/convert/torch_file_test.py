"""Files of torch.save: tensors come out, code does not run."""

import os
import pathlib
import pickle
import shutil
import struct
from unittest import mock
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import hypothesis
from hypothesis import strategies
import jax.numpy as jnp
import numpy as np

from tests.convert import archives
from worldsim_jax.convert import tensors
from worldsim_jax.convert import torch_file
from worldsim_jax.errors import UserError

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / 'golden'
FILES = pathlib.Path(
    absltest.get_default_test_tmpdir(), f'torch_file_test.{os.getpid()}')
MEGABYTE = 2**20
KINDS = strategies.sampled_from(tensors.KINDS)
SHAPES = strategies.lists(strategies.integers(0, 4), max_size=4)


def setUpModule():
  FILES.mkdir(parents=True, exist_ok=True)


def tearDownModule():
  shutil.rmtree(FILES)


class RoundTripTest(parameterized.TestCase):

  @archives.settings
  @hypothesis.given(strategies.lists(strategies.tuples(KINDS, SHAPES),
                                     min_size=1, max_size=4))
  def test_what_is_written_is_read(self, specs):
    path = FILES / 'any.pt'
    arrays = {f'x.{i}': archives.some_bits(kind, shape, i)
              for i, (kind, shape) in enumerate(specs)}
    torch_file.write_torch(path, {'generator': arrays, 'step': 3})
    weights = torch_file.open_torch(path)
    self.assertEqual(weights.scalars, {'step': 3})
    self.assertEqual(weights.groups(), {'generator': len(arrays)})
    self.assertEqual(weights.nbytes, sum(x.nbytes for x in arrays.values()))
    inside = weights.group('generator')
    self.assertEqual(list(inside), list(arrays))
    for name, array in arrays.items():
      archives.assert_same_bits(inside[name].read(), array)

  @archives.settings
  @hypothesis.given(strategies.data())
  def test_views_are_read_with_their_strides(self, data):
    kind = data.draw(KINDS)
    shape = data.draw(strategies.lists(strategies.integers(1, 5), max_size=4))
    base = archives.some_bits(kind, shape)
    order = data.draw(strategies.permutations(range(base.ndim)))
    cuts = tuple(
        slice(data.draw(strategies.integers(0, n - 1)), n,
              data.draw(strategies.integers(1, 3))) for n in shape)
    view = base[*cuts, ...].transpose(order)
    size = kind.dtype.itemsize
    offset = (view.__array_interface__['data'][0]
              - base.__array_interface__['data'][0]) // size
    strides = tuple(step // size for step in view.strides)
    if kind.storage:
      content = archives.tensor(
          offset, view.shape, strides,
          archives.storage(f'torch {kind.storage}', '0', base.size))
    else:
      content = archives.call(
          'torch._utils _rebuild_tensor_v3',
          archives.storage('torch.storage UntypedStorage', '0', base.nbytes),
          *map(archives.literal, (offset, view.shape, strides, False, None)),
          archives.glob(f'torch {kind.dtype.name}'))
    path = archives.write(FILES / 'view.pt', archives.tree(x=content),
                          {'0': base.tobytes()})
    found = torch_file.open_torch(path)['x'].read()
    archives.assert_same_bits(found, view)
    self.assertTrue(found.flags.c_contiguous)

  def test_a_nested_file_is_a_mapping_of_paths(self):
    path = FILES / 'nested.pt'
    x = np.arange(3, dtype=np.float32)
    torch_file.write_torch(path, {
        'generator': {'model.a': x}, 'critic': {'model.a': x + 1},
        'optimizer': {'state': {0: {'step': x + 2}}, 'betas': (0.0, 0.999)},
        'list': [x + 3], 'alone': x + 4, 'name': 'wan', 'none': None})
    weights = torch_file.open_torch(path)
    self.assertEqual(
        {name: tensor.read()[0] for name, tensor in weights.items()},
        {'generator/model.a': 0, 'critic/model.a': 1,
         'optimizer/state/0/step': 2, 'list/0': 3, 'alone': 4})
    self.assertEqual(weights.scalars, {
        'optimizer/betas/0': 0.0, 'optimizer/betas/1': 0.999, 'name': 'wan',
        'none': None})
    self.assertEqual(
        weights.groups(),
        {'generator': 1, 'critic': 1, 'optimizer': 1, 'list': 1})
    self.assertEqual(weights.group('optimizer').scalars,
                     {'betas/0': 0.0, 'betas/1': 0.999})
    self.assertEqual(weights['critic/model.a'].file, str(path))
    with self.assertRaisesRegex(UserError, "no group 'ema' but generator, "):
      weights.group('ema')

  def test_what_torch_wrote_is_read(self):
    # tests/golden/make_torch_files.py wrote both, with torch and with numpy.
    weights = torch_file.open_torch(GOLDEN / 'torch_files.pt')
    golden = np.load(GOLDEN / 'torch_files.npz')
    self.assertEqual(set(weights), {key.partition('|')[0] for key in golden})
    for key in golden:
      name, _, dtype = key.partition('|')
      archives.assert_same_bits(weights[name].read(), golden[key].view(dtype))
    self.assertEqual(weights.scalars['step'], 600)

  def test_the_same_tree_makes_the_same_bytes(self):
    for name in ('one.pt', 'two.pt'):
      torch_file.write_torch(FILES / name, {'x': np.ones(5)})
    self.assertEqual((FILES / 'one.pt').read_bytes(),
                     (FILES / 'two.pt').read_bytes())

  def test_data_is_aligned_so_that_it_can_be_mapped(self):
    path = FILES / 'aligned.pt'
    torch_file.write_torch(path, [np.ones(n, np.uint8) for n in range(1, 99)])
    for tensor in torch_file.open_torch(path).values():
      self.assertEqual(tensor.offset % 64, 0)

  def test_one_tensor_of_many_is_read_and_written_at_a_time(self):
    path = FILES / 'large.pt'
    many = {f'x{i}': tensors.Computed(
        (512, 512), np.dtype(np.float32),
        lambda i=i: np.full((512, 512), i, np.float32)) for i in range(16)}
    written = archives.peak_of(lambda: torch_file.write_torch(path, many))
    opened = archives.peak_of(lambda: torch_file.open_torch(path))
    weights = torch_file.open_torch(path)
    read = archives.peak_of(weights['x7'].read)
    # Of 16 MB; beside a tensor's 1 MB the file's tables and buffers.
    self.assertLess(written, 1.3 * MEGABYTE)
    self.assertLess(opened, 0.3 * MEGABYTE)
    self.assertLess(read, 1.1 * MEGABYTE)
    self.assertEqual(weights['x7'].read()[0, 0], 7)


class ArchiveTest(archives.RefusalCase):
  """The zip archive around it."""

  def test_a_file_that_is_cut_off_anywhere_is_refused(self):
    archives.write(self.path, archives.tensor())
    whole = self.path.read_bytes()
    for length in range(0, len(whole), 7):
      self.path.write_bytes(whole[:length])
      self.assertRefused('')

  def test_any_changed_byte_gives_a_tensor_or_a_refusal(self):
    archives.write(self.path, archives.tree(w=archives.tensor()))
    whole = self.path.read_bytes()
    for i in range(len(whole)):
      self.path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8])
                            + whole[i + 1:])
      try:
        for tensor in torch_file.open_torch(self.path).values():
          self.assertLessEqual(tensor.read().nbytes, 24)
      except UserError:
        pass

  def test_a_file_cut_off_after_it_was_opened_is_named(self):
    archives.write(self.path, archives.tensor())
    tensor = torch_file.open_torch(self.path)['']
    self.path.write_bytes(self.path.read_bytes()[:tensor.offset + 5])
    with self.assertRaisesRegex(UserError, 'cut off: 19 of 24 bytes'):
      tensor.read()
    self.path.unlink()
    with self.assertRaisesRegex(UserError, 'cannot be read'):
      tensor.read()

  def test_compressed_and_encrypted_entries_are_refused(self):
    archives.write(self.path, archives.tensor(),
                   compression=zipfile.ZIP_DEFLATED)
    self.assertRefused('is compressed')
    archives.write(self.path, archives.tensor())
    whole = bytearray(self.path.read_bytes())
    whole[whole.index(b'PK\x01\x02') + 8] |= 1  # In the table of contents.
    self.path.write_bytes(whole)
    self.assertRefused('is encrypted')

  def test_big_endian_files_are_refused(self):
    archives.write(self.path, archives.tensor(), extra={'byteorder': b'little'})
    torch_file.open_torch(self.path)
    archives.write(self.path, archives.tensor(), extra={'byteorder': b'big'})
    self.assertRefused('byteorder')

  def test_entries_outside_the_folder_are_refused(self):
    for folder in ('../', '/', '', 'a/b/'):
      archives.write(self.path, archives.tensor(), folder=folder)
      self.assertRefused('')
    archives.write(self.path, archives.tensor(),
                   extra={'data/../../../etc/passwd': b''})
    self.assertRefused('an entry')

  def test_programs_and_other_zips_are_refused(self):
    archives.write(self.path, archives.tensor(), extra={'constants.pkl': b''})
    self.assertRefused('TorchScript')
    with zipfile.ZipFile(self.path, 'w') as archive:
      archive.writestr('word/document.xml', '')
    self.assertRefused('no data.pkl')

  def test_files_of_older_formats_are_refused_by_name(self):
    # What torch.save wrote before 1.6: pickles one after the other.
    self.path.write_bytes(pickle.dumps(0x1950a86a20f9469cfc6c, protocol=2)
                          + pickle.dumps(1001, protocol=2))
    self.assertRefused('before PyTorch 1.6')
    self.path.write_bytes(pickle.dumps({'w': 3}))
    self.assertRefused('no file of torch.save')
    self.path.write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    self.assertRefused('git lfs pull')
    self.assertRefused('cannot be read', FILES / 'absent.pt')
    self.assertRefused('cannot be read', FILES)

  def test_a_wrong_table_of_contents_is_refused(self):
    archives.write(self.path, archives.tensor())
    whole = self.path.read_bytes()
    first = whole.index(b'PK\x01\x02')
    for value in (7, 2**31, 2**32 - 2):
      changed = bytearray(whole)
      struct.pack_into('<I', changed, first + 42, value)  # Where data.pkl is.
      self.path.write_bytes(changed)
      self.assertRefused('')


class WriteTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir())
    self.path = self.folder / 'new' / 'w.pt'

  def test_nothing_is_written_when_there_is_no_room(self):
    usage = mock.Mock(free=10**6)
    with mock.patch.object(shutil, 'disk_usage', return_value=usage):
      with self.assertRaisesRegex(UserError, 'needs .* has 1,000,000 bytes'):
        torch_file.write_torch(self.path, {'w': np.zeros(10**6, np.uint8)})
      self.assertEmpty(list(self.folder.iterdir()))
      torch_file.write_torch(self.path, {'w': np.zeros(9 * 10**5, np.uint8)})

  def test_an_older_file_stays_when_writing_fails(self):
    torch_file.write_torch(self.path, {'w': np.ones(3)})
    full = tensors.Computed((2,), np.dtype(np.float32),
                            mock.Mock(side_effect=OSError('disk is full')))
    with self.assertRaisesRegex(UserError, 'could not be written: disk is'):
      torch_file.write_torch(self.path, {'w': np.zeros(3), 'x': full})
    self.assertEqual(os.listdir(self.path.parent), ['w.pt'])
    self.assertEqual(torch_file.open_torch(self.path)['w'].read()[0], 1)

  def test_what_does_not_belong_in_a_file_is_an_error(self):
    wrong = tensors.Computed((2,), np.dtype(np.float32), lambda: np.zeros(3))
    for tree in ({'w': wrong}, {'w': object()}, {('a', 'b'): np.ones(1)},
                 {'w': np.array(['text'])}, {'w': jnp.int4}):
      with self.assertRaises(ValueError):
        torch_file.write_torch(self.path, tree)
    self.assertFalse(self.path.exists())
    with self.assertRaisesRegex(UserError, 'local folder only'):
      torch_file.write_torch('gs://bucket/w.pt', {'w': np.ones(1)})


if __name__ == '__main__':
  absltest.main()

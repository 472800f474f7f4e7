"""Weight files are PyTorch's: torch and safetensors.torch on the other side."""

import collections
import os
import pathlib
import shutil

import pytest

torch = pytest.importorskip('torch')

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import safetensors.torch

from worldsim_jax.convert import tensors
from worldsim_jax.convert.files import open_weights
from worldsim_jax.convert.safetensors_file import write_safetensors
from worldsim_jax.convert.torch_file import open_torch
from worldsim_jax.convert.torch_file import write_torch
from worldsim_jax.errors import UserError

NAMES = tuple(kind.dtype.name for kind in tensors.KINDS)


def some_bits(name, shape=(3, 4), seed=0):
  """A tensor of any bits of that dtype."""
  dtype = getattr(torch, name)
  generator = torch.Generator().manual_seed(seed)
  high = 2 if dtype == torch.bool else 256
  size = torch.empty(0, dtype=dtype).element_size()
  raw = torch.randint(0, high, (*shape, size), dtype=torch.uint8,
                      generator=generator)
  return raw.view(dtype).reshape(shape)


def bytes_of(x) -> bytes:
  """Of a tensor, in C order."""
  flat = x.detach().contiguous().reshape(-1)
  return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b''


class TorchFilesCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir())
    self.path = self.folder / 'w.pt'

  def assertSame(self, ours, theirs):
    self.assertEqual(ours.dtype.name, str(theirs.dtype).removeprefix('torch.'))
    self.assertEqual(ours.shape, tuple(theirs.shape))
    self.assertEqual(ours.tobytes(), bytes_of(theirs))


class TorchFilesTest(TorchFilesCase):

  def saved(self, tree, **options):
    torch.save(tree, self.path, **options)
    return open_weights(self.path)

  @parameterized.parameters(*NAMES)
  def test_each_dtype_goes_there_and_back_with_equal_bits(self, name):
    x = some_bits(name)
    for theirs in (x, x.T, x[1:, ::2], x[1, 2], x[:, :0]):
      ours = self.saved({'x': theirs})['x'].read()
      self.assertSame(ours, theirs)
      write_torch(self.path, {'x': ours})
      again = torch.load(self.path, weights_only=True)['x']
      self.assertSame(ours, again)
      self.assertTrue(again.is_contiguous())

  @parameterized.parameters(2, 3, 4, 5)
  def test_views_of_one_storage_are_read_in_any_protocol(self, protocol):
    base = torch.arange(120.).reshape(2, 3, 4, 5)
    views = {
        'base': base, 'tail': base[1], 'middle': base[:, 1:2],
        'permuted': base.permute(3, 1, 0, 2), 'column': base[..., 3],
        'strided': base.as_strided((4, 3), (2, 7), 5),
        'channels_last': base.contiguous(memory_format=torch.channels_last),
        'diagonal': torch.diagonal(base[0, :, :3]), 'flat': base.reshape(-1)}
    weights = self.saved(views, pickle_protocol=protocol)
    self.assertLess(self.path.stat().st_size, 10_000)  # It is saved twice.
    for name, view in views.items():
      self.assertSame(weights[name].read(), view)

  def test_checkpoints_of_self_forcing_s_form_are_read(self):
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    # As torch.optim has it; importing that takes half a minute.
    optimizer = {
        'state': {i: {'step': torch.tensor(1.), 'exp_avg': x, 'exp_avg_sq': x}
                  for i, x in enumerate(model.parameters())},
        'param_groups': [{'lr': 2e-6, 'betas': (0., 0.999), 'foreach': None,
                          'params': [0, 1, 2, 3]}]}
    weights = self.saved({
        'generator': model.state_dict(),
        'critic': collections.OrderedDict(model.named_parameters()),
        'generator_ema': dict(model.named_parameters()),
        'optimizer': optimizer, 'step': 600})
    self.assertEqual(weights.groups(), {
        'generator': 7, 'critic': 4, 'generator_ema': 4, 'optimizer': 12})
    self.assertEqual(weights.scalars['step'], 600)
    generator = weights.group('generator')
    self.assertEqual(list(generator), list(model.state_dict()))
    for name, x in model.state_dict().items():
      self.assertSame(generator[name].read(), x)
    for name, x in model.named_parameters():
      self.assertSame(weights[f'critic/{name}'].read(), x)

  def test_parameters_buffers_and_attributes_are_tensors(self):
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    marked = torch.nn.Parameter(torch.zeros(2))
    marked.is_expert = True
    buffer = torch.nn.Buffer(torch.full((2,), 3.))
    tree = {'p': parameter, 'm': marked, 'b': buffer,
            't': torch.tensor(2., requires_grad=True)}
    weights = self.saved(tree)
    for name, x in tree.items():
      self.assertSame(weights[name].read(), x)
    self.assertSame(self.saved(parameter)[''].read(), parameter)

  def test_what_is_no_file_of_tensors_is_refused(self):
    linear = torch.nn.Linear(1, 1)
    for tree, reason in (
        ({'model': linear}, 'torch.nn.modules.linear.Linear'),
        ({'x': np.ones(2)}, 'numpy'), ({'x': {1, 2}}, 'set'),
        ({'x': torch.ones(2).to_sparse()}, 'sparse'),
        ({'x': torch.ones(2, dtype=torch.complex64).conj()}, 'conjugate'),
        ({'x': torch.quantize_per_tensor(
            torch.ones(2), 1., 0, torch.qint8)}, 'rebuild_qtensor'),
        ({'x': torch.ones(2).untyped_storage()}, 'a Storage'),
        ({'x': torch.zeros(1).expand(10**6, 10**6)}, 'does not fit')):
      with self.assertRaisesRegex(UserError, reason):
        self.saved(tree)

  def test_older_formats_and_programs_are_refused(self):
    with self.assertRaisesRegex(UserError, 'before PyTorch 1.6'):
      self.saved({'x': torch.ones(2)}, _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.Linear(1, 1)).save(self.path)
    with self.assertRaisesRegex(UserError, 'TorchScript'):
      open_torch(self.path)

  def test_torch_reads_trees_of_ours_mapped_or_not(self):
    tree = {'generator': {f'w{i}': np.full((i, 3), i, np.float32)
                          for i in range(5)},
            'step': 600, 'name': 'wän', 'nothing': None, 'rate': 2e-6,
            'flag': True, 'betas': (0., 0.999), 'list': [1, -2**40]}
    write_torch(self.path, tree)
    for mapped in (False, True):
      found = torch.load(self.path, weights_only=True, mmap=mapped)
      generator = found.pop('generator')
      self.assertEqual(found, {k: v for k, v in tree.items()
                               if k != 'generator'})
      for name, x in tree['generator'].items():
        self.assertSame(x, generator[name])
    module = torch.nn.Linear(3, 4)
    write_torch(self.path, {'weight': tree['generator']['w4'],
                            'bias': np.ones(4, np.float32)})
    module.load_state_dict(torch.load(self.path, weights_only=True))

  def test_torch_s_own_reading_of_the_golden_file_is_ours(self):
    # As saved by the version of torch that wrote it.
    golden = pathlib.Path(__file__).resolve().parents[1] / 'golden'
    shutil.copy(golden / 'torch_files.pt', self.path)
    theirs = torch.load(self.path, weights_only=True)
    weights = open_torch(self.path)
    for name, x in theirs['dtypes'].items():
      self.assertSame(weights[f'dtypes/{name}'].read(), x)


class SafetensorsTest(TorchFilesCase):

  def test_each_dtype_goes_there_and_back_with_equal_bits(self):
    # safetensors.torch 0.8 has no complex128, and cannot read float8_e8m0fnu.
    names = set(NAMES) - {'complex128', 'float8_e8m0fnu'}
    tree = {name: some_bits(name) for name in names}
    tree |= {'scalar': torch.tensor(3.), 'empty': torch.zeros(2, 0, 3)}
    self.path = self.folder / 'w.safetensors'
    safetensors.torch.save_file(tree, self.path, {'format': 'pt'})
    weights = open_weights(self.path)
    self.assertEqual(set(weights), set(tree))
    for name, x in tree.items():
      self.assertSame(weights[name].read(), x)
    ours = self.folder / 'ours' / 'w.safetensors'
    write_safetensors(ours, weights)
    again = safetensors.torch.load_file(ours)
    self.assertEqual(set(again), set(tree))
    for name, x in tree.items():
      self.assertEqual(again[name].dtype, x.dtype)
      self.assertEqual(bytes_of(again[name]), bytes_of(x))

  @pytest.mark.slow  # Half of it is the import of diffusers.
  def test_folders_of_wan_go_to_diffusers_and_back(self):
    pytest.importorskip('accelerate')  # Loads parts of a model in float32.
    transformer = pytest.importorskip('diffusers').WanTransformer3DModel
    model = transformer(num_attention_heads=1, attention_head_dim=12,
                        ffn_dim=20, num_layers=2, text_dim=5)
    model = model.to(torch.bfloat16)
    model.save_pretrained(self.folder / 'theirs', max_shard_size='5KB')
    weights = open_weights(self.folder / 'theirs')
    self.assertEqual(weights.config['ffn_dim'], 20)
    self.assertEqual(set(weights), set(model.state_dict()))
    for name, x in model.state_dict().items():
      self.assertSame(weights[name].read(), x)
    ours = self.folder / 'ours'
    write_safetensors(ours / 'diffusion_pytorch_model.safetensors', weights,
                      shard_bytes=5_000)
    self.assertGreater(len(os.listdir(ours)), 3)
    shutil.copy(self.folder / 'theirs' / 'config.json', ours)
    again = transformer.from_pretrained(ours, torch_dtype=torch.bfloat16)
    kept = again._keep_in_fp32_modules
    for name, x in again.state_dict().items():
      # Of some layers diffusers wants float32 whatever it is told.
      exact = any(part in name.split('.') for part in kept)
      self.assertEqual(x.dtype, torch.float32 if exact else torch.bfloat16)
      self.assertSame(weights[name].read(), x.to(torch.bfloat16))


if __name__ == '__main__':
  absltest.main()

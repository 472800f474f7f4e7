"""What cannot be converted is refused in one line, and nothing is written."""

import json
import pathlib
import struct
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from tests.convert import releases
from tests.convert.convert_test import contents
from worldsim_jax.convert import disk
from worldsim_jax.convert import into_world
from worldsim_jax.convert import mapping
from worldsim_jax.convert import out_of_world
from worldsim_jax.convert import safetensors_file
from worldsim_jax.convert import torch_file
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.errors import UserError
from worldsim_jax.train import assemble


class CommandTest(absltest.TestCase):

  @pytest.mark.slow
  def test_the_command_converts_there_and_back_or_ends_with_one_line(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    given = releases.self_forcing(root / 'self_forcing.pt')

    def run(*flags):
      done = subprocess.run(
          [sys.executable, '-m', 'worldsim_jax.main', '--mode=convert', *flags],
          text=True, capture_output=True, check=False)
      return done.returncode, done.stdout, done.stderr

    code, told, _ = run(f'--source={given}', f'--target={root}/world',
                        '--network=generator')
    self.assertEqual(code, 0)
    self.assertRegex(
        told, 'transformer: 432,112 parameters in 69 tensors, float32, of .*'
        'self_forcing.pt, generator\n')
    self.assertEqual(run(f'--source={root}/world', f'--target={root}/back',
                         '--format=wan')[0], 0)
    back = contents(root / 'back')
    for name, x in releases.transformer().items():
      np.testing.assert_array_equal(back[name], x)
    code, _, told = run(f'--source={given}', f'--target={root}/other',
                        '--network=x')
    self.assertEqual(code, 2)
    self.assertRegex(told, r'^error: .*has no --network=x but .*\n$')
    self.assertFalse((root / 'other').exists())


class RefusalTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.given = self.root / 'given.safetensors'
    self.world = self.root / 'world'

  def refused(self, message, *named, **settings):
    before = sorted(self.root.rglob('*'))
    with self.assertRaisesRegex(UserError, message):
      into_world.convert([str(name) for name in named or (self.given,)],
                         self.world, **settings)
    self.assertEqual(sorted(self.root.rglob('*')), before)

  def write(self, tensors):
    safetensors_file.write_safetensors(self.given, tensors)

  def test_a_tensor_that_does_not_fit_is_named_with_both_shapes(self):
    good, name = releases.transformer(), 'blocks.1.ffn.0.bias'
    self.write({key: x for key, x in good.items() if key != name})
    self.refused(rf'given\.safetensors: {name} \(24,\) is missing')
    self.write(good | {name: np.zeros(25, np.float32)})
    self.refused(rf'given\.safetensors: {name} has shape \(25,\), a Wan '
                 r'transformer of this size has \(24,\)')
    self.write(good | {'blocks.1.ffn.3.bias': good[name]})
    self.refused(r'given\.safetensors: blocks\.1\.ffn\.3\.bias')

  def test_a_torch_file_that_is_cut_off_or_no_tensors_is_refused(self):
    whole = releases.self_forcing(self.root / 'whole.pt').read_bytes()
    cut = self.root / 'cut.pt'
    cut.write_bytes(whole[:len(whole) // 2])
    self.refused('cut.pt is refused', cut)
    torch_file.write_torch(cut, {'learning_rate': 1e-4})
    self.refused('cut.pt is refused: it has no tensors', cut)

  def test_weights_of_something_else_are_refused(self):
    self.write({'conv.weight': np.zeros((2, 2), np.float32)})
    self.refused('is of no model that can be read .* conv.weight')
    self.refused('nowhere is not there', self.root / 'nowhere')

  @pytest.mark.slow
  def test_two_of_a_kind_are_refused(self):
    self.write(releases.transformer())
    other = releases.self_forcing(self.root / 'other.pt')
    self.refused('are both a transformer', self.given, other)
    self.refused(r'has no --network=critic but generator', self._one_network(),
                 network='critic')
    self.refused('of which none was named', network='critic')
    # A file that is named goes before what a folder has.
    wan = releases.wan(self.root / 'wan', tiny=True)
    torch_file.write_torch(wan / 'Wan2.1_VAE.pth', releases.tokenizer())
    self.refused('are both a tokenizer: name the file of one', wan)
    into_world.convert([str(wan), str(wan / 'taew2_1.pth')], self.world)
    self.assertEqual(assemble.load(self.world).vae,
                     releases.TINY_TOKENIZER.clone(dtype='float32'))

  def test_a_lora_needs_what_it_changes_in_a_file_of_its_own(self):
    factors = {f'blocks.0.ffn.0.lora_{name}.weight': np.zeros(
        shape, np.float32) for name, shape in (('A', (2, 128)), ('B', (24, 2)))}
    self.write(factors)
    vae = self.root / 'vae.pth'
    torch_file.write_torch(vae, releases.tokenizer())
    self.refused('is a LoRA: name the weights that it changes', self.given, vae)
    self.refused(r'--lora_alpha=0\.0 is there for a LoRA', self._one_network(),
                 self.given, lora_alpha=0.)
    self.refused(r'--lora_alpha=1\.0 is there for a LoRA', self._one_network(),
                 lora_alpha=1.)
    self.write(releases.transformer() | factors)
    self.refused('a transformer and a LoRA together')
    folder = self.root / 'both'
    for name, tensors in (('model', releases.transformer()), ('lora', factors)):
      safetensors_file.write_safetensors(
          folder / f'{name}.safetensors', tensors)
    self.refused('both has 2 sets of weights; name one of lora', folder)

  def test_two_processes_do_not_write_one_target(self):
    self.write(releases.transformer())
    with disk.alone(self.world):
      with self.assertRaisesRegex(UserError, 'another process is writing'):
        into_world.convert([str(self.given)], self.world)
    into_world.convert([str(self.given)], self.world)

  def _one_network(self):
    torch_file.write_torch(self.root / 'one.pt',
                           {'generator': releases.transformer()})
    return self.root / 'one.pt'

  def test_quantised_weights_are_refused(self):
    tensors = releases.transformer()
    name = 'blocks.0.ffn.0.weight'
    self.write(tensors | {name: tensors[name].astype(jnp.float8_e4m3fn)})
    self.refused(rf'{name} is of float8_e4m3fn; quantised')

  def test_what_does_not_belong_together_is_refused(self):
    self.write(releases.transformer())
    config = ml_collections.ConfigDict(
        dict(model=dict(dim=256), text={}, student={}, vae={}))
    self.refused(r'config\.model\.dim=256, but the weights have 128',
                 config=config)
    wan = releases.wan(self.root / 'wan')
    for file in (wan / 'google/umt5-xxl').iterdir():
      file.unlink()
    self.refused('needs its tokenizer', wan)

  def test_a_disk_too_small_is_told_before_anything_is_written(self):
    params = wan_dit_keys.shapes(releases.TRANSFORMER.clone(
        dim=128 * 100, ffn_dim=10**5, num_layers=200))
    big = mapping.to_tensors(params, wan_dit_keys.places(params, 'wan'))
    header, end = {}, 0
    for name, x in big.items():
      header[name] = {'dtype': 'F32', 'shape': list(x.shape),
                      'data_offsets': [end, end + 4 * int(np.prod(x.shape))]}
      end = header[name]['data_offsets'][1]
    text = json.dumps(header).encode()
    with self.given.open('wb') as f:  # Of holes: it takes no room itself.
      f.write(struct.pack('<Q', len(text)) + text)
      f.truncate(8 + len(text) + end)
    self.refused(r'needs \d+\.\d GB and .* free; nothing was written')

  def test_a_target_that_is_something_else_is_left_alone(self):
    self.write(releases.transformer())
    self.world.mkdir()
    (self.world / 'thesis.tex').write_text('')
    self.refused('--target=.*world is there already; it is left')
    into_world.convert([str(self.given)], self.root / 'good')
    for target, format_, message in (
        (self.world, 'diffusers', 'is there already'),
        (self.root / 'x', 'gguf', 'is not one of diffusers, wan, self_forcing'),
        (self.given, 'self_forcing', 'is there already'),
        (self.root / 'x', 'self_forcing', r'must end with \.pt')):
      with self.assertRaisesRegex(UserError, message):
        out_of_world.convert(self.root / 'good', target, format_)
    self.assertEqual([f.name for f in self.world.iterdir()], ['thesis.tex'])
    self.assertFalse((self.root / 'x').exists())


if __name__ == '__main__':
  absltest.main()

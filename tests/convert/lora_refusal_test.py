"""LoRA files that do not fit are refused in one line, before they are read."""

import json

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np

from tests.convert.adapters import counted
from tests.convert.adapters import DIM
from tests.convert.adapters import factors
from tests.convert.adapters import FFN
from tests.convert.adapters import make_base
from tests.convert.adapters import RANK
from tests.convert.adapters import weights
from worldsim_jax.convert import lora
from worldsim_jax.errors import UserError

MODULE = 'blocks.0.ffn.0'
A, B = f'{MODULE}.lora_A.weight', f'{MODULE}.lora_B.weight'


class RefusalTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.base = make_base()
    self.a, self.b = factors(self.base, MODULE)
    self.arrays = {A: self.a, B: self.b}
    self.scalars = {}

  def assertRefused(self, pattern):
    base, file = counted(self.base), weights(self.arrays, self.scalars)
    with self.assertRaisesRegex(UserError, pattern) as raised:
      lora.merged(base, file)
    self.assertNotIn('\n', str(raised.exception))
    self.assertIn('some.safetensors', str(raised.exception))
    self.assertEqual(sum(x.reads for x in (*base.values(), *file.values())), 0)

  @parameterized.parameters(
      ('lora_A', 'lora_B'), ('lora_B', 'lora_A'), ('lora_down', 'lora_up'),
      ('lora_up', 'lora_down'))
  def test_a_factor_without_its_twin(self, factor, twin):
    name = f'diffusion_model.{MODULE}.{factor}.weight'
    self.arrays = {name: self.arrays[A if factor < twin else B]}
    self.assertRefused(f'{name} has no diffusion_model.{MODULE}.{twin}.weight')

  def test_an_alpha_without_factors(self):
    self.arrays['blocks.1.ffn.0.alpha'] = np.float32(3)
    self.assertRefused('blocks.1.ffn.0.alpha has no factors beside it')

  def test_another_rank(self):
    self.arrays[B] = self.b[:, :2]
    self.assertRefused(
        rf'{B} has shape \({FFN}, 2\), expected \({FFN}, {RANK}\): '
        rf'{MODULE}.weight is \({FFN}, {DIM}\)')

  def test_other_widths(self):
    self.arrays[A] = np.ones((RANK, 7))
    self.assertRefused(
        rf'{A} has shape \({RANK}, 7\), expected \({RANK}, {DIM}\)')
    self.arrays = {A: self.a, B: self.b[:-1]}
    self.assertRefused(
        rf'{B} has shape \({FFN - 1}, {RANK}\), expected \({FFN}, {RANK}\)')

  def test_factors_in_each_others_place(self):
    self.arrays = {A: self.b, B: self.a}
    self.assertRefused(
        rf'{A} has shape \({FFN}, {RANK}\), expected \({FFN}, {DIM}\)')

  @parameterized.parameters(((0, DIM), (FFN, 0)), ((), ()), ((1, 1, DIM), (1,)))
  def test_factors_that_are_none(self, *shapes):
    self.arrays = {A: np.ones(shapes[0]), B: np.ones(shapes[1])}
    self.assertRefused(rf'{A} has shape .*, expected \(1, {DIM}\)')

  @parameterized.parameters(
      ('diff', 'weight', (FFN, DIM)), ('diff_b', 'bias', (FFN,)))
  def test_a_difference_of_another_shape(self, kind, leaf, shape):
    self.arrays = {f'{MODULE}.{kind}': np.ones(5)}
    shape = str(shape).replace('(', r'\(').replace(')', r'\)')
    self.assertRefused(rf'{MODULE}.{kind} has shape \(5,\), expected {shape}: '
                       rf'{MODULE}.{leaf} is {shape}')

  def test_an_alpha_that_is_no_number(self):
    self.arrays[f'{MODULE}.alpha'] = np.ones(2)
    self.assertRefused(rf'{MODULE}.alpha has shape \(2,\), expected \(\)')

  def test_factors_of_what_is_no_matrix(self):
    self.arrays = {f'blocks.0.norm3.lora_{x}.weight': np.ones((1, DIM))
                   for x in 'AB'}
    self.assertRefused('norm3.lora_A.weight is for a tensor of shape '
                       rf'\({DIM},\), which has no factors')

  @parameterized.parameters(
      ('diffusion_model.blocks.2.ffn.0.lora_up.weight',
       'blocks.2.ffn.0.weight'),
      ('transformer.blocks.0.attn1.to_x.lora_B.weight',
       'blocks.0.attn1.to_x.weight'),
      ('transformer_2.blocks.0.attn1.to_q.lora_A.weight',
       'transformer_2.blocks.0.attn1.to_q.weight'),
      ('lora_unet_blocks_7_ffn_0.lora_down.weight', 'blocks_7_ffn_0.weight'),
      ('lora_te_text_model_layers_0.lora_down.weight',
       'lora_te_text_model_layers_0.weight'),
      ('diffusion_model.vace_blocks.0.diff_b', 'vace_blocks.0.bias'),
      ('blocks.0.norm1.diff', 'blocks.0.norm1.weight'),
      ('blocks.0.norm1.diff_m', 'blocks.0.norm1.modulation'))
  def test_a_target_that_the_base_does_not_have(self, name, target):
    self.arrays[name] = self.a
    self.assertRefused(f'{name} is for {target}, which the base does not have')

  @parameterized.parameters(
      'blocks.0.ffn.0.lora_magnitude_vector',
      'blocks.0.ffn.0.lora_magnitude_vector.default.weight',
      'lora_unet_blocks_0_ffn_0.dora_scale')
  def test_dora(self, name):
    self.arrays[name] = np.ones(FFN)
    self.assertTrue(lora.is_lora([name]))
    self.assertRefused(f'{name} is of DoRA')

  @parameterized.parameters(
      (f'{MODULE}.weight', False),
      (f'base_model.model.{MODULE}.base_layer.weight', False),
      (f'{MODULE}.lora_B.bias', True), (f'{MODULE}.lora_mid.weight', True),
      (f'{MODULE}.lora_embedding_A', True), (f'{MODULE}.hada_w1_a', True),
      (f'{MODULE}.lokr_w1', True))
  def test_what_is_no_lora_or_another_kind(self, name, is_lora):
    self.arrays[name] = np.ones((RANK, DIM))
    self.assertEqual(lora.is_lora([name]), is_lora)
    self.assertRefused(f'{name} is no part of a LoRA that is merged here')

  def test_a_name_with_a_line_break_is_shown_without(self):
    self.arrays[f'{MODULE}.lora_A\n'] = self.a
    self.assertRefused(r'lora_A\\n is no part of a LoRA')

  def test_the_same_part_by_two_names(self):
    name = 'lora_unet_blocks_0_ffn_0.lora_down.weight'
    self.arrays[name] = self.a
    self.assertRefused(f'{name} is there twice, also as {A}')
    self.arrays = {'transformer.blocks.0.ffn.net.0.proj.lora_A.weight': self.a,
                   B: self.b, A: self.a}
    self.assertRefused(f'{A} is there twice, also as transformer.blocks.0.ffn')

  def test_two_adapters_in_one_file(self):
    self.arrays |= {A.replace('A.', 'A.other.'): self.a}
    self.assertRefused(f'lora_A.other.weight is there twice, also as {A}')

  @parameterized.parameters(jnp.float8_e4m3fn, np.int8)
  def test_a_base_that_is_quantised(self, dtype):
    self.base[f'{MODULE}.weight'] = np.ones((FFN, DIM), dtype)
    self.assertRefused(f'{A} cannot be merged into {MODULE}.weight, which is '
                       f'{np.dtype(dtype)}; take a base of bfloat16')

  def test_factors_of_integers(self):
    self.arrays[A] = self.a.astype(np.int8)
    self.assertRefused(f'{A} is int8, expected floating point numbers')

  @parameterized.parameters(0., float('nan'), 10**400, '8', True)
  def test_an_alpha_in_the_file_that_scales_nothing(self, alpha):
    self.scalars = {f'{MODULE}.alpha': alpha}
    self.assertRefused(f'{MODULE}.alpha is .*, expected a finite number but 0')

  def test_such_an_alpha_in_a_tensor_when_it_is_read(self):
    self.arrays[f'{MODULE}.alpha'] = np.float32('inf')
    found = lora.merged(self.base, weights(self.arrays))
    with self.assertRaisesRegex(UserError, f'{MODULE}.alpha is inf, expected'):
      found[f'{MODULE}.weight'].read()

  @parameterized.parameters(
      ('{', 'is no JSON of a config'), ('[1]', 'is no JSON of a config'),
      ('[' * 10**5, 'is no JSON of a config'),
      (json.dumps({'transformer.use_rslora': True}), 'has use_rslora, which is '
       'not merged here unless alpha is given'),
      (json.dumps({'alpha_pattern': {'q': 3}}), 'has alpha_pattern'),
      (json.dumps({'lora_alpha': '3'}), 'is 3, expected a finite number'))
  def test_metadata_that_scale_in_other_ways(self, text, message):
    self.scalars = {'lora_adapter_metadata': text}
    self.assertRefused(f'lora_adapter_metadata {message}')
    found = lora.merged(self.base, weights(self.arrays, self.scalars), alpha=3)
    self.assertIsNot(found[f'{MODULE}.weight'], self.base[f'{MODULE}.weight'])

  def test_a_file_without_tensors(self):
    self.arrays = {}
    self.assertRefused('has no LoRA')


if __name__ == '__main__':
  absltest.main()

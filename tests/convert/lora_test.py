"""LoRA weights, by all names that they are published under."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np

from tests.convert import adapters
from tests.convert import archives
from tests.convert.adapters import counted
from tests.convert.adapters import DIM
from tests.convert.adapters import factors
from tests.convert.adapters import FFN
from tests.convert.adapters import integers
from tests.convert.adapters import make_base
from tests.convert.adapters import merge
from tests.convert.adapters import RANK
from tests.convert.adapters import weights
from worldsim_jax.convert import files
from worldsim_jax.convert import lora
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.convert.safetensors_file import write_safetensors
from worldsim_jax.convert.torch_file import write_torch
from worldsim_jax.errors import UserError

WAN = adapters.WAN
FSDP, CHECKPOINT = '_fsdp_wrapped_module.', '_checkpoint_wrapped_module.'
STYLES = {  # A, B, whose modules, whether dots are underscores.
    'LongLive': ('base_model.model.{}.lora_A.weight',
                 'base_model.model.{}.lora_B.weight', 'wan', False),
    'peft': ('base_model.model.{}.lora_A.default.weight',
             'base_model.model.{}.lora_B.default.weight', 'wan', False),
    'peft, wrapped': (
        f'{FSDP}base_model.model.model.{{}}.{CHECKPOINT}lora_A.some.weight',
        f'{FSDP}base_model.model.model.{{}}.{CHECKPOINT}lora_B.some.weight',
        'wan', False),
    'peft of diffusers': ('base_model.model.{}.lora_A.weight',
                          'base_model.model.{}.lora_B.weight',
                          'diffusers', False),
    'bare': ('{}.lora_A.default.weight', '{}.lora_B.default.weight',
             'wan', False),
    'ComfyUI': ('diffusion_model.{}.lora_A.weight',
                'diffusion_model.{}.lora_B.weight', 'wan', False),
    'LightX2V': ('diffusion_model.{}.lora_down.weight',
                 'diffusion_model.{}.lora_up.weight', 'wan', False),
    'diffusers': ('transformer.{}.lora_A.weight',
                  'transformer.{}.lora_B.weight', 'diffusers', False),
    'DiffSynth': ('pipe.dit.{}.lora_A.default.weight',
                  'pipe.dit.{}.lora_B.default.weight', 'wan', False),
    'kohya': ('lora_unet_{}.lora_down.weight', 'lora_unet_{}.lora_up.weight',
              'wan', True),
    'VideoX-Fun': ('lora_unet__{}.lora_down.weight',
                   'lora_unet__{}.lora_up.weight', 'wan', True),
    'LyCORIS': ('lycoris_{}.lora_down.weight', 'lycoris_{}.lora_up.weight',
                'diffusers', True),
}


def expected_sum(weight, a, b, numerator=1, denominator=1):
  """W + numerator / denominator * B A, rounded once."""
  product = b.astype(np.int64) @ a.astype(np.int64)
  exact = weight.astype(np.float64) + numerator * product / denominator
  return exact.astype(weight.dtype)


class StylesTest(parameterized.TestCase):

  @parameterized.product(style=tuple(STYLES), family=wan_dit_keys.FORMATS)
  def test_every_style_is_merged_into_names_of_either_family(
      self, style, family):
    down, up, own, is_flat = STYLES[style]
    base, arrays = make_base(family), {}
    expected = dict(base)
    for i, (target, module) in enumerate(zip(
        adapters.MODULES[family], adapters.MODULES[own])):
      a, b = factors(base, target, seed=2 * i)
      module = module.replace('.', '_') if is_flat else module
      arrays |= {up.format(module): b, down.format(module): a}
      name = f'{target}.weight'
      expected[name] = expected_sum(base[name], a, b)
      self.assertFalse((expected[name] == base[name]).all())
    self.assertTrue(lora.is_lora(arrays))
    found = merge(base, arrays)
    self.assertEqual(list(found), list(base))
    for name in base:
      archives.assert_same_bits(found[name], expected[name])

  def test_dots_after_the_front_of_kohya_are_understood(self):
    base, module = make_base(), 'blocks.1.self_attn.o'
    a, b = factors(base, module)
    found = merge(base, {'lora_unet_blocks_1.self_attn.o.lora_down.weight': a,
                         'lora_unet_blocks_1.self_attn.o.lora_up.weight': b})
    np.testing.assert_array_equal(found[f'{module}.weight'], expected_sum(
        base[f'{module}.weight'], a, b))

  @parameterized.parameters(*wan_dit_keys.FORMATS)
  def test_differences_are_added_to_what_they_are_of(self, family):
    base = make_base(family)
    names = {
        'blocks.1.self_attn.norm_q.diff': 'blocks.1.self_attn.norm_q.weight',
        'blocks.0.norm3.diff': 'blocks.0.norm3.weight',
        'blocks.0.norm3.diff_b': 'blocks.0.norm3.bias',
        'blocks.0.ffn.0.diff_b': 'blocks.0.ffn.0.bias',
        'patch_embedding.diff': 'patch_embedding.weight',
        'blocks.1.diff_m': 'blocks.1.modulation',
        'blocks.0.modulation.diff': 'blocks.0.modulation',
        'head.diff_m': 'head.modulation'}
    if family == 'diffusers':
      names = {name: wan_dit_keys.other_name(x) for name, x in names.items()}
    arrays = {f'diffusion_model.{name}': integers(base[target].shape, i + 50)
              for i, (name, target) in enumerate(names.items())}
    self.assertTrue(lora.is_lora(list(arrays)[:1]))
    # Which alpha does not scale.
    found = merge(base, arrays, alpha=8.)
    for name, target in names.items():
      np.testing.assert_array_equal(
          found[target], base[target] + arrays[f'diffusion_model.{name}'])

  def test_a_weight_may_have_factors_and_a_difference(self):
    base, module = make_base(), 'blocks.0.ffn.2'
    a, b = factors(base, module)
    difference = integers((DIM, FFN), 9)
    found = merge(base, {f'{module}.lora_down.weight': a,
                         f'{module}.lora_up.weight': b,
                         f'{module}.diff': difference})
    np.testing.assert_array_equal(found[f'{module}.weight'], expected_sum(
        base[f'{module}.weight'], a, b) + difference)

  def test_a_convolution_has_factors_that_are_convolutions(self):
    base, name = make_base(), 'patch_embedding.weight'
    a = integers((RANK, *base[name].shape[1:]), 0)
    b = integers((DIM, RANK, 1, 1, 1), 1)
    found = merge(base, {'transformer.patch_embedding.lora_A.weight': a,
                         'transformer.patch_embedding.lora_B.weight': b})
    np.testing.assert_array_equal(found[name], base[name] + np.einsum(
        'or,rcfhw->ocfhw', b[..., 0, 0, 0], a))

  def test_weights_of_a_transformer_are_no_lora(self):
    for family in wan_dit_keys.FORMATS:
      self.assertFalse(lora.is_lora(make_base(family)))


class ScaleTest(parameterized.TestCase):
  MODULE = 'blocks.0.self_attn.v'

  def check(self, numerator, denominator, beside=None, scalars=None, **kwargs):
    base = make_base()
    a, b = factors(base, self.MODULE)
    arrays = {f'{self.MODULE}.lora_A.weight': a,
              f'{self.MODULE}.lora_B.weight': b} | (beside or {})
    found = merge(base, arrays, scalars, **kwargs)
    name = f'{self.MODULE}.weight'
    # The factor is rounded, then the product, then the sum: of up to 2**8.
    np.testing.assert_allclose(
        found[name], expected_sum(base[name], a, b, numerator, denominator),
        rtol=0, atol=3 * 2**8 * 2.**-24)

  def test_it_is_one_if_nobody_says_otherwise(self):
    self.check(1, 1)

  def test_it_is_alpha_by_rank(self):
    self.check(2, RANK, alpha=2)

  @parameterized.product(dtype=(np.float32, np.float16, jnp.bfloat16, np.int64),
                         shape=((), (1,)))
  def test_the_files_own_alpha_goes_first(self, dtype, shape):
    alpha = np.full(shape, 6, dtype)
    self.check(6, RANK, {f'{self.MODULE}.alpha': alpha}, alpha=5.)

  def test_alpha_may_be_a_number_of_the_file(self):
    self.check(6, RANK, scalars={f'{self.MODULE}.alpha': 6., 'step': 300},
               alpha=5.)

  def test_alpha_of_diffusers_metadata_goes_last(self):
    scalars = {'lora_adapter_metadata': json.dumps({
        'transformer.r': RANK, 'transformer.lora_alpha': 6,
        'transformer.use_rslora': False})}
    self.check(6, RANK, scalars=scalars)
    self.check(5, RANK, scalars=scalars, alpha=5)
    self.check(4, RANK, {f'{self.MODULE}.alpha': np.float32(4)},
               scalars=scalars)

  @parameterized.parameters(0, float('nan'), float('inf'), True)
  def test_an_alpha_that_is_none_is_an_error(self, alpha):
    with self.assertRaisesRegex(ValueError, 'alpha=.* a finite number but 0'):
      self.check(1, 1, alpha=alpha)


class SumsTest(parameterized.TestCase):
  MODULE = 'blocks.1.cross_attn.o'

  @parameterized.parameters(np.float16, jnp.bfloat16, np.float32, np.float64)
  def test_factors_of_zeros_change_no_bit(self, dtype):
    base = make_base(dtype=dtype)
    name = f'{self.MODULE}.weight'
    base[name] = np.random.default_rng(0).normal(
        size=base[name].shape).astype(dtype)
    base[name][0, :2] = -0., 0.
    a = -np.ones((RANK, DIM), np.float32)
    b = np.zeros((DIM, RANK), np.float32)
    found = merge(base, {f'{self.MODULE}.lora_A.weight': a,
                         f'{self.MODULE}.lora_B.weight': b})
    archives.assert_same_bits(found[name], base[name])

  def test_sums_of_bfloat16_are_rounded_once(self):
    base = make_base(dtype=jnp.bfloat16)
    name = f'{self.MODULE}.weight'
    rng = np.random.default_rng(0)
    # Of more bits than bfloat16 has; sums have less than float32 has.
    a, b = (rng.integers(-1000, 1001, shape).astype(np.float32)
            for shape in ((RANK, DIM), (DIM, RANK)))
    found = merge(base, {f'{self.MODULE}.lora_A.weight': a,
                         f'{self.MODULE}.lora_B.weight': b})
    exact = base[name].astype(np.float32) + b @ a
    archives.assert_same_bits(found[name], exact.astype(jnp.bfloat16))
    twice = base[name] + (b @ a).astype(jnp.bfloat16)
    self.assertFalse((found[name] == twice).all())

  def test_float64_stays_float64(self):
    base = make_base(dtype=np.float64)
    name = f'{self.MODULE}.weight'
    base[name][0, 0] = 1 + 2.**-50
    found = merge(base, {f'{self.MODULE}.diff': np.ones((DIM, DIM))})
    self.assertEqual(found[name][0, 0], 2 + 2.**-50)


class LazinessTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.arrays = make_base()
    self.base = counted(self.arrays)
    pairs = {}
    for module in WAN[:2]:
      a, b = factors(self.arrays, module)
      pairs |= {f'{module}.lora_down.weight': a, f'{module}.lora_up.weight': b,
                f'{module}.alpha': np.float32(RANK)}
    self.lora = weights(pairs)

  def reads(self):
    return sum(x.reads for x in (*self.base.values(), *self.lora.values()))

  def test_nothing_is_read_before_it_is_asked_for(self):
    found = lora.merged(self.base, self.lora)
    merged = {f'{module}.weight' for module in WAN[:2]}
    for name, tensor in found.items():
      self.assertEqual(tensor is self.base[name], name not in merged)
      self.assertEqual((tensor.shape, tensor.dtype),
                       (self.arrays[name].shape, np.float32))
    self.assertEqual(self.reads(), 0)
    found[f'{WAN[0]}.weight'].read()
    self.assertEqual(self.reads(), 4)
    for name in (f'{WAN[0]}.lora_down.weight', f'{WAN[0]}.lora_up.weight',
                 f'{WAN[0]}.alpha'):
      self.assertEqual(self.lora[name].reads, 1)
    self.assertEqual(self.base[f'{WAN[0]}.weight'].reads, 1)

  def test_what_is_read_is_not_written_to(self):
    copies = make_base()
    found = lora.merged(self.base, self.lora)
    name = f'{WAN[0]}.weight'
    np.testing.assert_array_equal(found[name].read(), found[name].read())
    np.testing.assert_array_equal(self.arrays[name], copies[name])

  def test_one_tensor_at_a_time_is_in_memory(self):
    size, folder = 512, pathlib.Path(self.create_tempdir())
    names = [f'blocks.{i}.self_attn.q' for i in range(10)]
    write_safetensors(folder / 'base.safetensors', {
        f'{name}.weight': np.ones((size, size), jnp.bfloat16)
        for name in names})
    write_torch(folder / 'lora.pt', {f'{name}.lora_{x}.weight': np.ones(
        shape, jnp.bfloat16) for name in names for x, shape in (
            ('A', (4, size)), ('B', (size, 4)))})
    found = lora.merged(files.open_weights(folder / 'base.safetensors'),
                        files.open_weights(folder / 'lora.pt'))
    peak = archives.peak_of(
        lambda: write_safetensors(folder / 'merged.safetensors', found))
    # Some arrays of float32 for one tensor; the ten have 5 MB.
    self.assertLess(peak, 3.5 * 4 * size**2)
    merged = files.open_weights(folder / 'merged.safetensors')
    for name in names:
      np.testing.assert_array_equal(merged[f'{name}.weight'].read(), 5)


class GroupsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir(), 'lora.pt')
    self.base, self.module = make_base(), 'blocks.0.self_attn.q'
    self.name = f'{self.module}.weight'

  def pair(self, seed):
    a, b = factors(self.base, self.module, seed)
    front = f'base_model.model.{self.module}'
    return {f'{front}.lora_A.weight': a, f'{front}.lora_B.weight': b}

  def check(self, tree, seed, network):
    write_torch(self.path, tree)
    opened = files.open_weights(self.path)
    self.assertTrue(lora.is_lora(opened))
    found = lora.merged(counted(self.base), opened, network)
    np.testing.assert_array_equal(found[self.name].read(), expected_sum(
        self.base[self.name], *factors(self.base, self.module, seed)))

  @parameterized.parameters(
      (None, 0), ('generator', 0), ('generator_ema', 0), ('generator_lora', 0),
      ('critic', 2), ('critic_lora', 2))
  def test_longlives_file_has_two_networks(self, network, seed):
    self.check({'generator_lora': self.pair(0), 'critic_lora': self.pair(2),
                'step': 3000}, seed, network)

  def test_an_average_of_its_own_goes_before_the_generator(self):
    tree = {'generator_lora': self.pair(0), 'generator_ema_lora': self.pair(2)}
    self.check(tree, 2, 'generator_ema')
    self.check(tree, 0, None)

  @parameterized.parameters(None, 'generator', 'generator_ema')
  def test_a_file_without_groups_is_of_any_network(self, network):
    self.check(self.pair(4), 4, network)

  def test_the_only_group_is_taken(self):
    self.check({'state_dict': self.pair(4)}, 4, None)

  def test_a_network_that_is_not_there_is_refused(self):
    write_torch(self.path, {'generator_lora': self.pair(0), 'step': 3})
    with self.assertRaisesRegex(
        UserError, "lora.pt has no LoRA of the network 'critic' but generator"):
      lora.merged(self.base, files.open_weights(self.path), 'critic')


if __name__ == '__main__':
  absltest.main()

"""Tensors of every model that we read: there and back, exactly, or refused."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.convert import mapping
from worldsim_jax.convert import taehv_keys
from worldsim_jax.convert import tensors
from worldsim_jax.convert import umt5_keys
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.convert import wan_vae_keys
from worldsim_jax.errors import UserError
from worldsim_jax.models.tiny_vae import TinyVAE
from worldsim_jax.models.transformer import VideoTransformer
from worldsim_jax.models.umt5 import UMT5Encoder
from worldsim_jax.models.wan_vae import WanVAE

MODELS = (  # Of sizes that no default would guess.
    (taehv_keys, TinyVAE(
        5, encoder_widths=(8, 16), decoder_widths=(4, 6, 8),
        time_strides=(2, 1), blocks_per_stage=2, patch=2), 64),
    (wan_vae_keys, WanVAE(
        base=2, multipliers=(1, 3, 2), num_res_blocks=1,
        temporal_downsample=(True, False)), 122),
    (umt5_keys, UMT5Encoder(50, 8, 12, 2, 4, 3, 16), 32),
    (wan_dit_keys, VideoTransformer(
        dim=128, ffn_dim=20, num_heads=1, num_layers=2, latent_channels=3,
        text_dim=5, freq_dim=32, concatenated_channels=7, clip_dim=4,
        clip_positions=6), 88),
)
FORMATS = tuple((*model, format_) for model in MODELS
                for format_ in model[0].FORMATS)


def random_params(keys, module, dtype=np.float32):
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(dtype),
                      keys.shapes(module))


def assert_bits_equal(found, expected):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(
      x.view(np.uint8), y.view(np.uint8)), found, expected)


class MappingTest(parameterized.TestCase):

  @parameterized.parameters(*FORMATS)
  @pytest.mark.slow
  def test_there_and_back_gives_the_same_bits_and_the_same_model(
      self, keys, module, count, format_):
    for dtype in (np.float32, np.float16, jnp.bfloat16):
      params = random_params(keys, module, dtype)
      there = mapping.write_arrays(keys, params, format_)
      self.assertLen(there, count)
      self.assertEqual(keys.find_format(there), format_)
      self.assertEqual({x.dtype for x in there.values()}, {np.dtype(dtype)})
      found, back = mapping.read_arrays(keys, there)
      self.assertEqual(found, module)
      assert_bits_equal(back, params)

  @parameterized.parameters(*MODELS)
  def test_no_format_is_taken_for_another_models(self, keys, module, count):
    del count
    for format_ in keys.FORMATS:
      names = mapping.write_arrays(keys, random_params(keys, module), format_)
      for other, *_ in MODELS:
        if other is not keys:
          self.assertIsNone(other.find_format(names))
          with self.assertRaisesRegex(UserError, 'no weights of'):
            other.module(names)

  @parameterized.parameters(*FORMATS)
  @pytest.mark.slow
  def test_what_does_not_fit_is_named_with_its_file_and_both_shapes(
      self, keys, module, count, format_):
    del count
    there = mapping.write_arrays(keys, random_params(keys, module), format_)
    for name in sorted(there)[::len(there) // 5]:
      less = {key: x for key, x in there.items() if key != name}
      with self.assertRaisesRegex(UserError, r'x\.pt: .* '):
        mapping.read(keys, less, 'x.pt')
    # One that tells no size.
    name = {taehv_keys: 'encoder.0.bias', umt5_keys: 'blocks.1.norm1.weight',
            wan_vae_keys: 'encoder.middle.0.residual.2.bias',
            wan_dit_keys: 'blocks.1.cross_attn.o.bias'}[keys]
    if format_ in ('diffusers', 'transformers'):
      name = {umt5_keys: 'encoder.block.1.layer.0.layer_norm.weight',
              wan_vae_keys: 'encoder.mid_block.resnets.0.conv1.bias',
              wan_dit_keys: 'blocks.1.attn2.to_out.0.bias'}[keys]
    shape = there[name].shape
    less = {key: x for key, x in there.items() if key != name}
    with self.assertRaisesRegex(
        UserError, rf'x\.pt: {name} \({shape[0]},\) is missing'):
      mapping.read(keys, less, 'x.pt')
    longer = there | {name: np.zeros(shape[0] + 1, np.float32)}
    with self.assertRaisesRegex(
        UserError, rf'{name} has shape \({shape[0] + 1},\), .* of this size '
        rf'has \({shape[0]},\)'):
      mapping.read(keys, longer, 'x.pt')
    more = there | {f'{name}.extra': there[name]}
    with self.assertRaisesRegex(UserError, rf'x\.pt: {name}\.extra'):
      mapping.read(keys, more, 'x.pt')

  @parameterized.parameters(
      (wan_dit_keys, 'patch_embedding.weight', (128, 16)),
      (wan_dit_keys, 'patch_embedding.weight', (128, 10, 1, 0, 2)),
      (wan_dit_keys, 'patch_embedding.weight', (128, 2, 1, 2, 2)),
      (wan_dit_keys, 'head.head.weight', (5,)),
      (wan_dit_keys, 'blocks.0.ffn.0.weight', (0, 128)),
      (wan_dit_keys, 'time_embedding.0.weight', (128,)),
      (wan_vae_keys, 'encoder.conv1.weight', ()),
      (wan_vae_keys, 'encoder.conv1.weight', (0, 3, 3, 3, 3)),
      (wan_vae_keys, 'conv2.weight', ()),
      (taehv_keys, 'encoder.0.weight', (4, 0, 3, 3)),
      (taehv_keys, 'encoder.2.conv.weight', ()),
      (taehv_keys, 'decoder.1.weight', (4,)),
      (umt5_keys, 'blocks.0.pos_embedding.embedding.weight', (32, 0)),
      (umt5_keys, 'blocks.0.attn.q.weight', ()),
      (umt5_keys, 'token_embedding.weight', (8,)))
  def test_a_shape_that_no_model_can_have_is_named(self, keys, name, shape):
    module = {keys: module for keys, module, _ in MODELS}[keys]
    there = mapping.write_arrays(
        keys, random_params(keys, module), keys.FORMATS[0])
    self.assertIn(name, there)
    with self.assertRaisesRegex(UserError, rf'^x: .*{name}.*'):
      mapping.read(keys, there | {name: np.zeros(shape, np.float32)}, 'x')

  def test_a_layer_that_is_missing_is_named(self):
    keys, module, _ = MODELS[-1]
    there = mapping.write_arrays(keys, random_params(keys, module), 'wan')
    far = there | {'blocks.200000.norm3.weight': np.zeros(128, np.float32)}
    with self.assertRaisesRegex(
        UserError, r'blocks\.2 is missing, though there is blocks\.200000'):
      mapping.read(keys, far)

  def test_one_tensor_is_read_at_a_time_and_only_when_it_is_written(self):
    keys, module, _ = MODELS[-1]
    there = mapping.write_arrays(keys, random_params(keys, module), 'wan')
    reads = []
    lazy = {name: tensors.Computed(
        x.shape, x.dtype, lambda name=name, x=x: reads.append(name) or x)
            for name, x in there.items()}
    _, tree = mapping.read(keys, lazy)
    self.assertEmpty(reads)
    pieces = tree['blocks']['ffn_0']['kernel'].pieces()
    next(pieces)
    self.assertEqual(reads, ['blocks.0.ffn.0.weight'])
    next(pieces)
    self.assertEqual(reads, [f'blocks.{i}.ffn.0.weight' for i in range(2)])

  def test_of_mixed_types_the_widest_holds_every_value(self):
    keys, module, _ = MODELS[-1]
    params = random_params(keys, module, jnp.bfloat16)
    there = mapping.write_arrays(keys, params, 'wan')
    name = 'blocks.1.norm3.weight'
    there[name] = np.full_like(there[name], 1 + 2**-20, np.float32)
    _, back = mapping.read_arrays(keys, there)
    scale = back['blocks']['norm3']['scale']
    self.assertEqual(scale.dtype, np.float32)
    np.testing.assert_array_equal(scale[1], there[name])
    np.testing.assert_array_equal(
        scale[0], params['blocks']['norm3']['scale'][0].astype(np.float32))
    self.assertEqual(back['blocks']['norm3']['bias'].dtype, jnp.bfloat16)


if __name__ == '__main__':
  absltest.main()

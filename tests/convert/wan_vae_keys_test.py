"""Every tensor of a Wan VAE has one place, under its name in either format."""

import hashlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.convert import mapping
from worldsim_jax.convert import wan_vae_keys
from worldsim_jax.models import wan_vae

# (original, diffusers), from upstream's own converter.
PAIRS = (
    ('conv1.weight', 'quant_conv.weight'),
    ('conv2.bias', 'post_quant_conv.bias'),
    ('encoder.conv1.bias', 'encoder.conv_in.bias'),
    ('encoder.downsamples.3.shortcut.weight',
     'encoder.down_blocks.3.conv_shortcut.weight'),
    ('encoder.downsamples.8.time_conv.weight',
     'encoder.down_blocks.8.time_conv.weight'),
    ('encoder.downsamples.10.residual.3.gamma',
     'encoder.down_blocks.10.norm2.gamma'),
    ('encoder.middle.1.to_qkv.weight',
     'encoder.mid_block.attentions.0.to_qkv.weight'),
    ('encoder.middle.2.residual.6.bias',
     'encoder.mid_block.resnets.1.conv2.bias'),
    ('decoder.upsamples.2.residual.2.weight',
     'decoder.up_blocks.0.resnets.2.conv1.weight'),
    ('decoder.upsamples.4.shortcut.bias',
     'decoder.up_blocks.1.resnets.0.conv_shortcut.bias'),
    ('decoder.upsamples.11.resample.1.weight',
     'decoder.up_blocks.2.upsamplers.0.resample.1.weight'),
    ('decoder.upsamples.14.residual.0.gamma',
     'decoder.up_blocks.3.resnets.2.norm1.gamma'),
    ('decoder.head.0.gamma', 'decoder.norm_out.gamma'),
    ('decoder.head.2.weight', 'decoder.conv_out.weight'),
)


# Of the lines 'name (shape)' of the original torch class, sorted.
PUBLISHED = (
    '3d5b088112ea6071d1e061acd5c7c8b2'
    'd05e0300a6348051d5f85e78cba6fb4a')


class WanVAEKeysTest(parameterized.TestCase):

  @parameterized.parameters(1, 2, 3)
  def test_no_name_of_one_format_is_one_of_the_other(self, blocks):
    vae = wan_vae.WanVAE(base=2, num_res_blocks=blocks)
    original, diffusers = (
        wan_vae_keys.places(wan_vae_keys.shapes(vae), format_)
        for format_ in wan_vae_keys.FORMATS)
    self.assertEqual(set(original.values()), set(diffusers.values()))
    self.assertEmpty(original.keys() & diffusers.keys())

  def test_the_original_s_names_and_shapes_are_the_published_ones(self):
    params = wan_vae_keys.shapes(wan_vae.WanVAE())
    flat = mapping.flatten(params)
    lines = [f'{name} {mapping.shape_there(flat[place.path].shape, place)}'
             for name, place in wan_vae_keys.places(params, 'original').items()]
    self.assertLen(lines, 194)
    digest = hashlib.sha256('\n'.join(sorted(lines)).encode())
    self.assertEqual(digest.hexdigest(), PUBLISHED)

  @parameterized.parameters(*PAIRS)
  def test_known_pairs_share_a_place(self, original, diffusers):
    path = wan_vae_keys.to_ours(original)
    self.assertEqual(wan_vae_keys.to_ours(diffusers), path)
    self.assertEqual(wan_vae_keys.to_theirs(path), original)
    self.assertEqual(wan_vae_keys.to_theirs(path, 'diffusers'), diffusers)

  @parameterized.parameters(
      ('conv1.weight', (32, 32, 1, 1, 1), (1, 1, 1, 32, 32)),
      ('encoder.conv1.weight', (96, 3, 3, 3, 3), (3, 3, 3, 3, 96)),
      ('encoder.conv1.bias', (96,), (96,)),
      ('decoder.upsamples.3.resample.1.weight', (192, 384, 3, 3),
       (3, 3, 384, 192)),
      ('decoder.upsamples.3.time_conv.weight', (768, 384, 3, 1, 1),
       (3, 1, 1, 384, 768)),
      ('decoder.middle.1.norm.gamma', (384, 1, 1), (384,)),
      ('decoder.head.0.gamma', (96, 1, 1, 1), (96,)),
  )
  def test_layouts_are_torch_s(self, name, theirs, ours):
    params = wan_vae_keys.shapes(wan_vae.WanVAE())
    layout = wan_vae_keys.places(params, 'original')[name].layout
    x = layout.to_ours(np.broadcast_to(np.float32(0), theirs))
    self.assertEqual(x.shape, ours)
    self.assertEqual(layout.to_theirs(x).shape, theirs)

  @parameterized.parameters(
      'conv3.weight', 'encoder.downsamples.0.residual.1.weight',
      'decoder.upsamples.x.shortcut.bias', 'blocks.0.modulation',
      'decoder.up_blocks.0.resnets.3.conv1.weight', 'encoder.conv1')
  def test_other_names_are_refused(self, name):
    with self.assertRaisesRegex(KeyError, name):
      wan_vae_keys.to_ours(name)

  def test_other_paths_and_formats_are_refused(self):
    with self.assertRaisesRegex(KeyError, 'encoder/layer_0/kernel'):
      wan_vae_keys.to_theirs(('encoder', 'layer_0', 'kernel'))
    with self.assertRaisesRegex(ValueError, "to='pth'"):
      wan_vae_keys.to_theirs(('conv1', 'kernel'), 'pth')


if __name__ == '__main__':
  absltest.main()

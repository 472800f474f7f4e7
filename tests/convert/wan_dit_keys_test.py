"""Names of Wan's tensors: complete, one to one, and what is refused."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from worldsim_jax.convert import mapping
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.errors import UserError
from worldsim_jax.models.transformer import VideoTransformer

# Written by tests/golden/make_wan_dit.py.
GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'wan_dit_keys.json'
MODELS = json.loads(GOLDEN.read_text())
COUNTS = {  # Counted with Wan's own class.
    '1.3B T2V': (1_418_996_800, 825),
    '14B T2V': (14_288_491_584, 1095),
}
TINY = VideoTransformer(
            dim=12, ffn_dim=20, num_heads=1, num_layers=2, latent_channels=3,
            text_dim=5, freq_dim=256, concatenated_channels=7, clip_dim=4,
            clip_positions=6)


def all_shapes(model, family):
  """Of all layers, from those of the first."""
  found = {}
  for name, shape in model[family].items():
    layers = model['layers'] if name.startswith('blocks.0.') else 1
    for layer in range(layers):
      found[name.replace('blocks.0.', f'blocks.{layer}.')] = (
          jax.ShapeDtypeStruct(shape, np.float32))
  return found


def tiny_tree():
  """Every number of it is another."""
  shapes = wan_dit_keys.shapes(TINY)
  leaves, treedef = jax.tree.flatten(shapes)
  count = iter(range(len(leaves)))
  return jax.tree.unflatten(treedef, [
      (1000 * next(count) + np.arange(x.size)).reshape(x.shape).astype(
          np.float32) for x in leaves])


def assert_same(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


class PublishedSizesTest(parameterized.TestCase):

  @parameterized.parameters(*MODELS)
  def test_every_tensor_of_diffusers_has_one_place_and_our_shape(self, name):
    model = MODELS[name]
    shapes = all_shapes(model, 'diffusers')
    _, params = mapping.read(wan_dit_keys, shapes)
    places = wan_dit_keys.places(params, 'diffusers')
    self.assertEqual(set(places), set(shapes))
    self.assertLen(set(places.values()), model['tensors'])
    self.assertEqual(
        sum(x.size for x in mapping.flatten(params).values()),
        model['parameters'])
    # The same tensors, by Wan's names.
    of_wan = wan_dit_keys.places(params, 'wan')
    self.assertEqual(set(of_wan.values()), set(places.values()))

  @parameterized.parameters(*COUNTS)
  def test_counts_are_those_of_wan(self, name):
    model = MODELS[name]
    self.assertEqual((model['parameters'], model['tensors']), COUNTS[name])

  def test_names_and_shapes_are_those_of_wans_own_class(self):
    shapes = all_shapes(MODELS['1.3B T2V'], 'wan')
    self.assertLen(shapes, 825)
    model, params = mapping.read(wan_dit_keys, shapes)
    self.assertEqual(
        (model.dim, model.ffn_dim, model.num_heads, model.num_layers,
         model.latent_channels, model.text_dim),
        (1536, 8960, 12, 30, 16, 4096))
    self.assertEqual(set(wan_dit_keys.places(params, 'wan')), set(shapes))

  @parameterized.parameters(*MODELS)
  def test_the_other_familys_name_is_of_the_same_place(self, name):
    _, params = mapping.read(
        wan_dit_keys, all_shapes(MODELS[name], 'diffusers'))
    of_wan = wan_dit_keys.places(params, 'wan')
    for tensor, place in wan_dit_keys.places(params, 'diffusers').items():
      other = wan_dit_keys.other_name(tensor)
      self.assertEqual(of_wan[other], place)
      self.assertEqual(wan_dit_keys.other_name(other), tensor)
    self.assertIsNone(wan_dit_keys.other_name('blocks.0.other\n.weight'))

  def test_a_file_tells_the_streams_of_its_model(self):
    model = lambda name: wan_dit_keys.module(
        all_shapes(MODELS[name], 'diffusers'))
    self.assertEqual(model('14B T2V').concatenated_channels, 0)
    self.assertEqual(model('14B T2V').clip_dim, 0)
    self.assertEqual(model('14B I2V').concatenated_channels, 20)
    self.assertEqual(model('14B I2V').clip_dim, 1280)
    self.assertEqual(model('14B FLF2V').clip_positions, 514)
    self.assertEqual(model('5B TI2V').latent_channels, 48)
    self.assertEqual(model('5B TI2V').num_heads, 24)


class TensorsTest(parameterized.TestCase):

  def test_the_norm_before_cross_attention_changes_its_name(self):
    tree = tiny_tree()
    scale = tree['blocks']['norm3']['scale'][1]
    for family, name in (('wan', 'norm3'), ('diffusers', 'norm2')):
      there = mapping.write_arrays(wan_dit_keys, tree, family)
      np.testing.assert_array_equal(there[f'blocks.1.{name}.weight'], scale)

  def test_a_patch_is_flattened_row_by_row_channels_last(self):
    kernel = tiny_tree()['patch_embedding']['kernel']
    there = mapping.write_arrays(wan_dit_keys, tiny_tree(), 'wan')
    weight = there['patch_embedding.weight']
    self.assertEqual(weight.shape, (12, 10, 1, 2, 2))
    for row in range(2):
      for column in range(2):
        first = (2 * row + column) * 10
        np.testing.assert_array_equal(
            weight[:, :, 0, row, column], kernel[first:first + 10].T)

  @parameterized.parameters(
      'blocks.0.ffn.0.weight', 'model.blocks.0.ffn.0.weight',
      'model._fsdp_wrapped_module.blocks.0.ffn.0.weight',
      'module.model.blocks.0._fsdp_wrapped_module.'
      '_checkpoint_wrapped_module.ffn.0.weight',
      '_orig_mod.model.blocks.0.ffn.0.weight')
  def test_wrappers_are_taken_off(self, name):
    self.assertEqual(wan_dit_keys.bare(name), 'blocks.0.ffn.0.weight')

  def test_what_is_no_part_of_the_transformer_is_left_out(self):
    there = mapping.write_arrays(wan_dit_keys, tiny_tree(), 'wan')
    beside = {'_cls_pred_branch.1.weight': np.zeros(3), 'freqs': np.zeros(2),
              '_gan_ca_blocks.0.norm3.weight': np.zeros(3),
              '_register_tokens': np.zeros(3)}
    _, found = mapping.read_arrays(wan_dit_keys, there | beside)
    assert_same(found, tiny_tree())


class RefusalTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.there = mapping.write_arrays(wan_dit_keys, tiny_tree(), 'wan')

  def refused(self, message, tensors):
    with self.assertRaisesRegex(UserError, message):
      mapping.read_arrays(wan_dit_keys, tensors)

  def test_a_missing_tensor_is_named_with_its_shape(self):
    del self.there['blocks.1.ffn.0.bias']
    self.refused(r'blocks.1.ffn.0.bias \(20,\) is missing', self.there)

  def test_another_shape_is_named_with_both(self):
    self.there['blocks.1.ffn.0.bias'] = np.zeros(21)
    self.refused(r'blocks.1.ffn.0.bias has shape \(21,\), a Wan transformer of '
                 r'this size has \(20,\)', self.there)

  def test_a_tensor_too_many_is_named(self):
    self.there['blocks.1.ffn.3.bias'] = np.zeros(21)
    self.refused(r'blocks.1.ffn.3.bias \(21,\): a Wan transformer has no such '
                 'tensor', self.there)

  def test_two_families_are_not_mixed(self):
    self.there['blocks.1.norm2.weight'] = np.zeros(12)
    self.refused(
        r'blocks.1.norm2.weight \(12,\): .* no such tensor', self.there)

  def test_another_model_is_no_wan(self):
    self.refused('these are no weights of a Wan transformer', {'a': np.ones(2)})

  def test_two_tensors_of_one_name_are_refused(self):
    self.there['model.head.modulation'] = self.there['head.modulation']
    self.refused('head.modulation is there twice', self.there)

  def test_what_wan_does_not_have_cannot_be_written(self):
    tree = tiny_tree() | {'action_embedding_0': {'bias': np.zeros(3)}}
    with self.assertRaisesRegex(UserError, 'action_embedding_0/bias is a par'):
      mapping.write_arrays(wan_dit_keys, tree, 'wan')


if __name__ == '__main__':
  absltest.main()

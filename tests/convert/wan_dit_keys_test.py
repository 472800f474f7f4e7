"""Names of Wan's tensors: complete, one to one, and what is refused."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.errors import UserError

# Written by tests/golden/make_wan_dit.py.
GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'wan_dit_keys.json'
MODELS = json.loads(GOLDEN.read_text())
COUNTS = {  # Counted with Wan's own class.
    '1.3B T2V': (1_418_996_800, 825),
    '14B T2V': (14_288_491_584, 1095),
}
TINY = dict(dim=12, ffn_dim=20, num_heads=1, num_layers=2, latent_channels=3,
            text_dim=5, freq_dim=256, concatenated_channels=7, clip_dim=4,
            clip_positions=6)


def all_shapes(model, family):
  """Of all layers, from those of the first."""
  found = {}
  for name, shape in model[family].items():
    layers = model['layers'] if name.startswith('blocks.0.') else 1
    for layer in range(layers):
      found[name.replace('blocks.0.', f'blocks.{layer}.')] = tuple(shape)
  return found


def tiny_tree():
  """Every number of it is another."""
  shapes = wan_dit_keys.params_of(TINY)
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
    params = wan_dit_keys.params_of(wan_dit_keys.model_fields(shapes))
    places = wan_dit_keys.match(shapes, params)
    self.assertLen(set(places.values()), model['tensors'])
    self.assertEqual(sum(x.size for x in jax.tree.leaves(params)),
                     model['parameters'])
    # The same tensors, by Wan's names.
    of_wan = wan_dit_keys.names(params, 'wan')
    self.assertEqual(set(of_wan.values()), set(places.values()))
    for tensor, where in of_wan.items():
      self.assertEqual(wan_dit_keys.place(tensor, 'wan'), where)

  @parameterized.parameters(*COUNTS)
  def test_counts_are_those_of_wan(self, name):
    model = MODELS[name]
    self.assertEqual((model['parameters'], model['tensors']), COUNTS[name])

  def test_names_and_shapes_are_those_of_wans_own_class(self):
    shapes = all_shapes(MODELS['1.3B T2V'], 'wan')
    self.assertLen(shapes, 825)
    fields = wan_dit_keys.model_fields(shapes)
    self.assertEqual(
        [fields[name] for name in ('dim', 'ffn_dim', 'num_heads', 'num_layers',
                                   'latent_channels', 'text_dim')],
        [1536, 8960, 12, 30, 16, 4096])
    places = wan_dit_keys.match(shapes, wan_dit_keys.params_of(fields))
    self.assertEqual(set(places), set(shapes))

  @parameterized.parameters(*MODELS)
  def test_the_other_familys_name_is_of_the_same_place(self, name):
    for tensor in all_shapes(MODELS[name], 'diffusers'):
      other = wan_dit_keys.other_name(tensor)
      self.assertEqual(wan_dit_keys.place(other, 'wan'),
                       wan_dit_keys.place(tensor, 'diffusers'))
      self.assertEqual(wan_dit_keys.other_name(other), tensor)
    self.assertIsNone(wan_dit_keys.other_name('blocks.0.other\n.weight'))

  def test_a_file_tells_the_streams_of_its_model(self):
    fields = lambda name: wan_dit_keys.model_fields(
        all_shapes(MODELS[name], 'diffusers'))
    self.assertEqual(fields('14B T2V')['concatenated_channels'], 0)
    self.assertNotIn('clip_dim', fields('14B T2V'))
    self.assertEqual(fields('14B I2V')['concatenated_channels'], 20)
    self.assertEqual(fields('14B I2V')['clip_dim'], 1280)
    self.assertEqual(fields('14B FLF2V')['clip_positions'], 514)
    self.assertEqual(fields('5B TI2V')['latent_channels'], 48)
    self.assertEqual(fields('5B TI2V')['num_heads'], 24)


class TensorsTest(parameterized.TestCase):

  @parameterized.product(family=wan_dit_keys.FORMATS,
                         dtype=(np.float32, jnp.bfloat16))
  def test_there_and_back_gives_the_same_bits(self, family, dtype):
    tree = jax.tree.map(lambda x: x.astype(dtype), tiny_tree())
    there = wan_dit_keys.to_state_dict(tree, family)
    back = wan_dit_keys.to_tree(there)
    assert_same(back, tree)
    self.assertEqual({x.dtype for x in jax.tree.leaves(back)},
                     {np.dtype(dtype)})

  def test_the_norm_before_cross_attention_changes_its_name(self):
    tree = tiny_tree()
    scale = tree['blocks']['norm3']['scale'][1]
    for family, name in (('wan', 'norm3'), ('diffusers', 'norm2')):
      there = wan_dit_keys.to_state_dict(tree, family)
      np.testing.assert_array_equal(there[f'blocks.1.{name}.weight'], scale)

  def test_a_patch_is_flattened_row_by_row_channels_last(self):
    kernel = tiny_tree()['patch_embedding']['kernel']
    there = wan_dit_keys.to_state_dict(tiny_tree(), 'wan')
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
    for group in wan_dit_keys.GROUPS:
      self.assertEqual(wan_dit_keys.split_group(f'{group}/{name}'),
                       (group, 'blocks.0.ffn.0.weight'))
    self.assertEqual(wan_dit_keys.split_group(name),
                     (None, 'blocks.0.ffn.0.weight'))

  def test_what_is_no_part_of_the_transformer_is_left_out(self):
    there = wan_dit_keys.to_state_dict(tiny_tree(), 'wan')
    beside = {'_cls_pred_branch.1.weight': np.zeros(3), 'freqs': np.zeros(2),
              '_gan_ca_blocks.0.norm3.weight': np.zeros(3),
              '_register_tokens': np.zeros(3)}
    assert_same(wan_dit_keys.to_tree(there | beside), tiny_tree())


class RefusalTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.there = wan_dit_keys.to_state_dict(tiny_tree(), 'wan')

  def refused(self, message, tensors):
    with self.assertRaisesRegex(UserError, message):
      wan_dit_keys.to_tree(tensors)

  def test_a_missing_tensor_is_named_with_its_shape(self):
    del self.there['blocks.1.ffn.0.bias']
    self.refused(r'blocks.1.ffn.0.bias \(20,\) is missing', self.there)

  def test_another_shape_is_named_with_both(self):
    self.there['blocks.1.ffn.0.bias'] = np.zeros(21)
    self.refused(r'blocks.1.ffn.0.bias has shape \(21,\), expected \(20,\)',
                 self.there)

  def test_a_tensor_too_many_is_named(self):
    self.there['blocks.1.ffn.3.bias'] = np.zeros(21)
    self.refused('blocks.1.ffn.3.bias: a Wan transformer has no such tensor',
                 self.there)

  def test_two_families_are_not_mixed(self):
    self.there['blocks.1.norm2.weight'] = np.zeros(12)
    self.refused('blocks.1.norm2.weight: .* no such tensor', self.there)

  def test_another_model_is_no_wan(self):
    self.refused('these are no weights of a Wan transformer', {'a': np.ones(2)})

  def test_two_tensors_of_one_name_are_refused(self):
    self.there['model.head.modulation'] = self.there['head.modulation']
    self.refused('head.modulation is there twice', self.there)

  def test_what_wan_does_not_have_cannot_be_written(self):
    tree = tiny_tree() | {'action_embedding_0': {'bias': np.zeros(3)}}
    with self.assertRaisesRegex(UserError, 'action_embedding_0/bias is a par'):
      wan_dit_keys.to_state_dict(tree, 'wan')


if __name__ == '__main__':
  absltest.main()

"""Every tensor of umT5's published files has one place, and comes back."""

import pathlib
import types

from absl.testing import absltest
from absl.testing import parameterized
from flax import traverse_util
import jax
import numpy as np

from worldsim_jax.convert import umt5_keys
from worldsim_jax.errors import UserError
from worldsim_jax.models import umt5

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'umt5.npz'
TABLE, TWIN = 'shared.weight', 'encoder.embed_tokens.weight'
SMALL = umt5.UMT5Encoder(vocab=9, dim=6, ffn_dim=10, num_heads=2, head_dim=5,
                         num_layers=3, num_buckets=8)


def published(format_) -> dict[str, tuple[int, ...]]:
  """Shapes of umt5-xxl's tensors by name, as the classes list them."""
  found = {}
  for line in np.load(GOLDEN)[f'names/{format_}'].tolist():
    name, _, shape = line.partition(' ')
    found[name] = tuple(int(size) for size in shape.strip('(),').split(','))
  return found


def random_params():
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32),
                      umt5.shapes(SMALL))


class UMT5KeysTest(parameterized.TestCase):

  @parameterized.parameters(*umt5_keys.FORMATS)
  def test_all_published_tensors_are_mapped_and_no_others(self, format_):
    names = published(format_)
    self.assertLen(names, 242)
    self.assertEqual(umt5_keys.places(format_).keys(), names.keys())

  @parameterized.parameters(*umt5_keys.FORMATS)
  def test_each_has_a_place_of_its_own_and_all_places_are_filled(self, format_):
    shapes = traverse_util.flatten_dict(umt5.shapes(umt5.UMT5Encoder()))
    layers = {}
    for name, place in umt5_keys.places(format_).items():
      shape = shapes[place.path].shape[place.layer is not None:]
      self.assertEqual(shape[::-1] if place.transposed else shape,
                       published(format_)[name], name)
      layers.setdefault(place.path, []).append(place.layer)
    self.assertEqual(layers.keys(), shapes.keys())
    for path, found in layers.items():
      expected = list(range(24)) if path[0] == 'blocks' else [None]
      self.assertEqual(found, expected, path)

  @parameterized.parameters(*umt5_keys.FORMATS)
  def test_the_size_follows_from_the_tensors(self, format_):
    self.assertEqual(umt5_keys.module(published(format_)), umt5.UMT5Encoder())
    self.assertEqual(umt5_keys.format_of(published(format_)), format_)

  @parameterized.parameters(*umt5_keys.FORMATS)
  def test_there_and_back_is_bit_equal(self, format_):
    params = random_params()
    tensors = umt5_keys.from_params(params, format_)
    self.assertLen(tensors, 32)
    self.assertEqual(umt5_keys.module(
        {name: x.shape for name, x in tensors.items()}), SMALL)
    jax.tree.map(np.testing.assert_array_equal,
                 umt5_keys.to_params(tensors), params)

  def test_matrices_are_transposed_and_the_gate_is_the_first(self):
    params = random_params()
    tensors = umt5_keys.from_params(params, 'transformers')
    np.testing.assert_array_equal(
        tensors['encoder.block.1.layer.1.DenseReluDense.wi_0.weight'],
        params['blocks']['ffn']['gate']['kernel'][1].T)

  def test_the_table_may_have_either_name_or_both(self):
    params = random_params()
    tensors = umt5_keys.from_params(params, 'transformers')
    both = tensors | {TWIN: tensors[TABLE]}
    other = {name: x for name, x in both.items() if name != TABLE}
    for given in (both, other):
      jax.tree.map(np.testing.assert_array_equal,
                   umt5_keys.to_params(given), params)

  def test_tensors_of_a_file_are_read_one_after_the_other(self):
    params, reads = random_params(), []
    lazy = {
        name: types.SimpleNamespace(
            shape=x.shape, read=lambda name=name, x=x: reads.append(name) or x)
        for name, x in umt5_keys.from_params(params, 'original').items()}
    jax.tree.map(np.testing.assert_array_equal, umt5_keys.to_params(lazy),
                 params)
    self.assertCountEqual(reads, lazy)

  def test_a_missing_or_foreign_or_misshaped_tensor_is_named(self):
    good = umt5_keys.from_params(random_params(), 'original')
    name = 'blocks.2.attn.k.weight'
    less = {key: x for key, x in good.items() if key != name}
    for bad, said in (
        (less, f'{name} is missing'),
        (good | {'decoder.weight': good[name]}, 'decoder.weight is no tensor'),
        (good | {name: good[name][:-1]}, rf'{name} has shape \(9, 6\), but umT5'
         r' of this size has \(10, 6\)'),
        ({'patch_embedding.weight': good[name]}, 'no weights of a umT5'),
        ({'token_embedding.weight': good['token_embedding.weight']},
         'blocks.0.attn.k.weight is missing')):
      with self.assertRaisesRegex(UserError, said):
        umt5_keys.to_params(bad)


if __name__ == '__main__':
  absltest.main()

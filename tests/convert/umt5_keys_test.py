"""Every tensor of umT5's published files has one place, and comes back."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from worldsim_jax.convert import mapping
from worldsim_jax.convert import umt5_keys
from worldsim_jax.errors import UserError
from worldsim_jax.models import umt5

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'umt5.npz'
TABLE, TWIN = 'shared.weight', 'encoder.embed_tokens.weight'
SMALL = umt5.UMT5Encoder(vocab=9, dim=6, ffn_dim=10, num_heads=2, head_dim=5,
                         num_layers=3, num_buckets=8)


def published(format_) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of umt5-xxl's tensors by name, as the classes list them."""
  found = {}
  for line in np.load(GOLDEN)[f'names/{format_}'].tolist():
    name, _, shape = line.partition(' ')
    shape = tuple(int(size) for size in shape.strip('(),').split(','))
    found[name] = jax.ShapeDtypeStruct(shape, np.float32)
  return found


def random_params():
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32),
                      umt5.shapes(SMALL))


class UMT5KeysTest(parameterized.TestCase):

  @parameterized.parameters(*umt5_keys.FORMATS)
  def test_all_published_tensors_are_those_of_the_largest_and_no_others(
      self, format_):
    tensors = published(format_)
    self.assertLen(tensors, 242)
    module, params = mapping.read(umt5_keys, tensors)
    self.assertEqual(module, umt5.UMT5Encoder())
    places = umt5_keys.places(params, format_)
    self.assertEqual(places.keys(), tensors.keys())
    self.assertLen(set(places.values()), 242)

  def test_matrices_are_transposed_and_the_gate_is_the_first(self):
    params = random_params()
    tensors = mapping.write_arrays(umt5_keys, params, 'transformers')
    np.testing.assert_array_equal(
        tensors['encoder.block.1.layer.1.DenseReluDense.wi_0.weight'],
        params['blocks']['ffn']['gate']['kernel'][1].T)

  def test_the_table_may_have_either_name_or_both(self):
    params = random_params()
    tensors = mapping.write_arrays(umt5_keys, params, 'transformers')
    both = tensors | {TWIN: tensors[TABLE]}
    other = {name: x for name, x in both.items() if name != TABLE}
    for given in (both, other):
      jax.tree.map(np.testing.assert_array_equal,
                   mapping.read_arrays(umt5_keys, given)[1], params)


if __name__ == '__main__':
  absltest.main()

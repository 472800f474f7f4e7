"""umT5's encoder against what transformers makes of the same weights.

The golden file is made by tests/golden/make_umt5.py; tests/parity/umt5_test.py
compares with PyTorch itself.
"""

import pathlib

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.convert import mapping
from worldsim_jax.convert import umt5_keys
from worldsim_jax.models import umt5

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'umt5.npz'
WEIGHTS = 'weights/'


def relative_error(found, expected):
  found, expected = np.float32(found), np.float32(expected)
  return np.abs(found - expected).max() / np.abs(expected).max()


class UMT5Test(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.golden = dict(np.load(GOLDEN))
    weights = {name.removeprefix(WEIGHTS): np.float32(x)
               for name, x in cls.golden.items() if name.startswith(WEIGHTS)}
    cls.encoder, cls.params = mapping.read_arrays(umt5_keys, weights)
    cls.apply = staticmethod(jax.jit(
        lambda ids, mask: cls.encoder.apply({'params': cls.params}, ids, mask)))
    cls.ids, cls.mask = cls.golden['ids'], cls.golden['mask']
    cls.hidden = np.asarray(cls.apply(cls.ids, cls.mask))

  def test_embeddings_are_those_of_pytorch(self):
    # Roundings of two layers in fp32.
    self.assertLess(
        relative_error(self.hidden, self.golden['hidden']), 5e-6)

  def test_embeddings_are_zero_behind_the_last_token(self):
    np.testing.assert_array_equal(np.any(self.hidden != 0, axis=-1), self.mask)

  def test_what_the_padding_holds_does_not_matter(self):
    ids = np.where(self.mask, self.ids, 7)
    np.testing.assert_array_equal(self.apply(ids, self.mask), self.hidden)

  def test_how_long_the_padding_is_does_not_matter(self):
    more = ((0, 0), (0, 9))
    longer = self.apply(np.pad(self.ids, more), np.pad(self.mask, more))
    # The sums of the softmax are in another order.
    self.assertLess(
        relative_error(longer[:, :self.ids.shape[1]], self.hidden), 5e-6)

  def test_a_text_that_is_all_padding_is_zero_and_finite(self):
    np.testing.assert_array_equal(
        self.apply(self.ids, np.zeros_like(self.mask)), 0)

  def test_every_layer_has_a_bias_of_its_own(self):
    blocks = self.params['blocks']
    first = np.broadcast_to(blocks['pos_embedding'][:1],
                            blocks['pos_embedding'].shape)
    shared = self.params | {'blocks': blocks | {'pos_embedding': first}}
    found = self.encoder.apply({'params': shared}, self.ids, self.mask)
    self.assertGreater(relative_error(found, self.hidden), 1e-2)

  def test_buckets_are_those_of_pytorch_for_all_distances(self):
    np.testing.assert_array_equal(
        umt5.bucket(np.arange(-600, 601), 32, 128), self.golden['buckets'])

  def test_positions_are_those_of_the_key_seen_from_the_query(self):
    self.assertEqual(umt5.relative_positions(3).tolist(),
                     [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]])

  @pytest.mark.slow
  def test_bfloat16_is_as_close_as_its_rounding_allows(self):
    half = self.encoder.clone(dtype='bfloat16')
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), self.params)
    found = half.apply({'params': params}, self.ids, self.mask)
    self.assertEqual(found.dtype, jnp.bfloat16)
    # Each of some ten roundings is 2^-9; PyTorch's own error is as large.
    self.assertLess(np.linalg.norm(np.float32(found) - self.hidden),
                    0.03 * np.linalg.norm(self.hidden))

  def test_bfloat16_weights_compute_in_float32_where_that_is_asked(self):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), self.params)
    found = self.encoder.apply({'params': params}, self.ids, self.mask)
    rounded = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    self.assertEqual(found.dtype, jnp.float32)
    # The tables of weights are the same, every sum is in fp32.
    self.assertLess(relative_error(found, self.encoder.apply(
        {'params': rounded}, self.ids, self.mask)), 5e-6)

  def test_umt5_xxl_has_its_published_size(self):
    shapes = umt5.shapes(umt5.UMT5Encoder(), 'bfloat16')
    leaves = jax.tree.leaves(shapes)
    self.assertEqual(sum(x.size for x in leaves), 5_680_910_336)
    self.assertEqual(
        sum(x.size * x.dtype.itemsize for x in leaves), 11_361_820_672)
    stacked = jax.tree.leaves(shapes['blocks'])
    self.assertLen(stacked, 10)
    self.assertEqual({x.shape[0] for x in stacked}, {24})
    self.assertEqual(24 * len(stacked) + len(leaves) - len(stacked), 242)


if __name__ == '__main__':
  absltest.main()

"""The kernels of a TPU, interpreted, behind the whole entry of a mixture."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.moc import drawn
from tests.attention.moc.compared import relative
from tests.attention.moc.compared import value_and_gradients
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import mixture
from worldsim_jax.attention.moc import routing
from worldsim_jax.attention.moc.executors.blocks import Blocks

V, X, P = chunks.VIDEO, chunks.TEXT, chunks.PADDING
# Global text, captions, and chunks around the 128 rows of a block. Of scope
# 'own' and with a window, anchors are three ranges: shots, captions, the film's
# text.
FILM = [(5, chunks.GLOBAL, X), (4, 0, X), (130, 0, V), (60, 0, V), (3, 1, X),
        (128, 1, V), (1, 1, V), (2, 2, X), (70, 2, V), (129, 2, V), (3, 3, X),
        (90, 3, V), (15, 0, P)]
TOKENS = sum(size for size, _, _ in FILM)
BLOCKS = Blocks(256, 128, 128, 256)  # Each unlike the next, parts of 128.
DROPS = routing.Routing(2, drop_off=1., drop_in=1.)


def outputs(implementation, rules, dtype=jnp.float32, computed=None):
  """out and gradients of values that are of `dtype`, computed in another."""
  *qkv, cotangent = (
      x.astype(dtype).astype(computed or dtype) for x in (
          *drawn.queries_keys_values(0, 1, 1, 128, tokens=TOKENS),
          drawn.queries_keys_values(1, 1, 1, 128, tokens=TOKENS)[0]))
  return value_and_gradients(
      *qkv, chunks.table([FILM]), rules, DROPS.top_k, implementation,
      BLOCKS, DROPS, jax.random.key(3), cotangent=cotangent)


@pytest.mark.slow
class KernelsTest(parameterized.TestCase):

  @parameterized.parameters(
      chunks.Rules(text_scope='own', window=1),
      chunks.Rules(causal=False, text_scope='causal'))
  def test_they_equal_the_definition(self, *rules):
    rules = chunks.Rules(*rules)
    found = outputs('pallas', rules)
    expected = outputs('reference', rules)
    self.assertLess(relative(found[0], expected[0]), 2e-6)  # Sums in fp32.
    for ours, its in zip(found[1], expected[1]):
      self.assertLess(relative(ours, its), 2e-5)

  def test_in_bfloat16_they_are_as_near_as_bfloat16_is(self):
    rules = chunks.Rules(text_scope='own', window=1)
    with mock.patch.object(mixture, 'mixture', wraps=mixture.mixture) as used:
      out, gradients = outputs('pallas', rules, jnp.bfloat16)
    self.assertEqual({x.dtype for x in used.call_args.args[2:5]},
                     {jnp.dtype(jnp.bfloat16)})
    expected, its = outputs('reference', rules, jnp.bfloat16, jnp.float32)
    # MoBA's own bar: q, p and what is merged are rounded to 8 bits of mantissa.
    error = np.abs(np.float64(out) - expected)
    self.assertLess(error.max(), 2e-2)
    self.assertLess(error.mean(), 4e-4)
    for ours, its in zip(gradients, its):
      # ds is rounded as well. The same part of the largest; in the mean two
      # roundings of 2^-8.
      self.assertLess(relative(ours, its), 2e-2)
      error = np.abs(np.float64(ours) - its)
      self.assertLess(error.mean() / np.abs(its).mean(), 2**-7)


if __name__ == '__main__':
  absltest.main()

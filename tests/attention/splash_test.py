"""JAX's TPU kernel, interpreted, equals attention written out."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import attend
from worldsim_jax.attention import splash

B, H, D = 2, 2, 128


def draw(tokens, keys, masked):
  dice = np.random.default_rng(0)
  normal = lambda n: np.float32(dice.normal(size=(B, n, H, D)))
  mask = dice.random((B, keys)) < 0.7 if masked else None
  return (normal(tokens), normal(keys), normal(keys)), mask


class SplashTest(parameterized.TestCase):

  @parameterized.parameters(
      (128, 256, False), (130, 200, False), (130, 200, True))
  def test_output_and_gradients_are_those_of_the_reference(
      self, tokens, keys, masked):
    qkv, mask = draw(tokens, keys, masked)
    kernel = lambda *x: splash.attend(*x, mask, interpret=True)
    reference = lambda *x: attend._attend_xla(*x, None, mask)
    weight = np.float32(np.random.default_rng(1).normal(size=qkv[0].shape))

    def both(fn):
      value = lambda *x: jnp.sum(weight * fn(*x))
      return jax.jit(lambda *x: (fn(*x), jax.grad(value, (0, 1, 2))(*x)))

    # fp32: softmax in blocks, values and gradients near 1.
    chex.assert_trees_all_close(
        both(kernel)(*qkv), both(reference)(*qkv), atol=2e-5)

  @parameterized.parameters(
      # 21 frames of 480p; a chunk of 3; a text; hardly anything.
      (32_760, 512, 32_768), (4_680, 256, 4_864), (512, 512, 512),
      (1, 128, 128))
  def test_padding_costs_little(self, tokens, block, padded):
    self.assertEqual(splash.block_size(tokens), block)
    self.assertEqual(-(-tokens // block) * block, padded)

  def test_an_explicit_choice_that_cannot_run_says_so(self):
    (q, k, v), _ = draw(8, 8, False)
    frame = lambda x: x[:, None]
    with self.assertRaisesRegex(ValueError, "'splash' needs a TPU"):
      attend.attend(frame(q), frame(k), frame(v), implementation='splash')


if __name__ == '__main__':
  absltest.main()

"""Attention against its definition in NumPy."""

import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import attend as attention
from worldsim_jax.attention.attend import attend
from worldsim_jax.parallel import flops

B, F, G, N, H, D = 2, 2, 3, 3, 2, 4
MASK = np.array([[1, 0, 1], [0, 1, 1]], bool)  # [F, G]


def masked_by(kind):
  """attend(q, k, v, mask): the mask is a constant, or known to the run only."""
  if kind == 'run':
    return jax.jit(attend)
  return lambda q, k, v, mask: jax.jit(functools.partial(attend, mask_FG=mask))(
      q, k, v
  )


def naive(q_BFNHD, k, v, mask_TS=None, bias_HTS=None):
  """The definition, head by head, in float64."""
  q, k, v = (
      np.asarray(x, np.float64).reshape(len(x), -1, *x.shape[3:])
      for x in (q_BFNHD, k, v)
  )
  out = np.zeros_like(q)
  for b in range(q.shape[0]):
    for h in range(q.shape[2]):
      logits = q[b, :, h] @ k[b, :, h].T / np.sqrt(q.shape[-1])
      if bias_HTS is not None:
        logits += bias_HTS[h]
      if mask_TS is not None:
        logits = np.where(mask_TS, logits, -np.inf)
      weights = np.exp(logits - logits.max(axis=1, keepdims=True))
      weights /= weights.sum(axis=1, keepdims=True)
      out[b, :, h] = weights @ v[b, :, h]
  return out.reshape(q_BFNHD.shape)


class AttendTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    draw = lambda frames: np.float32(rng.normal(size=(B, frames, N, H, D)))
    rng = np.random.default_rng(0)
    self.q, self.k, self.v = draw(F), draw(G), draw(G)
    self.mask_TS = np.kron(MASK, np.ones((N, N), bool))

  def test_equals_a_naive_softmax(self):
    # Sums of nine products near 1 in fp32.
    np.testing.assert_allclose(
        attend(self.q, self.k, self.v), naive(self.q, self.k, self.v), atol=2e-6
    )

  def test_head_by_head_is_the_same(self):
    def run(q, k, v):
      out, pull = jax.vjp(attend, q, k, v)
      return out, *pull(jnp.cos(out))

    together = run(self.q, self.k, self.v)
    with mock.patch.object(attention, '_LARGE_HEAD', 1):
      one_by_one = run(self.q, self.k, self.v)
    for found, expected in zip(one_by_one, together):
      np.testing.assert_allclose(found, expected, atol=2e-6)

  @parameterized.parameters('run', 'constant')
  def test_a_frame_mask_is_over_all_tokens_of_the_frames(self, kind):
    np.testing.assert_allclose(
        masked_by(kind)(self.q, self.k, self.v, MASK),
        naive(self.q, self.k, self.v, self.mask_TS),
        atol=2e-6,
    )

  def test_cudnn_would_get_the_same_mask(self):
    flat = lambda x: x.reshape(B, -1, H, D)
    mask = attention._token_mask(MASK, flat(self.q), flat(self.k))
    np.testing.assert_array_equal(mask[0, 0], self.mask_TS)

  @parameterized.parameters('run', 'constant')
  def test_forbidden_keys_have_exactly_no_gradient(self, kind):
    weights = np.random.default_rng(1).normal(size=(B, 1, N, H, D))

    @jax.jit
    def gradients(k, v):
      masked = masked_by(kind)
      first_frame = lambda k, v: masked(self.q, k, v, MASK)[:, :1]
      return jax.vjp(first_frame, k, v)[1](weights.astype(np.float32))

    for gradient in gradients(self.k, self.v):
      np.testing.assert_array_equal(gradient[:, 1], 0)
      self.assertTrue(np.all(gradient[:, np.array([0, 2])] != 0))

  def test_pairs_that_a_constant_mask_forbids_are_not_computed(self):
    count = lambda mask: flops.count(
        functools.partial(attend, mask_FG=mask), self.q, self.k, self.v
    )
    self.assertEqual(count(MASK) / count(None), MASK.mean())

  def test_a_row_without_keys_is_finite(self):
    empty = np.zeros((F, G), bool)
    out = masked_by('run')(self.q, self.k, self.v, empty)
    self.assertTrue(np.all(np.isfinite(out)))

  def test_masked_keys_are_as_if_they_were_not_there(self):
    text_k, text_v = (x.reshape(B, 1, G * N, H, D) for x in (self.k, self.v))
    mask = np.broadcast_to(np.arange(G * N) < G * N - 3, (B, G * N))
    out = jax.jit(attend)(self.q, text_k, text_v, key_mask_BM=mask)
    np.testing.assert_allclose(
        out, naive(self.q, text_k[:, :, :-3], text_v[:, :, :-3]), atol=2e-6
    )

  def test_a_bias_is_added_to_the_logits_of_every_sample(self):
    q, k, v = (x.reshape(B, 1, -1, H, D) for x in (self.q, self.k, self.v))
    bias = np.random.default_rng(2).normal(size=(H, F * N, G * N))
    out = jax.jit(attend)(q, k, v, bias_HNM=bias.astype(np.float32))
    np.testing.assert_allclose(out, naive(q, k, v, None, bias), atol=2e-6)

  def test_masked_keys_stay_masked_under_a_bias(self):
    q, k, v = (x.reshape(B, 1, -1, H, D) for x in (self.q, self.k, self.v))
    bias = np.full((H, F * N, G * N), 50, np.float32)  # e^50 times as likely.
    bias[..., :-3] = 0
    mask = np.broadcast_to(np.arange(G * N) < G * N - 3, (B, G * N))
    out = jax.jit(attend)(q, k, v, key_mask_BM=mask, bias_HNM=bias)
    np.testing.assert_allclose(
        out, naive(q, k[:, :, :-3], v[:, :, :-3]), atol=2e-6
    )

  def test_a_bias_elsewhere_is_refused(self):
    bias = np.zeros((H, N, N), np.float32)
    with self.assertRaisesRegex(ValueError, 'tokens of one frame'):
      attend(self.q, self.k, self.v, bias_HNM=bias)
    one = self.q[:, :1]
    with self.assertRaisesRegex(ValueError, 'config.model.attention'):
      attend(one, one, one, implementation='splash', bias_HNM=bias)

  def test_two_kinds_of_mask_at_once_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'not both'):
      attend(self.q, self.k, self.v, MASK, key_mask_BM=np.ones((1, 1), bool))

  def test_bfloat16_stays_bfloat16_with_a_float32_softmax(self):
    q, k, v = (x.astype(jnp.bfloat16) for x in (self.q, self.k, self.v))
    out = attend(q, k, v)
    self.assertEqual(out.dtype, jnp.bfloat16)
    # Weights, values and output are each rounded to 8 bits.
    np.testing.assert_allclose(
        out.astype(np.float32), naive(q, k, v), atol=3 * 2**-8
    )

  def test_auto_on_cpu_is_xla(self):
    if jax.default_backend() != 'cpu':
      self.skipTest('runs on an accelerator')
    np.testing.assert_array_equal(
        attend(self.q, self.k, self.v, MASK, 'auto'),
        attend(self.q, self.k, self.v, MASK, 'xla'),
    )

  def test_cudnn_without_a_gpu_fails_instead_of_falling_back(self):
    if jax.default_backend() == 'gpu':
      self.skipTest('runs on a GPU')
    with self.assertRaisesRegex(ValueError, 'config.model.attention'):
      attend(self.q, self.k, self.v, implementation='cudnn')

  def test_an_unknown_implementation_names_the_key(self):
    with self.assertRaisesRegex(ValueError, "'flash'.*config.model.attention"):
      attend(self.q, self.k, self.v, implementation='flash')


if __name__ == '__main__':
  absltest.main()

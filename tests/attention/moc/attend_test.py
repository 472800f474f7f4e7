"""Mixture of Contexts against its definition, in every implementation."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.moc import drawn
from tests.attention.moc import naive
from tests.attention.moc.compared import OF_KERNELS
from tests.attention.moc.compared import relative
from tests.attention.moc.compared import run
from tests.attention.moc.compared import SMALL
from tests.attention.moc.compared import value_and_gradients
from worldsim_jax.attention.attend import attend as attend_densely
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import reference
from worldsim_jax.attention.moc import routing
from worldsim_jax.attention.moc.executors.blocks import Blocks

OTHER = Blocks(32, 8, 8, 24)


@pytest.mark.slow
class AttendTest(parameterized.TestCase):

  @parameterized.product(
      seed=[0, 1], top_k=[1, 3], scope=chunks.TEXT_SCOPES,
      causal=[True, False])
  def test_equals_a_loop_over_queries(self, seed, top_k, scope, causal):
    table, rules = drawn.table(seed), chunks.Rules(causal, scope)
    qkv = drawn.queries_keys_values(seed)
    expected, _ = naive.attend(*qkv, table, rules, top_k)
    for implementation in 'xla', 'reference':
      found = run(*qkv, table, rules, top_k, implementation)
      self.assertLess(relative(found, expected), 2e-6)  # fp32, issue's bound

  @parameterized.product(
      seed=[2, 3], causal=[True, False], blocks=[SMALL, OTHER])
  def test_gradients_equal_those_of_the_definition(self, seed, causal, blocks):
    table, rules = drawn.table(seed), chunks.Rules(causal, 'causal', 1)
    qkv = drawn.queries_keys_values(seed)
    found = value_and_gradients(*qkv, table, rules, 2, 'xla', blocks)
    expected = value_and_gradients(*qkv, table, rules, 2, 'reference')
    self.assertLess(relative(found[0], expected[0]), 2e-6)
    for ours, its in zip(found[1], expected[1]):
      self.assertLess(relative(ours, its), 2e-5)

  def test_gradients_equal_finite_differences(self):
    table, rules = drawn.table(4), chunks.Rules()
    q, k, v = drawn.queries_keys_values(4)
    direction = drawn.queries_keys_values(5)
    _, gradients = value_and_gradients(q, k, v, table, rules, 2)
    cotangent = np.asarray(drawn.queries_keys_values(99)[0], np.float64)
    _, chosen = naive.attend(q, k, v, table, rules, 2)
    step = 1e-4
    for i, (name, d) in enumerate(zip('qkv', direction)):
      moved = []
      for sign in 1, -1:
        at = [np.asarray(x, np.float64) for x in (q, k, v)]
        at[i] += sign * step * np.asarray(d)
        out, now = naive.attend(*at, table, rules, 2)
        self.assertEqual(now, chosen, 'the step must not change the choice')
        moved.append((out * cotangent).sum())
      slope = (moved[0] - moved[1]) / (2 * step)
      found = (np.asarray(gradients[i], np.float64) * np.asarray(d)).sum()
      np.testing.assert_allclose(found, slope, rtol=1e-4, err_msg=name)

  def test_bfloat16_is_as_near_as_bfloat16_is(self):
    table, rules = drawn.table(0), chunks.Rules()
    qkv = drawn.queries_keys_values(0, dtype=jnp.bfloat16)
    found = np.asarray(run(*qkv, table, rules, 2), np.float64)
    expected, _ = naive.attend(*qkv, table, rules, 2)
    # MoBA's own bar. A CPU computes in float32: what differs is the output,
    # of up to some 2, which is rounded to 8 bits of mantissa.
    self.assertLess(np.abs(found - expected).max(), 2e-2)
    self.assertLess(np.abs(found - expected).mean(), 4e-4)

  def test_all_chunks_chosen_is_dense_attention(self):
    table = chunks.of_frames(6, 5)
    qkv = drawn.queries_keys_values(0, tokens=30)
    table = jax.tree.map(lambda x: np.repeat(x, 2, axis=0), table)
    found = run(*qkv, table, chunks.Rules(causal=False), 6)
    frames = [x.reshape(2, 6, 5, *x.shape[2:]) for x in qkv]
    dense = attend_densely(*frames).reshape(found.shape)
    self.assertLess(relative(found, dense), 2e-6)
    found = run(*qkv, table, chunks.Rules(causal=True), 6)
    causal = np.tril(np.ones((6, 6), bool))
    dense = attend_densely(*frames, causal).reshape(found.shape)
    self.assertLess(relative(found, dense), 2e-6)

  def test_without_chunks_a_shot_is_dense_attention(self):
    table, rules = chunks.table([[
        (7, 0, chunks.VIDEO), (5, 0, chunks.VIDEO), (12, 1, chunks.VIDEO)]
    ]), chunks.Rules()
    qkv = drawn.queries_keys_values(0, 1, tokens=24)

    def of_anchors(q, k, v):
      none = jnp.full((1, q.shape[2], 3, 24), routing.EMPTY)
      return moc.attend(q, k, v, moc.Mixture(
          moc.plan(table, rules, 24, SMALL), implementation='xla',
          selection_BHKT=none))

    shots = [x.reshape(2, 1, 12, *x.shape[2:]) for x in qkv]  # Both as samples.
    dense = attend_densely(*shots).reshape(qkv[0].shape)
    self.assertLess(relative(jax.jit(of_anchors)(*qkv), dense), 2e-6)

  def test_a_film_of_one_shot_is_dense_attention(self):
    table = chunks.table([[(14, 0, chunks.VIDEO), (10, 0, chunks.VIDEO)]])
    qkv = drawn.queries_keys_values(0, 1, tokens=24)
    dense = attend_densely(*(x[:, None] for x in qkv))[:, 0]
    for causal in True, False:
      found = run(*qkv, table, chunks.Rules(causal), 3)
      self.assertLess(relative(found, dense), 2e-6)

  def test_lengths_about_those_of_blocks(self):
    # One more and one less than a block, a single token, a shot of one token,
    # a latent frame of 480p, and a chunk that is not there.
    table = chunks.table([[
        (1560, 0, chunks.VIDEO), (1, 1, chunks.VIDEO), (127, 1, chunks.VIDEO),
        (128, 1, chunks.VIDEO), (1, 2, chunks.VIDEO), (129, 3, chunks.VIDEO)
    ]], num_chunks=7)
    qkv = drawn.queries_keys_values(0, 1, 1, tokens=1946)
    found, expected = (value_and_gradients(
        *qkv, table, chunks.Rules(), 2, implementation, OF_KERNELS)
                       for implementation in ('xla', 'reference'))
    self.assertLess(relative(found[0], expected[0]), 2e-6)
    for ours, its in zip(found[1], expected[1]):
      self.assertLess(relative(ours, its), 2e-5)

  def test_of_equal_keys_the_values_are_averaged(self):
    table, rules = drawn.table(0), chunks.Rules(window=1)
    q, k, v = drawn.queries_keys_values(0)
    # Whichever chunks: those that unequal keys would choose.
    chunk_BT = table.chunk_of_token(drawn.TOKENS)
    selection = routing.select(
        q, routing.descriptors(k, chunk_BT, table.num_chunks), table, rules,
        routing.Routing(2), table.shot_of_token(drawn.TOKENS))
    read = np.asarray(
        reference.mask(table, rules, selection, drawn.TOKENS), np.float64)
    weights = read / np.maximum(read.sum(axis=-1, keepdims=True), 1)
    expected = np.einsum('bhts,bshd->bthd', weights, v)

    def attend(q, k, v):
      return moc.attend(q, k, v, moc.Mixture(
          moc.plan(table, rules, drawn.TOKENS, SMALL), implementation='xla',
          selection_BHKT=selection))

    found = jax.jit(attend)(q, jnp.broadcast_to(k[:, :1], k.shape), v)
    self.assertLess(relative(found, expected), 2e-6)

  @parameterized.parameters('xla', 'pallas')
  def test_the_future_and_what_is_not_chosen_have_no_gradient(self, impl):
    tokens, frames, heads = 8, 12, 2
    dim = 128 if impl == 'pallas' else 8
    table = chunks.of_frames(frames, tokens)
    q, k, v = drawn.queries_keys_values(0, 1, heads, dim)
    blocks = OF_KERNELS if impl == 'pallas' else SMALL
    of_frame = np.zeros(q.shape, np.float32)
    of_frame[:, 7 * tokens:8 * tokens] = 1.
    _, (dq, dk, dv) = value_and_gradients(
        q, k, v, table, chunks.Rules(), 2, impl, blocks,
        cotangent=jnp.asarray(of_frame))
    _, chosen = naive.attend(q, k, v, table, chunks.Rules(), 2)
    for h in range(heads):
      read = {7}.union(*(chosen[0, t, h]
                         for t in range(7 * tokens, 8 * tokens)))
      for frame in range(frames):
        part = np.s_[0, frame * tokens:(frame + 1) * tokens, h]
        with self.subTest(head=h, frame=frame):
          self.assertEqual(bool(np.any(dq[part])), frame == 7)
          for gradient in dk, dv:
            self.assertEqual(bool(np.any(gradient[part])), frame in read)

  @parameterized.parameters('xla', 'pallas')
  def test_nan_in_padding_leaks_nowhere(self, implementation):
    dim = 128 if implementation == 'pallas' else 8
    blocks = OF_KERNELS if implementation == 'pallas' else SMALL
    table = chunks.table([[(20, 0, chunks.VIDEO), (7, 0, chunks.PADDING),
                           (3, 1, chunks.TEXT), (30, 1, chunks.VIDEO),
                           (36, 0, chunks.PADDING)]])
    qkv = drawn.queries_keys_values(0, 1, 2, dim)
    is_padding = np.zeros(drawn.TOKENS, bool)
    is_padding[20:27] = is_padding[60:] = True
    poisoned = [x.at[:, is_padding].set(jnp.nan) for x in qkv]
    args = (table, chunks.Rules(), 1, implementation, blocks)
    clean, gradients = value_and_gradients(*qkv, *args)
    cotangent = drawn.queries_keys_values(99, 1, 2, dim)[0]
    out, spoilt = value_and_gradients(
        *poisoned, *args, cotangent=cotangent.at[:, is_padding].set(jnp.nan))
    np.testing.assert_array_equal(out, clean)
    self.assertFalse(np.any(out[:, is_padding]))
    for ours, its in zip(spoilt, gradients):
      np.testing.assert_array_equal(ours[:, ~is_padding], its[:, ~is_padding])

  def test_the_order_of_chunks_in_a_shot_does_not_matter(self):
    first = [(7, 0, chunks.VIDEO), (5, 0, chunks.VIDEO)]
    last = [(12, 1, chunks.VIDEO)]
    q, k, v = drawn.queries_keys_values(0, 1, tokens=24)
    order = np.r_[7:12, 0:7, 12:24]
    found = run(q, k, v, chunks.table([first + last]), chunks.Rules(), 1)
    moved = run(*(x[:, order] for x in (q, k, v)),
                chunks.table([first[::-1] + last]), chunks.Rules(), 1)
    self.assertLess(relative(moved, found[:, order]), 1e-6)

  def test_queries_that_change_places_change_those_of_outputs_only(self):
    table, rules = chunks.table([[
        (2, 0, chunks.TEXT), (15, 0, chunks.VIDEO), (9, 0, chunks.VIDEO),
        (30, 1, chunks.VIDEO), (20, 2, chunks.VIDEO)]]), chunks.Rules()
    q, k, v = drawn.queries_keys_values(0, 1, tokens=76)
    order = np.arange(76)
    order[26:56] = np.random.default_rng(0).permutation(order[26:56])
    found = run(q, k, v, table, rules, 1)
    moved = run(q[:, order], k, v, table, rules, 1)
    is_same = order == np.arange(76)
    np.testing.assert_array_equal(moved[:, is_same], found[:, is_same])
    self.assertLess(relative(moved, found[:, order]), 1e-6)

  def test_texts_that_nobody_may_read_yet_change_nothing(self):
    sample = [(2, 0, chunks.TEXT), (6, 0, chunks.VIDEO), (2, 1, chunks.TEXT),
              (6, 1, chunks.VIDEO)]
    table = chunks.table([sample])
    q, k, v = drawn.queries_keys_values(0, 1, tokens=16)
    for scope in chunks.TEXT_SCOPES:
      rules = chunks.Rules(text_scope=scope)
      before = run(q, k, v, table, rules, 1)
      after = run(q, k, v.at[:, 8:10].add(1.), table, rules, 1)
      changed = bool(np.any(before[:, :8] != after[:, :8]))
      self.assertEqual(changed, scope == 'all', scope)
      self.assertTrue(np.any(before[:, 10:] != after[:, 10:]))

  def test_the_backward_pass_is_that_of_the_chunks_that_were_drawn(self):
    table, rules = drawn.table(0), chunks.Rules()
    qkv = drawn.queries_keys_values(0)
    how = routing.Routing(2, drop_off=1., drop_in=1.)
    out = {}
    for implementation in 'xla', 'reference':
      f = jax.checkpoint(lambda *x: run(
          *x, table, rules, 2, implementation, SMALL, how, jax.random.key(3)))
      value, vjp = jax.vjp(f, *qkv)
      out[implementation] = (value, vjp(value))
    for ours, its in zip(*map(jax.tree.leaves, out.values())):
      self.assertLess(relative(ours, its), 2e-5)

  @parameterized.parameters(
      (dict(implementation='mosaic'), "implementation='mosaic' is not one of"),
      (dict(implementation='pallas'), "'pallas' needs a TPU or an NVIDIA GPU"),
      (dict(top_k=0), 'top_k=0 must be at least 1'))
  def test_what_cannot_run_is_refused(self, change, message):
    q, k, v = drawn.queries_keys_values(0)
    rules = chunks.Rules()
    options = dict(implementation='xla', top_k=1) | change
    plan = moc.plan(drawn.table(0), rules, drawn.TOKENS, SMALL)
    with self.assertRaisesRegex(ValueError, message):
      moc.attend(q, k, v, moc.Mixture(
          plan, None, routing.Routing(options['top_k']),
          options['implementation']))

  def test_a_plan_that_a_program_made_knows_its_rules_and_blocks(self):
    table, rules = drawn.table(0), chunks.Rules(text_scope='own', window=1)
    qkv = drawn.queries_keys_values(0)
    made = jax.jit(lambda: moc.plan(table, rules, drawn.TOKENS, OTHER))()
    found = jax.jit(moc.attend)(
        *qkv, moc.Mixture(made, routing=routing.Routing(2),
                          implementation='xla'))
    expected = run(*qkv, table, rules, 2, 'reference')
    self.assertLess(relative(found, expected), 2e-6)

  @parameterized.parameters((512, 'reference'), (513, 'xla'), (0, 'xla'))
  def test_on_a_cpu_few_tokens_are_not_gone_through_in_blocks(
      self, tokens, expected):
    self.assertEqual(
        moc.chosen('auto', 64, jnp.float32, pairs=tokens * tokens), expected)

  def test_heads_that_a_kernel_cannot_take_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'multiple of 128 .* have 64 in'):
      moc.chosen('pallas', 64, jnp.float32, interpret=True)


if __name__ == '__main__':
  absltest.main()

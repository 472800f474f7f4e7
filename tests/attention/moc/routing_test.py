"""Routing: the best chunks of the past, ties, disturbances, no gradient."""

import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.moc import drawn
from tests.attention.moc import naive
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import routing


def select(q, k, table, rules, how, rng=None):
  tokens = q.shape[1]
  means = routing.descriptors(k, table.chunk_of_token(tokens),
                              table.num_chunks)
  return routing.select(q, means, table, rules, how,
                        table.shot_of_token(tokens),
                        None if rng is None else jax.random.split(
                            rng, (q.shape[0], q.shape[2])))


class RoutingTest(parameterized.TestCase):

  @parameterized.product(causal=[True, False], window=[0, 1], seed=[0, 1])
  def test_chooses_what_a_loop_over_queries_chooses(self, causal, window, seed):
    table, rules = drawn.table(seed), chunks.Rules(causal, 'all', window)
    q, k, v = drawn.queries_keys_values(seed)
    found = np.asarray(jax.jit(functools.partial(
        select, table=table, rules=rules, how=routing.Routing(3)))(q, k))
    _, expected = naive.attend(q, k, v, table, rules, 3)
    for b, h, t in np.ndindex(2, 2, drawn.TOKENS):
      row = found[b, h, :, t]
      self.assertEqual(set(row[row >= 0]), expected.get((b, t, h), set()))
      self.assertLen(set(row[row >= 0]), (row >= 0).sum())

  def test_blocks_of_queries_are_no_part_of_the_result(self):
    table = drawn.table(0)
    q, k, _ = drawn.queries_keys_values(0)
    args = (q, k, table, chunks.Rules(), routing.Routing(2))
    whole = select(*args)
    with self.subTest('ragged blocks'):
      size, routing.QUERIES_AT_ONCE = routing.QUERIES_AT_ONCE, 25
      try:
        np.testing.assert_array_equal(select(*args), whole)
      finally:
        routing.QUERIES_AT_ONCE = size

  def test_of_equal_chunks_the_first_is_chosen(self):
    table = chunks.of_frames(5, 2)
    q, k, _ = drawn.queries_keys_values(0, batch=1, tokens=10)
    k = jnp.broadcast_to(k[:, :1], k.shape)
    found = select(q, k, table, chunks.Rules(), routing.Routing(2))
    np.testing.assert_array_equal(found[0, :, :, 8:], np.broadcast_to(
        [[[0, 0], [1, 1]]], (2, 2, 2)))

  def test_the_first_shot_has_nothing_to_be_routed_to(self):
    found = select(*drawn.queries_keys_values(0, batch=1, tokens=6)[:2],
                   chunks.of_frames(3, 2), chunks.Rules(), routing.Routing(2))
    self.assertTrue((found[..., :2] == routing.EMPTY).all())
    self.assertTrue((found[:, :, 0, 2:4] == 0).all())
    self.assertTrue((found[:, :, 1, 2:4] == routing.EMPTY).all())

  def test_more_slots_than_chunks_stay_empty(self):
    found = select(*drawn.queries_keys_values(0, batch=1, tokens=6)[:2],
                   chunks.of_frames(3, 2), chunks.Rules(), routing.Routing(9))
    self.assertEqual(found.shape, (1, 2, 9, 6))
    np.testing.assert_array_equal(
        np.sort(np.asarray(found[0, 0, :, 5]))[-3:], [-1, 0, 1])

  def test_drop_off_removes_the_part_of_the_chunks_that_it_drew(self):
    # One query per frame; the last ones have 4 of 4 chunks before dropping.
    table = chunks.of_frames(200, 1)
    q, k, _ = drawn.queries_keys_values(0, batch=1, heads=8, tokens=200)
    found = select(q, k, table, chunks.Rules(),
                   routing.Routing(4, drop_off=1.), jax.random.key(0))
    left = np.asarray((found >= 0).sum(axis=2))[..., 4:]
    # ⌊4 p⌋ of U(0, 1) is 0, 1, 2 or 3, each a quarter of the time: of 1,568
    # queries 392 ± 17; five standard deviations.
    counts = np.bincount(left.ravel(), minlength=5)
    self.assertEqual(counts[0], 0)
    np.testing.assert_allclose(counts[1:], left.size / 4, atol=90)
    undisturbed = select(q, k, table, chunks.Rules(), routing.Routing(4))
    kept = np.asarray((found == undisturbed) | (found == routing.EMPTY))
    self.assertTrue(kept.all())

  @parameterized.parameters(1, 2, 3)
  def test_drop_off_is_of_the_chunks_that_a_query_found(self, count):
    table = chunks.table([[(1, 0, chunks.VIDEO)] * count
                          + [(200, 1, chunks.VIDEO)]])
    q, k, _ = drawn.queries_keys_values(
        0, batch=1, heads=8, tokens=count + 200)
    found = select(q, k, table, chunks.Rules(),
                   routing.Routing(4, drop_off=1.), jax.random.key(0))
    left = np.asarray((found >= 0).sum(axis=2))[..., count:]
    # p < 1, so ⌊count p⌋ is never all of them: one chunk alone is kept. Else
    # each number is as frequent: of 1,600 at most 20 more or less, five times.
    counts = np.bincount(left.ravel(), minlength=count + 1)
    self.assertEqual(counts[0], 0)
    np.testing.assert_allclose(counts[1:], left.size / count, atol=100)

  @pytest.mark.slow
  def test_each_block_of_queries_has_dice_of_its_own(self):
    # Shot 1 has the rest of a block, two whole ones and a ragged one.
    table = chunks.table([[(1, 0, chunks.VIDEO)] * 4 + [(76, 1, chunks.VIDEO)]])
    q, k, _ = drawn.queries_keys_values(0, batch=1, heads=8, tokens=80)
    q = jnp.broadcast_to(q[:, :1], q.shape)
    how = routing.Routing(3, drop_off=1., drop_in=1.)
    with mock.patch.object(routing, 'QUERIES_AT_ONCE', 25):
      found = np.asarray(
          select(q, k, table, chunks.Rules(), how, jax.random.key(0)))
    best = np.asarray(select(q, k, table, chunks.Rules(), routing.Routing(3)))
    self.assertTrue((found[..., :4] == routing.EMPTY).all())
    chosen, added = found[..., 4:][:, :, :3], found[..., 4:][:, :, 3:]
    self.assertTrue(((chosen == best[..., 4:]) | (chosen < 0)).all())
    self.assertTrue((added < 4).all())
    self.assertFalse((added[:, :, None] == np.where(
        chosen < 0, -2, chosen)[:, :, :, None]).any())
    parts = [found[..., first:first + 25] for first in (25, 50, 75)]
    for part, other in (parts[:2], parts[1:]):
      self.assertTrue((part[..., :other.shape[-1]] != other[
          ..., :part.shape[-1]]).any())

  @pytest.mark.slow
  def test_drop_in_adds_poisson_many_new_candidates(self):
    table = chunks.of_frames(200, 1)
    q, k, _ = drawn.queries_keys_values(0, batch=1, heads=8, tokens=200)
    found = np.asarray(select(
        q, k, table, chunks.Rules(), routing.Routing(2, drop_in=0.5),
        jax.random.key(0)))[..., 100:]
    added = found[:, :, 2:]
    # E min(m, 2) of Poisson(0.5) is 0.484; less what was chosen already, at
    # most 2 of 100 candidates. 1,600 samples of a deviation of 0.65.
    self.assertAlmostEqual((added >= 0).sum(axis=2).mean(), 0.48, delta=0.06)
    for t in range(added.shape[-1]):
      for h in range(8):
        row = found[0, h, :, t]
        row = row[row >= 0]
        self.assertLen(set(row), len(row))
        self.assertTrue((row < 100 + t).all())

  @pytest.mark.slow
  def test_the_same_key_draws_the_same(self):
    args = (*drawn.queries_keys_values(0)[:2], drawn.table(0), chunks.Rules(),
            routing.Routing(2, drop_off=1., drop_in=1.))
    first, again, other = (
        select(*args, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    self.assertTrue((first != other).any())

  def test_scores_have_no_gradient(self):
    q, k, _ = drawn.queries_keys_values(0)
    chunk = drawn.table(0).chunk_of_token(drawn.TOKENS)
    gradient = jax.grad(
        lambda k: routing.descriptors(k, chunk, 40).sum())(k)
    np.testing.assert_array_equal(gradient, 0.)

  @parameterized.parameters(
      (dict(top_k=0), 'top_k=0 must be at least 1'),
      (dict(top_k=1, drop_off=1.5), 'drop_off=1.5 must be in 0..1'),
      (dict(top_k=1, drop_in=-1.), 'drop_in=-1.0 at least 0'),
      (dict(top_k=1, drop_in=2.5), 'drop_in=2.5 must be at most 2, .* '
       r'\(config.moc.drop_in\)'))
  def test_impossible_numbers_are_refused(self, numbers, message):
    with self.assertRaisesRegex(ValueError, message):
      routing.Routing(**numbers).check()


if __name__ == '__main__':
  absltest.main()

"""Two branches and one softmax: in groups of heads, and no work for nothing."""

import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.moc import compared
from tests.attention.moc import drawn
from tests.attention.moc.compared import relative
from tests.attention.moc.compared import SMALL
from tests.attention.moc.compared import value_and_gradients
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import executors
from worldsim_jax.attention.moc import gather
from worldsim_jax.attention.moc import mixture
from worldsim_jax.attention.moc import reference
from worldsim_jax.attention.moc import routing
from worldsim_jax.attention.moc.executors import pallas_gpu
from worldsim_jax.attention.moc.executors import xla
from worldsim_jax.attention.moc.executors.blocks import Blocks

HEADS, DIM, RULES = 3, 8, chunks.Rules(text_scope='causal', window=1)
DROPS = routing.Routing(2, drop_off=1., drop_in=1.)
# Blocks of queries with a ragged one at the end: of 96, 3 of 25 and one of 21.
ROUTED_AT_ONCE, GATHERED_AT_ONCE = 25, 7


def outputs(implementation):
  """With chunks dropped."""
  # A function of its own is traced anew, and so sees what is patched.
  anew = jax.jit(lambda *qkv: compared.run.__wrapped__(
      *qkv, drawn.table(0), RULES, 2, implementation, SMALL, DROPS,
      jax.random.key(3)))
  with mock.patch.object(routing, 'QUERIES_AT_ONCE', ROUTED_AT_ONCE):
    return value_and_gradients(
        *drawn.queries_keys_values(0, heads=HEADS, dim=DIM), of=anew)


by_definition = functools.cache(functools.partial(outputs, 'reference'))


@functools.partial(jax.jit, static_argnums=(3, 4))
def chosen(q, k, table, rules, how):
  rngs = jax.random.split(jax.random.key(0), (q.shape[0], q.shape[2]))
  means = routing.descriptors(
      k, table.chunk_of_token(k.shape[1]), table.num_chunks)
  return routing.select(
      q, means, table, rules, how, table.shot_of_token(q.shape[1]), rngs)


@jax.jit
def listed(table, selection_BHKT):
  """The plan of a sequence, and where the queries of its chunks are."""
  plan = moc.plan(table, RULES, drawn.TOKENS, SMALL)
  flat = selection_BHKT.reshape(-1, *selection_BHKT.shape[2:])
  return plan, gather.gather(flat, plan.chunks, SMALL.chunk_tile)


def branch(seed, lse=None):
  """(o, lse) of three queries."""
  dice = np.random.default_rng(seed)
  out, own = dice.normal(size=(3, 4)), 9 * dice.normal(size=3)
  return jnp.float32(out), jnp.float32(own if lse is None else lse)


@pytest.mark.slow
class MixtureTest(parameterized.TestCase):

  # Six heads of two samples: alone, in pairs of which one has both samples, and
  # the most that divides six and is not over five.
  @parameterized.parameters((1, 1), (2, 2), (5, 3))
  def test_groups_of_heads_are_no_part_of_the_result(self, allowed, taken):
    each = DROPS.num_slots() * (drawn.TOKENS + SMALL.chunk_tile) * DIM
    with (
        mock.patch.object(mixture, 'MOST_GATHERED', allowed * each),
        mock.patch.object(gather, 'QUERIES_AT_ONCE', GATHERED_AT_ONCE),
        mock.patch.object(gather, 'gather', wraps=gather.gather) as gathered):
      found = outputs('xla')
    self.assertEqual({len(call.args[0]) for call in gathered.call_args_list},
                     {taken})
    expected = by_definition()
    self.assertLess(relative(found[0], expected[0]), 2e-6)  # Sums in fp32.
    for ours, its in zip(found[1], expected[1]):
      self.assertLess(relative(ours, its), 2e-5)

  def test_triton_kernels_equal_the_definition(self):
    heads, dim, tile, block = 2, 64, 32, 16
    table, rules = drawn.table(1), chunks.Rules(text_scope='own', window=1)
    qkv = drawn.queries_keys_values(1, heads=heads, dim=dim)
    selection = chosen(*qkv[:2], table, rules, DROPS)

    @jax.jit
    def by_kernels(q, k, v):
      plan = moc.plan(table, rules, drawn.TOKENS,
                      Blocks(tile, block, block, tile))
      fold = lambda x: x.swapaxes(1, 2).reshape(2 * heads, -1, dim)
      out = mixture.mixture(
          pallas_gpu.executor(tile, block, interpret=True),
          pallas_gpu.executor(block, tile, interpret=True),
          fold(q), fold(k), fold(v), plan.anchors, plan.chunks,
          selection.reshape(2 * heads, -1, drawn.TOKENS))
      return out.reshape(2, heads, -1, dim).swapaxes(1, 2)

    by_mask = jax.jit(lambda *qkv: reference.attend(
        *qkv, table, rules, selection))
    found = value_and_gradients(*qkv, of=by_kernels)
    expected = value_and_gradients(*qkv, of=by_mask)
    self.assertLess(relative(found[0], expected[0]), 2e-6)  # Sums in fp32.
    for ours, its in zip(found[1], expected[1]):
      self.assertLess(relative(ours, its), 2e-5)

  def test_as_many_blocks_are_computed_as_the_plan_lists(self):
    table, qkv = drawn.table(0), drawn.queries_keys_values(0)
    selection = chosen(*qkv[:2], table, RULES, routing.Routing(2))
    plan, rows = listed(table, selection)
    heads = qkv[0].shape[2]
    read, readers = (
        int(heads * anchors.count.sum() + routed.count.sum())
        for anchors, routed in ((plan.anchors.read, rows.read),
                                (plan.anchors.readers, rows.readers)))
    computed, logits = [], xla._logits

    def counted(*args):
      jax.debug.callback(lambda: computed.append(1))
      return logits(*args)

    f = jax.jit(lambda *qkv: moc.attend(*qkv, moc.Mixture(
        plan, implementation='xla', selection_BHKT=selection)))
    with mock.patch.object(xla, '_logits', counted):
      out, vjp = jax.vjp(f, *qkv)
      jax.block_until_ready(out)
      jax.effects_barrier()
      self.assertLen(computed, read)
      jax.block_until_ready(vjp(out))
      jax.effects_barrier()
    self.assertLen(computed, 2 * read + readers)  # dq, and dk with dv.

  def test_branches_may_be_merged_in_any_order(self):
    a, b, c = map(branch, range(3))
    expected = mixture._merged([a, b, c])
    for found in (mixture._merged([mixture._merged([a, b]), c]),
                  mixture._merged([a, mixture._merged([c, b])])):
      for ours, its in zip(found, expected):
        # Two roundings in fp32 more, of values up to 20.
        np.testing.assert_allclose(ours, its, rtol=1e-6, atol=4e-6)

  def test_a_branch_that_read_nothing_changes_nothing(self):
    nothing = (jnp.zeros((3, 4)), jnp.full(3, executors.NOTHING))
    for known in branch(0), branch(1, [-90., 0., 90.]), nothing:
      for order in ([known, nothing], [nothing, known],
                    [nothing, known, nothing]):
        for ours, its in zip(mixture._merged(order), known):
          np.testing.assert_array_equal(ours, its)


if __name__ == '__main__':
  absltest.main()

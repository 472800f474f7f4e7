"""A cache that is recalled from gives what the whole sequence gives."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.attention import rope
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import recall as recalling
from worldsim_jax.attention.moc import routing
from worldsim_jax.attention.moc.executors.blocks import Blocks
from worldsim_jax.parallel import flops

B, F, GRID, H, D = 2, 9, (2, 3), 2, 12
N = GRID[0] * GRID[1]
SMALL = Blocks(8, 8, 8, 8)
# So few tokens 'auto' would not go through in blocks.
Recall = functools.partial(recalling.Recall, implementation='xla')
FEW, MANY = 16, 16 * 64  # Slots of a cache.


def draw(seed, *shape):
  return jnp.asarray(
      np.random.default_rng(seed).normal(size=shape), jnp.float32)


def film():
  """Keys before RoPE, queries and values of all frames."""
  return [draw(seed, B, F, N, H, D) for seed in range(3)]


def rotated(x, first=0):
  positions = jnp.arange(first, first + x.shape[1])
  return rope.rotate(x, rope.angles(positions, *GRID, D))


def past(k, v, length, slots=F + 3, order=None):
  """A cache of the first frames, in any order of slots."""
  order = np.arange(length) if order is None else order
  def put(x):
    empty = jnp.zeros((B, slots, *x.shape[2:]), x.dtype)
    return empty.at[:, order].set(x[:, :length])
  frame = np.full(slots, -1)
  frame[order] = np.arange(length)
  return recalling.Past(
      put(k), put(v), put(recalling.descriptors(k, GRID)), jnp.asarray(frame),
      jnp.asarray(frame), jnp.asarray(length))


@functools.partial(jax.jit, static_argnums=(3, 4))
def streamed(q, k, v, recall, chunk):
  """All frames, chunk after chunk, from caches."""
  out = []
  for first in range(0, F, chunk):
    own = slice(first, first + chunk)
    out.append(recalling.attend(
        rotated(q[:, own], first), rotated(k[:, own], first), v[:, own],
        past(k, v, first), GRID, recall)[0])
  return jnp.concatenate(out, axis=1)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def whole(q, k, v, top_k, window, chunk):
  """All frames at once; the shots are the chunks of a stream."""
  table = chunks.table([[(N, f // chunk, chunks.VIDEO) for f in range(F)]] * B)
  rules = chunks.Rules(window=window)
  plan = moc.plan(table, rules, F * N, SMALL)
  flat = lambda x: x.reshape(B, F * N, H, D)
  return moc.attend(
      flat(rotated(q)), flat(rotated(k)), flat(v), moc.Mixture(
          plan, routing=routing.Routing(top_k),
          implementation='xla')).reshape(q.shape)


def newest(past):
  """A frame after those of the cache."""
  q, k, v = film()
  return recalling.attend(q[:, :1], k[:, :1], v[:, :1], past, GRID,
                          Recall(2, most=3, window=1))


@functools.cache
def compiled(slots):
  return jax.jit(newest).lower(past(*film()[1:], 8, slots)).compile()


@pytest.mark.slow
class RecallTest(parameterized.TestCase):

  @parameterized.parameters((1, 0, 1), (2, 1, 1), (2, 0, 3))
  def test_a_stream_equals_the_whole_sequence(self, top_k, window, chunk):
    recall = Recall(top_k, most=F, window=window * chunk)
    found = streamed(*film(), recall, chunk)
    expected = whole(*film(), top_k, window, chunk)
    # fp32, means of keys that were roped before or after.
    np.testing.assert_allclose(found, expected, atol=5e-6)

  def test_the_definition_recalls_the_same(self):
    recall = Recall(2, most=3, window=1, sink=1)
    by_definition = recall._replace(implementation='reference')
    # Sums in another order, fp32.
    np.testing.assert_allclose(streamed(*film(), by_definition, 3),
                               streamed(*film(), recall, 3), atol=2e-6)

  def test_the_order_of_slots_is_irrelevant(self):
    q, k, v = film()
    recall = Recall(2, most=8, window=1, sink=1)
    args = rotated(q[:, 8:], 8), rotated(k[:, 8:], 8), v[:, 8:]
    run = jax.jit(lambda past: recalling.attend(*args, past, GRID, recall)[0])
    order = np.random.default_rng(0).permutation(F + 3)[:8]
    np.testing.assert_allclose(
        run(past(k, v, 8)), run(past(k, v, 8, order=order)), atol=1e-6)

  def test_sink_and_window_are_always_read_and_the_rest_only_if_chosen(self):
    q, k, v = film()
    recall = Recall(1, most=1, window=2, sink=1)

    def read(v_past):
      cache = past(k, v, 8)._replace(v=v_past)
      out, _ = recalling.attend(
          rotated(q[:, 8:], 8), rotated(k[:, 8:], 8), v[:, 8:], cache, GRID,
          recall)
      return jnp.sum(out[:, :, :, 0])

    gradient = jax.jit(jax.grad(read))(past(k, v, 8).v)
    per_slot = np.abs(gradient).sum((2, 3, 4))
    for sample in per_slot:
      self.assertTrue(sample[[0, 6, 7]].all())
      self.assertEqual(np.count_nonzero(sample[1:6]), 1)  # most=1, one head.
      self.assertEqual(np.count_nonzero(sample[8:]), 0)

  def test_the_most_wanted_frames_are_fetched(self):
    # Of one head: frame 3 is wanted by all, 5 by two queries, 0 by one.
    chosen = jnp.array([[[[3, 3, 3, 3], [5, -1, 5, 0]]]])
    slots, rank = recalling._most_wanted(chosen, 6, 2)
    np.testing.assert_array_equal(slots[0, 0], [3, 5])
    np.testing.assert_array_equal(rank[0, 0], [-1, -1, -1, 0, -1, 1])

  def test_no_memory_is_needed_for_a_longer_past(self):
    # Beyond the cache itself: the longer one has more keys.
    keys = (MANY - FEW) * B * N * H * D * 4
    few, many = (compiled(slots).memory_analysis().temp_size_in_bytes
                 for slots in (FEW, MANY))
    self.assertLess(many - few, keys / 2)

  def test_a_longer_past_costs_one_product_per_frame_and_query(self):
    product = 2 * D * B * H * N  # Of a descriptor with a frame's queries.
    few, many = (flops.count(newest, past(*film()[1:], 8, slots))
                 for slots in (FEW, MANY))
    self.assertEqual(many - few, (MANY - FEW) * product)
    # And what XLA counts besides, loops once: a score's mask, and D-long sums,
    # less than five, that turn the descriptor to its time. Roping a frame's
    # keys would be 3 N D.
    few, many = (compiled(slots).cost_analysis()['flops']
                 for slots in (FEW, MANY))
    each = (many - few) / (MANY - FEW) - product
    self.assertLess(each, B * H * (N + 5 * D))

  @parameterized.parameters(
      (dict(top_k=0, most=1), 'top_k=0 must be at least 1'),
      (dict(top_k=2, most=1), 'most=1 must be at least top_k=2'),
      (dict(top_k=1, most=1, window=-1),
       'window=-1 and sink=0 must be at least 0'))
  def test_impossible_numbers_are_refused(self, numbers, message):
    with self.assertRaisesRegex(ValueError, message):
      recalling.Recall(**numbers).check()


if __name__ == '__main__':
  absltest.main()

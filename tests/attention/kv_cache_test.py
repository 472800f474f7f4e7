"""The cache is a window on the past, and never changes under one's feet."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import context
from worldsim_jax.attention import kv_cache
from worldsim_jax.attention import rope
from worldsim_jax.attention.attend import attend

B, F, N, H, D = 1, 8, 2, 1, 6
GRID = (1, 2)


def empty(num_slots, **kwargs):
  return kv_cache.empty(
      num_layers=1,
      batch=B,
      num_slots=num_slots,
      tokens_per_frame=N,
      num_heads=H,
      head_dim=D,
      **kwargs,
  )


def frames_of(*numbers):
  """Keys and values of frames that hold their own number."""
  numbers = np.float32(numbers)[None, None, :, None, None, None]
  k = np.broadcast_to(numbers, (1, B, numbers.shape[2], N, H, D))
  return kv_cache.KeyValues(k, 10 * k)


append = jax.jit(kv_cache.KVCache.append)


def fill(cache, num_frames):
  for frame in range(num_frames):
    cache = append(cache, frames_of(frame))
  return cache


@jax.jit
def attend_rotated(q, k, v, q_positions, k_positions, mask):
  turn = lambda x, p: rope.rotate(x, rope.angles(p, *GRID, D))
  return attend(turn(q, q_positions), turn(k, k_positions), v, mask)


@jax.jit
def cached_chunk(cache, q, k, v):
  """What one layer does with a chunk: attend, then append."""
  chunk = q.shape[1]
  own = cache.next_positions(chunk)
  mask = jnp.concatenate([cache.mask(), jnp.ones(chunk, bool)])
  out = attend_rotated(
      q,
      jnp.concatenate([cache.k[0], k], axis=1),
      jnp.concatenate([cache.v[0], v], axis=1),
      own,
      jnp.concatenate([cache.slot_positions(), own]),
      jnp.broadcast_to(mask, (chunk, mask.size)),
  )
  return out, cache.append(kv_cache.KeyValues(k[None], v[None]))


def cached_attention(q, k, v, chunk, **kwargs):
  cache, out = empty(**kwargs), []
  for first in range(0, F, chunk):
    now = slice(first, first + chunk)
    made, cache = cached_chunk(cache, q[:, now], k[:, now], v[:, now])
    out.append(made)
  return np.concatenate(out, axis=1)


class KVCacheTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.q, self.k, self.v = np.float32(rng.normal(size=(3, B, F, N, H, D)))

  @parameterized.parameters((1, 3, 0), (1, 3, 2), (2, 4, 1))
  def test_window_and_sink_equal_masked_full_attention(
      self, chunk, window, sink
  ):
    full = context.block_causal(F, chunk, window, sink)
    expected = attend_rotated(
        *(self.q, self.k, self.v),
        *(full.positions, full.positions),
        np.array(full.mask),
    )
    found = cached_attention(
        self.q, self.k, self.v, chunk, num_slots=window + sink, sink=sink
    )
    # The same sums of a few terms near 1, in another order.
    np.testing.assert_allclose(found, expected, atol=2e-6)

  def test_with_room_for_all_the_cache_is_the_full_history(self):
    full = context.block_causal(F, 2)
    expected = attend_rotated(
        *(self.q, self.k, self.v),
        *(full.positions, full.positions),
        np.array(full.mask),
    )
    found = cached_attention(self.q, self.k, self.v, 2, num_slots=F)
    np.testing.assert_allclose(found, expected, atol=2e-6)

  def test_without_sinks_relative_positions_change_nothing(self):
    # Attention sees differences of positions only; angles stay below 8.
    run = functools.partial(
        cached_attention, self.q, self.k, self.v, 1, num_slots=3
    )
    np.testing.assert_allclose(run(relative=True), run(), atol=5e-6)

  def test_the_oldest_unpinned_frame_is_overwritten(self):
    cache = fill(empty(4, sink=1), 4)
    np.testing.assert_array_equal(cache.position, [0, 1, 2, 3])
    cache = append(cache, frames_of(4, 5))
    np.testing.assert_array_equal(cache.position, [0, 4, 5, 3])
    np.testing.assert_array_equal(cache.k[0, 0, :, 0, 0, 0], [0, 4, 5, 3])
    np.testing.assert_array_equal(cache.v[0, 0, :, 0, 0, 0], [0, 40, 50, 30])
    self.assertEqual(cache.length, 6)

  def test_a_long_stream_keeps_sinks_and_the_latest_frames(self):
    cache = fill(empty(5, sink=2), 101)
    self.assertEqual(sorted(cache.position.tolist()), [0, 1, 98, 99, 100])

  def test_only_written_slots_may_be_read(self):
    cache = fill(empty(4), 2)
    np.testing.assert_array_equal(cache.mask(), [True, True, False, False])

  def test_absolute_positions_are_those_in_the_video(self):
    cache = fill(empty(4, sink=1), 9)
    np.testing.assert_array_equal(cache.slot_positions(), [0, 7, 8, 6])
    np.testing.assert_array_equal(cache.next_positions(2), [9, 10])

  def test_relative_positions_are_those_in_the_cache(self):
    cache = empty(4, sink=1, relative=True)
    early = fill(cache, 3)
    np.testing.assert_array_equal(early.slot_positions()[:3], [0, 1, 2])
    np.testing.assert_array_equal(early.next_positions(2), [3, 4])
    # Frames 6, 7, 8 follow the sink in the order of time: slots hold 0 7 8 6.
    late = fill(cache, 9)
    np.testing.assert_array_equal(late.slot_positions(), [0, 2, 3, 1])
    np.testing.assert_array_equal(late.next_positions(2), [4, 5])

  def test_append_leaves_the_old_cache_as_it_was(self):
    old = fill(empty(2), 2)
    before = jax.tree.map(np.array, old)
    append(old, frames_of(2))
    chex.assert_trees_all_equal(old, before)

  def test_a_cache_can_be_narrower_than_the_model(self):
    cache = append(empty(2, dtype=jnp.bfloat16), frames_of(1))
    self.assertEqual(cache.k.dtype, jnp.bfloat16)

  def test_more_frames_than_the_window_name_the_key(self):
    with self.assertRaisesRegex(
        ValueError, '4 frames .* 3 slots .*config.student.window'
    ):
      empty(4, sink=1).append(frames_of(0, 1, 2, 3))

  @parameterized.parameters(4, 5, -1)
  def test_sinks_that_leave_no_window_name_the_keys(self, sink):
    with self.assertRaisesRegex(ValueError, 'config.student.sink'):
      empty(4, sink=sink)


if __name__ == '__main__':
  absltest.main()

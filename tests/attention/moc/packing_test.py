"""Packing: every token once, and ranges that say what the rules say."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from tests.attention.moc import drawn
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import packing
from worldsim_jax.attention.moc import reference

TILE, BLOCK = 8, 4


def pairs(ranges, m, count):
  """bool [n, count]: which blocks each tile reads, and that none is twice."""
  found = np.zeros((ranges.start.shape[1], count), int)
  for tile, (starts, counts) in enumerate(zip(ranges.start[m],
                                              ranges.count[m])):
    for n in range(int(sum(counts))):
      found[tile, int(packing.nth(list(starts), list(counts), n))] += 1
  assert found.max() <= 1, 'a block is read twice'
  return found > 0


class PackingTest(parameterized.TestCase):

  @parameterized.product(
      seed=[0, 1], scope=chunks.TEXT_SCOPES, causal=[True, False],
      window=[0, 1])
  def test_tiles_read_exactly_what_the_rules_say(
      self, seed, scope, causal, window):
    table, rules = drawn.table(seed), chunks.Rules(causal, scope, window)
    found = jax.tree.map(np.asarray, jax.jit(
        lambda table: packing.anchors(
            table, table, rules, drawn.TOKENS, drawn.TOKENS, TILE,
            BLOCK))(table))
    chunk = np.asarray(table.chunk_of_token(drawn.TOKENS))
    expected = np.asarray(reference.of_anchors(table, rules))
    for b in range(table.batch):
      by_token = expected[b][chunk[b]][:, chunk[b]]
      packed = np.zeros((drawn.TOKENS + 1,) * 2, bool)
      packed[:-1, :-1] = by_token
      by_row = packed[found.queries.token[b]][:, found.keys.token[b]]
      by_block = by_row.reshape(-1, TILE, by_row.shape[1] // BLOCK, BLOCK)
      read = pairs(found.read, b, by_block.shape[2])
      np.testing.assert_array_equal(read, by_block.any((1, 3)))
      np.testing.assert_array_equal(
          read, pairs(found.readers, b, by_block.shape[0]).T)
      # No mask within a block: all its tokens are read by all of the tile's.
      queries = found.queries.token[b].reshape(-1, TILE) < drawn.TOKENS
      whole = by_block.sum((1, 3)) == (
          queries.sum(1)[:, None] * found.keys.valid[b])
      self.assertTrue(whole[read].all())

  def test_every_token_has_one_row_and_blocks_one_unit(self):
    table = drawn.table(3)
    unit = np.where(np.asarray(table.kind) == chunks.VIDEO,
                    np.arange(table.num_chunks), -1)
    packed = packing.pack(table, unit, table.num_chunks, drawn.TOKENS, BLOCK)
    chunk = np.asarray(table.chunk_of_token(drawn.TOKENS))
    for b in range(table.batch):
      row, token = np.asarray(packed.row[b]), np.asarray(packed.token[b])
      is_video = np.asarray(table.kind)[b, chunk[b]] == chunks.VIDEO
      np.testing.assert_array_equal(row == len(token), ~is_video)
      np.testing.assert_array_equal(
          token[row[is_video]], np.flatnonzero(is_video))
      self.assertEqual((token < drawn.TOKENS).sum(), is_video.sum())
      for block, rows in enumerate(token.reshape(-1, BLOCK)):
        valid = int(packed.valid[b, block])
        self.assertTrue((rows[valid:] == drawn.TOKENS).all())
        self.assertTrue(
            (chunk[b][rows[:valid]] == int(packed.unit[b, block])).all())

  def test_rows_without_a_token_are_zero(self):
    x = np.arange(1., 7.).reshape(2, 3, 1)
    taken = packing.take(x, np.array([[2, 3, 0]]))
    np.testing.assert_array_equal(taken[..., 0], [[3, 0, 1], [6, 0, 4]])


if __name__ == '__main__':
  absltest.main()

"""Pairs of a query and a chunk come into the order of chunks."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import gather
from worldsim_jax.attention.moc import packing
from worldsim_jax.attention.moc import routing

TOKENS, SLOTS, TILE, BLOCK = 45, 3, 4, 8
SIZES = [[9, 1, 0, 8, 20, 7], [1, 1, 1, 1, 1, 40]]  # Of samples of two heads.
C = len(SIZES[0])


def drawn_selection():
  """Of four heads; some slots empty, anywhere, and chunk 3 never chosen."""
  dice = np.random.default_rng(0)
  found = np.stack([dice.permutation([0, 1, 2, 4, 5, -1, -1])[:SLOTS]
                    for _ in range(4 * TOKENS)])
  return found.reshape(4, TOKENS, SLOTS).swapaxes(1, 2).astype(np.int32)


def packed_keys():
  sizes = np.asarray(SIZES, np.int32)
  table = chunks.ChunkTable(
      sizes, np.zeros_like(sizes), np.zeros_like(sizes), 1, 0)
  units = np.tile(np.arange(C), (2, 1))
  return jax.tree.map(np.asarray, jax.jit(
      lambda: packing.pack(table, units, C, TOKENS, BLOCK))())


class GatherTest(parameterized.TestCase):

  @parameterized.parameters(512, 45, 9, 7)
  def test_a_tile_has_queries_of_one_chunk_in_their_order(self, at_once):
    selection, keys = drawn_selection(), packed_keys()
    with mock.patch.object(gather, 'QUERIES_AT_ONCE', at_once):
      found = jax.tree.map(np.asarray, jax.jit(
          lambda chosen: gather.gather(chosen, keys, TILE))(selection))
    for g, chosen in enumerate(selection):
      next_tile, tiles = 0, [None] * C
      reads = np.zeros((found.read.start.shape[1], 2), int)
      for c in range(C):
        slot, query = np.nonzero(chosen == c)
        order = np.argsort(query)
        rows = next_tile * TILE + np.arange(len(query))  # Eq. (1)
        with self.subTest(head=g, chunk=c):
          np.testing.assert_array_equal(
              found.row[g][slot[order], query[order]], rows)
          np.testing.assert_array_equal(found.token[g][rows], query[order])
        count = -(-len(query) // TILE)
        tiles[c] = next_tile, count
        reads[next_tile:next_tile + count] = (
            keys.first[g // 2, c], keys.count[g // 2, c])
        next_tile += count
      is_pair = chosen != routing.EMPTY
      self.assertEqual((found.token[g] < TOKENS).sum(), is_pair.sum())
      self.assertTrue((found.row[g][~is_pair] == found.token.shape[1]).all())
      np.testing.assert_array_equal(
          np.concatenate([found.read.start[g], found.read.count[g]], -1), reads)
      for block, c in enumerate(keys.unit[g // 2]):
        of_block = found.readers.start[g, block], found.readers.count[g, block]
        self.assertEqual(tuple(int(x[0]) for x in of_block),
                         tiles[c] if c < C else (0, 0))


if __name__ == '__main__':
  absltest.main()

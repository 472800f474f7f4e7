"""Who may read whom, as truth tables: a row per reading frame."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.attention import context


class ContextTest(parameterized.TestCase):

  def assertMask(self, found, rows):
    self.assertEqual(
        [''.join('1' if x else '0' for x in row) for row in np.asarray(found)],
        rows,
    )

  def test_bidirectional_has_no_mask(self):
    found = context.bidirectional(3)
    self.assertIsNone(found.mask)
    np.testing.assert_array_equal(found.positions, [0, 1, 2])

  def test_a_chunk_reads_itself_and_what_came_before(self):
    self.assertMask(
        context.block_causal(4, chunk=2).mask, ['1100', '1100', '1111', '1111']
    )
    self.assertMask(
        context.block_causal(4, chunk=1).mask, ['1000', '1100', '1110', '1111']
    )

  def test_a_window_counts_frames_before_the_chunk(self):
    self.assertMask(
        context.block_causal(6, chunk=2, window=1).mask,
        ['110000', '110000', '011100', '011100', '000111', '000111'],
    )
    self.assertMask(
        context.block_causal(4, chunk=1, window=0).mask,
        ['1000', '0100', '0010', '0001'],
    )

  def test_sinks_stay_visible_behind_the_window(self):
    self.assertMask(
        context.block_causal(5, chunk=1, window=1, sink=2).mask,
        ['10000', '11000', '11100', '11110', '11011'],
    )

  def test_sinks_in_the_future_stay_hidden(self):
    self.assertMask(
        context.block_causal(3, chunk=1, window=0, sink=3).mask,
        ['100', '110', '111'],
    )

  def test_a_noisy_chunk_reads_the_clean_past_and_itself(self):
    found = context.teacher_forcing(6, chunk=2)
    self.assertMask(
        found.mask,
        [
            '1100000000',  # clean chunk 0
            '1100000000',
            '1111000000',  # clean chunk 1
            '1111000000',
            '0000110000',  # noisy chunk 0
            '0000110000',
            '1100001100',  # noisy chunk 1
            '1100001100',
            '1111000011',  # noisy chunk 2
            '1111000011',
        ],
    )
    np.testing.assert_array_equal(
        found.positions, [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    )

  def test_noisy_chunks_that_no_one_wants_are_left_out(self):
    found = context.teacher_forcing(4, chunk=1, first=2)
    self.assertMask(found.mask, ['10000', '11000', '11100', '11010', '11101'])
    np.testing.assert_array_equal(found.positions, [0, 1, 2, 2, 3])
    whole_chunks = context.teacher_forcing(4, chunk=2, first=3)
    np.testing.assert_array_equal(whole_chunks.positions, [0, 1, 2, 3])

  @parameterized.parameters((1, 1), (3, 1), (2, 3), (7, 3))
  def test_teacher_forcing_allows_n_squared_block_pairs(self, n, b):
    mask = context.teacher_forcing(n * b, chunk=b).mask
    self.assertEqual(np.sum(mask), n**2 * b**2)

  @parameterized.parameters((1, 1), (3, 1), (2, 3), (7, 3))
  def test_it_is_upstreams_mask_without_the_last_clean_chunk(self, n, b):
    # Self Forcing's code, for n blocks of b (model/diffusion.py): clean blocks
    # read clean ones up to their own, noisy ones earlier clean ones and
    # themselves; n (n + 1) b² pairs.
    block, zeros = np.arange(n * b) // b, np.zeros((n * b, n * b), bool)
    read, reads = block[None], block[:, None]
    full = np.block([[read <= reads, zeros], [read < reads, read == reads]])
    self.assertEqual(np.sum(full), n * (n + 1) * b**2)
    # The last clean chunk reads n chunks, and none but itself reads it.
    kept = np.delete(np.arange(2 * n * b), np.arange((n - 1) * b, n * b))
    np.testing.assert_array_equal(
        context.teacher_forcing(n * b, chunk=b).mask, full[np.ix_(kept, kept)]
    )
    self.assertFalse(np.any(full[kept][:, (n - 1) * b : n * b]))

  def test_upstreams_mask_of_two_chunks_has_six_pairs_of_blocks(self):
    block = np.arange(2)
    read, reads = block[None], block[:, None]
    full = np.block(
        [[read <= reads, np.zeros((2, 2))], [read < reads, read == reads]]
    )
    self.assertMask(full, ['1000', '1100', '0010', '1001'])
    self.assertMask(
        context.teacher_forcing(2, chunk=1).mask, ['100', '010', '101']
    )

  @parameterized.parameters((1, 1), (3, 1), (2, 3), (7, 3))
  def test_block_causal_allows_a_triangle_of_blocks(self, n, b):
    mask = context.block_causal(n * b, chunk=b).mask
    self.assertEqual(np.sum(mask), n * (n + 1) // 2 * b**2)

  def test_positions_count_the_frames(self):
    np.testing.assert_array_equal(
        context.block_causal(4, chunk=2).positions, [0, 1, 2, 3]
    )

  @parameterized.product(
      make=(context.block_causal, context.teacher_forcing), chunk=(0, 3)
  )
  def test_a_chunk_that_does_not_divide_names_the_key(self, make, chunk):
    with self.assertRaisesRegex(ValueError, 'config.student.chunk'):
      make(4, chunk)


if __name__ == '__main__':
  absltest.main()

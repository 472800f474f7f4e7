"""Tables of chunks: what tokens they say, and what they refuse."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import reference

V, X, P = chunks.VIDEO, chunks.TEXT, chunks.PADDING


class ChunksTest(parameterized.TestCase):

  def test_shots_are_cut_into_chunks_behind_their_captions(self):
    self.assertEqual(
        chunks.of_shots([5, 2], 3, text_tokens=1),
        [(1, 0, X), (3, 0, V), (2, 0, V), (1, 1, X), (2, 1, V)])

  def test_films_that_are_cut_differently_have_one_program(self):
    shots = np.array([[0, 0, 0, 1, 1], [0, 1, 1, 2, 2]])
    made = jax.jit(
        chunks.of_shot_ids, static_argnums=(1, 2, 3))(shots, 2, 4, 3)
    expected = chunks.table(
        [chunks.of_shots([6, 4], 4), chunks.of_shots([2, 4, 4], 4)],
        num_chunks=5, num_shots=3)
    for name in 'size', 'shot', 'kind':
      np.testing.assert_array_equal(
          getattr(made, name), getattr(expected, name))

  def test_every_token_knows_its_chunk_and_its_shot(self):
    table = chunks.table([[(2, -1, X), (1, 0, V), (3, 1, V), (1, 0, P)]],
                         num_chunks=6)
    np.testing.assert_array_equal(
        table.chunk_of_token(7)[0], [0, 0, 1, 2, 2, 2, 3])
    np.testing.assert_array_equal(
        table.shot_of_token(7)[0], [-1, -1, 0, 1, 1, 1, -1])

  @parameterized.parameters(
      ('all', 0, ['11010', '11010', '00000', '10011', '10011']),
      ('causal', 0, ['11000', '11000', '00000', '10011', '10011']),
      ('own', 0, ['11000', '11000', '00000', '00011', '00011']),
      ('own', -1, ['10000', '11000', '00000', '10011', '10011']))
  def test_what_is_always_read(self, scope, first_shot, picture):
    # Caption and video of shot 0, padding, caption and video of shot 1.
    table = chunks.table([[
        (1, first_shot, X), (1, 0, V), (1, 0, P), (1, 1, X), (1, 1, V)]])
    found = reference.of_anchors(table, chunks.Rules(text_scope=scope))[0]
    rows = [''.join('01'[int(x)] for x in row) for row in np.asarray(found)]
    self.assertEqual(rows, picture)

  @parameterized.parameters(
      ([[(3, 0, V)], [(2, 0, V)]], 'sample 1 have 2 tokens, those of sample 0'),
      ([[(0, 0, V)]], 'chunk 0 of sample 0 has 0 tokens'),
      ([[(1, 0, V), (1, -1, V)]], 'chunk 1 of sample 0 has 1 tokens of shot'))
  def test_a_table_that_cannot_be_is_refused(self, samples, message):
    with self.assertRaisesRegex(ValueError, message):
      chunks.table(samples)

  def test_a_table_that_does_not_cover_the_sequence_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'cover 6 tokens, but .* has 7'):
      chunks.check(chunks.of_frames(3, 2), chunks.Rules(), 7)

  def test_a_table_on_a_device_is_checked_and_one_of_a_program_is_not(self):
    table = jax.tree.map(jnp.asarray, chunks.of_frames(3, 2))
    with self.assertRaisesRegex(ValueError, 'cover 6 tokens, but .* has 7'):
      chunks.check(table, chunks.Rules(), 7)
    jax.eval_shape(lambda table: chunks.check(table, chunks.Rules(), 7), table)

  @parameterized.parameters(
      (dict(num_shots=3, num_texts=0), '4 shots and 0 texts, more than .*: '
       'num_shots=3, num_texts=0', V),
      (dict(num_shots=4, num_texts=0), '4 shots and 1 texts, more than .*: '
       'num_shots=4, num_texts=0', X))
  def test_a_table_that_has_more_than_it_says_is_refused(
      self, says, message, kind):
    column = lambda *x: np.array([x], np.int32)
    table = chunks.ChunkTable(column(4, 6), column(0, 3), column(V, kind),
                              **says)
    with self.assertRaisesRegex(ValueError, f'sample 0 has {message}'):
      chunks.check(table, chunks.Rules(), 10)

  def test_padding_may_be_of_any_shot(self):
    table = chunks.ChunkTable(*(np.array([x], np.int32) for x in (
        [4, 6], [0, 9], [V, P])), num_shots=1, num_texts=0)
    chunks.check(table, chunks.Rules(), 10)

  @parameterized.parameters(
      (dict(text_scope='some'), "text_scope='some' is not one of"),
      (dict(window=-1), 'window=-1 must be at least 0'))
  def test_unknown_rules_are_refused(self, rule, message):
    with self.assertRaisesRegex(ValueError, message):
      chunks.check(chunks.of_frames(3, 2), chunks.Rules(**rule), 6)

  def test_chunks_of_no_tokens_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'chunk=0 must be at least 1'):
      chunks.of_shots([4], 0)


if __name__ == '__main__':
  absltest.main()

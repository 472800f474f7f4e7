"""Prompts are cleaned as Wan's are, and both tokenizer files say the same."""

import importlib.util
import json
import pathlib
import sys
import unittest
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from tests.models import tiny_tokenizer
from worldsim_jax.errors import UserError
from worldsim_jax.models import text_tokens

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'umt5.npz'
IS_INSTALLED = all(map(importlib.util.find_spec, tiny_tokenizer.NEEDED))
FILES = tuple(text_tokens.READERS)


@unittest.skipUnless(IS_INSTALLED, text_tokens.INSTALL)
class TextTokensTest(parameterized.TestCase):

  def folder(self, *names):
    return tiny_tokenizer.write(self.create_tempdir().full_path, *names)

  def tokenizer(self, *names):
    return text_tokens.Tokenizer(self.folder(*names))

  def test_prompts_are_cleaned_as_wan_cleans_them(self):
    golden = np.load(GOLDEN)
    self.assertEqual([text_tokens.clean(str(x)) for x in golden['prompts']],
                     golden['cleaned'].tolist())

  def test_both_files_give_the_same_tokens(self):
    prompts = [*tiny_tokenizer.SENTENCES, 'unseen ☃ words, Größe', '']
    found = [self.tokenizer(name)(prompts, 32) for name in FILES]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    self.assertLess(found[0][0].max(), 312)

  @parameterized.parameters(*FILES)
  def test_a_text_ends_by_one_token_and_zeros_follow(self, name):
    ids, mask = self.tokenizer(name)(['', 'a stone room'], 24)
    self.assertEqual(ids.dtype, np.int32)
    self.assertEqual(ids[0].tolist(), [1] + [0] * 23)
    np.testing.assert_array_equal(mask, ids != 0)
    self.assertEqual(ids[1][mask[1]][-1], 1)

  @parameterized.parameters(*FILES)
  def test_of_a_long_prompt_the_beginning_is_kept(self, name):
    tokenizer = self.tokenizer(name)
    prompt = [tiny_tokenizer.SENTENCES[1]]
    whole, _ = tokenizer(prompt, 64)
    cut, mask = tokenizer(prompt, 9)
    self.assertEqual(cut[0].tolist(), [*whole[0, :8], 1])
    self.assertTrue(mask.all())
    self.assertEqual(tokenizer(prompt, 1)[0].tolist(), [[1]])

  def test_prompts_are_cleaned_before_they_are_tokens(self):
    ids, _ = self.tokenizer()([' a  stone\nroom &amp;amp; ', 'a stone room &'],
                              32)
    np.testing.assert_array_equal(ids[0], ids[1])

  def test_no_prompts_are_no_rows(self):
    self.assertEqual(self.tokenizer()([], 8)[0].shape, (0, 8))

  def test_tokenizer_json_is_preferred(self):
    folder = self.folder()
    self.assertEqual(text_tokens.find(folder).name, 'tokenizer.json')
    (folder / 'tokenizer.json').unlink()
    self.assertEqual(text_tokens.find(folder).name, 'spiece.model')

  def test_a_folder_without_a_tokenizer_says_what_to_copy(self):
    with self.assertRaisesRegex(UserError, 'tokenizer.json or spiece.model'):
      text_tokens.find(self.create_tempdir().full_path)

  @parameterized.parameters(*FILES)
  def test_a_damaged_file_is_named(self, name):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / name).write_bytes(b'{"nothing": 1}')
    with self.assertRaisesRegex(UserError, f'{name} is no tokenizer'):
      text_tokens.Tokenizer(folder)

  def test_a_tokenizer_that_does_not_end_texts_is_none_of_umt5(self):
    folder = self.folder('tokenizer.json')
    path = folder / 'tokenizer.json'
    content = json.loads(path.read_text()) | {'post_processor': None}
    path.write_text(json.dumps(content))
    with self.assertRaisesRegex(UserError, 'does not end a text by one token'):
      text_tokens.Tokenizer(folder)

  @parameterized.parameters(('ftfy', FILES[0]), ('tokenizers', FILES[0]),
                            ('sentencepiece', FILES[1]))
  def test_a_missing_library_says_how_to_install_it(self, library, name):
    folder = self.folder(name)
    with mock.patch.dict(sys.modules, {library: None}):
      with self.assertRaisesRegex(UserError, f'{library}: pip install'):
        text_tokens.find(folder)


if __name__ == '__main__':
  absltest.main()

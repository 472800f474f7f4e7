"""umT5 in a folder: saved, loaded, refused where something is wrong."""

import importlib.util
import json
import pathlib
import unittest
from unittest import mock

from absl.testing import absltest
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from tests.models import tiny_tokenizer
from worldsim_jax.errors import UserError
from worldsim_jax.models import text_encoder
from worldsim_jax.models import text_tokens
from worldsim_jax.models import umt5
from worldsim_jax.models import umt5_text
from worldsim_jax.storage import checksums

IS_INSTALLED = all(map(importlib.util.find_spec, tiny_tokenizer.NEEDED))
LENGTH = 40
PROMPTS = ('a stone room', ' '.join(tiny_tokenizer.SENTENCES), '',
           'a  stone room')  # The second is cut.


def encoder(**changes):
  return umt5.UMT5Encoder(**dict(
      vocab=320, dim=8, ffn_dim=12, num_heads=2, head_dim=4, num_layers=2,
      dtype='bfloat16') | changes)


def random_params(module, dtype=jnp.bfloat16):
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(dtype),
                      umt5.shapes(module))


@unittest.skipUnless(IS_INSTALLED, text_tokens.INSTALL)
class UMT5TextTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.params = random_params(encoder())

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def saved(self, name='umt5', module=None):
    module = module or encoder()
    published = tiny_tokenizer.write(self.root / 'published')
    umt5_text.save(self.root / name, module, self.params, published)
    return self.root / name

  def test_what_was_saved_is_loaded_bit_by_bit(self):
    module, params, tokenizer = umt5_text.load(self.saved())
    self.assertEqual(module, encoder())
    self.assertEqual(tokenizer.vocab, 312)
    self.assertEqual({x.dtype for x in jax.tree.leaves(params)},
                     {jnp.dtype('bfloat16')})
    jax.tree.map(np.testing.assert_array_equal, params, self.params)

  @pytest.mark.slow
  def test_a_prompt_is_what_the_encoder_makes_of_its_tokens(self):
    encode = text_encoder.make('umt5', LENGTH, str(self.saved()))
    found = encode(PROMPTS)
    self.assertEqual((found.shape, found.dtype),
                     ((len(PROMPTS), LENGTH, 8), jnp.float32))
    ids, mask = encode.tokens(PROMPTS)
    self.assertTrue(mask[1].all())
    expected = jax.jit(encoder().apply)({'params': self.params}, ids, mask)
    np.testing.assert_allclose(  # bf16, in two programs.
        found, np.float32(expected), atol=0.03 * np.abs(expected).max())
    np.testing.assert_array_equal(np.any(found != 0, axis=-1), mask)
    np.testing.assert_array_equal(found[0], found[3])
    # Alone, it is computed with less padding: bf16 in another order.
    alone = encode(PROMPTS[:1])
    np.testing.assert_allclose(
        alone[0], found[0], atol=0.03 * np.abs(found).max())
    self.assertEqual(alone.shape, (1, LENGTH, 8))
    self.assertEqual(encode([]).shape, (0, LENGTH, 8))

  def test_a_config_names_the_folder_and_gets_its_channels(self):
    folder = str(self.saved())
    text = ml_collections.ConfigDict(dict(
        encoder='umt5', length=LENGTH, dim=8, path=folder))
    self.assertEqual(text_encoder.channels('umt5', folder), 8)
    self.assertEqual(text_encoder.of_config(text).length, LENGTH)
    name = text_encoder.name_of(text)
    self.assertRegex(name, f'^umt5{LENGTH}-[0-9a-f]{{12}}$')
    self.params = jax.tree.map(lambda x: x + x, self.params)
    text.path = str(self.saved('other'))
    self.assertNotEqual(text_encoder.name_of(text), name)

  def test_a_folder_that_is_none_is_refused_without_reading_weights(self):
    for path, said in (('', "config.text.path='' must name"),
                       (str(self.root), 'has no umt5.json')):
      with self.assertRaisesRegex(UserError, said):
        text_encoder.check('umt5', LENGTH, path)
    with self.assertRaisesRegex(UserError, 'config.text.length=0'):
      text_encoder.check('umt5', 0, str(self.root))

  def test_a_description_that_cannot_be_is_named(self):
    folder = self.saved()
    for content in ('{', '{}', '[]', json.dumps(
        {'encoder': {'depth': 3}, 'weights': 'float32'}), json.dumps(
            {'encoder': {}, 'weights': 'float33'}), json.dumps(
                {'encoder': {'dim': -1}, 'weights': 'float32'})):
      (folder / umt5_text.DESCRIPTION).write_text(content)
      with self.assertRaisesRegex(UserError, 'umt5.json is damaged'):
        umt5_text.read(folder)

  def test_damaged_weights_are_named(self):
    folder = self.saved()
    largest = max(folder.rglob('d/*'), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with self.assertRaisesRegex(UserError, f'{largest.name} is damaged'):
      umt5_text.load(folder)

  def test_weights_of_another_size_are_refused(self):
    folder = self.saved()
    umt5_text.describe(folder, encoder(dim=10), 'bfloat16')
    with self.assertRaisesRegex(UserError, 'does not fit umt5.json'):
      umt5_text.load(folder)

  def test_a_folder_that_was_not_completed_is_refused(self):
    folder = self.saved()
    (folder / checksums.MANIFEST).unlink()
    with self.assertRaisesRegex(UserError, 'checksums.json is missing'):
      umt5_text.load(folder)

  def test_a_tokenizer_of_another_model_is_refused(self):
    folder = self.saved()
    umt5_text.describe(folder, encoder(vocab=300), 'bfloat16')
    with self.assertRaisesRegex(UserError, '312 tokens.* knows 300'):
      umt5_text.load(folder)

  def test_nothing_is_overwritten(self):
    folder = self.saved()
    with self.assertRaisesRegex(UserError, 'is not empty'):
      self.saved()
    umt5_text.load(folder)

  def test_of_a_save_that_fails_nothing_is_left(self):
    with mock.patch.object(umt5_text.checksums, 'write', side_effect=OSError(
        28, 'No space left on device')):
      with self.assertRaisesRegex(UserError, 'could not be written: no'):
        self.saved()
    self.assertFalse((self.root / 'umt5').exists())
    self.saved()

  def test_other_encoders_take_no_path(self):
    with self.assertRaisesRegex(UserError, 'config.text.path=x .* umt5'):
      text_encoder.check('null', 0, 'x')


if __name__ == '__main__':
  absltest.main()

"""umT5 against transformers, and prompts against diffusers' Wan pipeline."""

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('diffusers')
transformers = pytest.importorskip('transformers')

# pylint: disable=wrong-import-position
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
from diffusers.pipelines.wan import pipeline_wan
import jax
import numpy as np

from tests.golden import make_umt5
from tests.models import tiny_tokenizer
from worldsim_jax.convert import mapping
from worldsim_jax.convert import umt5_keys
from worldsim_jax.models import text_tokens
from worldsim_jax.models import umt5

SIZES = {
    'heads_wider_than_the_model': (dict(
        vocab_size=33, d_model=10, d_ff=27, num_heads=5, d_kv=8, num_layers=3),
        (150, 1, 77)),
    'one_layer': (dict(
        vocab_size=70, d_model=24, d_ff=18, num_heads=3, d_kv=7, num_layers=1),
        (40, 39)),
    'odd_everything': (dict(
        vocab_size=51, d_model=13, d_ff=31, num_heads=7, d_kv=3, num_layers=5),
        (17, 4, 16, 2)),
    'few_buckets': (dict(
        vocab_size=20, d_model=16, d_ff=16, num_heads=2, d_kv=8, num_layers=2,
        relative_attention_num_buckets=8), (300,)),
}


class UMT5ParityTest(parameterized.TestCase):

  @parameterized.named_parameters(
      (name, seed, *case) for seed, (name, case) in enumerate(SIZES.items()))
  def test_embeddings_are_those_of_pytorch(self, seed, sizes, lengths):
    weights = make_umt5.random_weights(sizes, seed)
    ids, mask = make_umt5.inputs(sizes['vocab_size'], lengths, seed)
    expected = make_umt5.run(sizes, weights, ids, mask)
    encoder, params = mapping.read_arrays(umt5_keys, weights)
    found = jax.jit(encoder.apply)({'params': params}, ids, mask)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    print(f'relative error {error:.1e}')
    # Roundings of up to five layers in fp32.
    self.assertLess(error, 1e-5)

  @parameterized.parameters((32, 128), (16, 64), (8, 20), (64, 512), (12, 37))
  def test_buckets_are_the_same_for_all_distances(self, count, max_distance):
    np.testing.assert_array_equal(
        umt5.bucket(make_umt5.DISTANCES, count, max_distance),
        make_umt5.buckets(count, max_distance))

  def test_transformers_takes_our_tensors_all_of_them(self):
    sizes, _ = SIZES['odd_everything']
    weights = make_umt5.random_weights(sizes, 0)
    _, params = mapping.read_arrays(umt5_keys, weights)
    back = mapping.write_arrays(umt5_keys, params, 'transformers')
    self.assertEqual(back.keys(), weights.keys())
    state = {name: torch.from_numpy(x) for name, x in back.items()}
    model = make_umt5.model(sizes)
    result = model.load_state_dict(state, strict=False)
    self.assertEqual(set(result.missing_keys), set(umt5_keys.TIED))
    self.assertEmpty(result.unexpected_keys)

  def test_names_are_those_of_the_class_at_full_size(self):
    names = make_umt5.transformers_names()
    self.assertLen(names, 242)
    self.assertEqual(names.keys(), umt5_keys.places(
        umt5.shapes(umt5.UMT5Encoder()), 'transformers').keys())

  def test_pytorch_still_says_what_was_recorded(self):
    golden = dict(np.load(make_umt5.GOLDEN))
    weights = make_umt5.random_weights(make_umt5.TINY, seed=0)
    for name, x in weights.items():
      np.testing.assert_array_equal(golden[f'weights/{name}'], x)
    hidden = make_umt5.run(
        make_umt5.TINY, weights, golden['ids'], golden['mask'])
    np.testing.assert_allclose(hidden, golden['hidden'], atol=1e-5)
    np.testing.assert_array_equal(make_umt5.buckets(), golden['buckets'])
    self.assertEqual(make_umt5.listed(make_umt5.transformers_names()),
                     golden['names/transformers'].tolist())


class TextParityTest(absltest.TestCase):

  def test_prompts_are_cleaned_as_diffusers_cleans_them(self):
    for prompt in make_umt5.PROMPTS:
      self.assertEqual(text_tokens.clean(prompt),
                       pipeline_wan.prompt_clean(prompt))
      self.assertEqual(text_tokens.clean(prompt), make_umt5.cleaned(prompt))

  def test_every_character_is_cleaned_as_wan_cleans_it(self):
    # Controls, spaces and punctuation of all kinds; `re` and Wan's `regex`
    # differ in what a space is.
    codes = [*range(0x600), *range(0x1680, 0x1820), *range(0x2000, 0x2070),
             *range(0x3000, 0x3010), *range(0xfe00, 0x10000)]
    for code in codes:
      for prompt in (f'a {chr(code)}b{chr(code)}', f'a &#{code};b&#{code};'):
        self.assertEqual(text_tokens.clean(prompt), make_umt5.cleaned(prompt),
                         repr(prompt))

  def test_tokens_are_those_of_transformers(self):
    folder = tempfile.mkdtemp()
    tiny_tokenizer.write(folder, 'tokenizer.json')
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=f'{folder}/tokenizer.json', pad_token=tiny_tokenizer.PAD,
        eos_token=tiny_tokenizer.END, unk_token=tiny_tokenizer.UNKNOWN)
    ours = text_tokens.Tokenizer(folder)
    prompts = [*make_umt5.PROMPTS, *tiny_tokenizer.SENTENCES]
    for length in (8, 64):
      expected = theirs(
          [make_umt5.cleaned(prompt) for prompt in prompts],
          padding='max_length', truncation=True, max_length=length,
          add_special_tokens=True)
      ids, mask = ours(prompts, length)
      np.testing.assert_array_equal(ids, expected['input_ids'])
      np.testing.assert_array_equal(mask, expected['attention_mask'])


if __name__ == '__main__':
  absltest.main()

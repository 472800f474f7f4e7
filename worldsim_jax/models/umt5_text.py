"""umT5 in a folder, and prompts to the embeddings that Wan was trained with.

  umt5.json                       the encoder's sizes, the type of its weights
  params/                         the weights, by Orbax
  tokenizer.json or spiece.model  as published
  checksums.json                  written last: it tells that all is there

`config.text.path` names the folder. Weights of bf16 take 11.4 GB for umt5-xxl,
on one device.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.models import text_tokens
from worldsim_jax.models import umt5
from worldsim_jax.storage import arrays
from worldsim_jax.storage import checksums
from worldsim_jax.storage import paths

DESCRIPTION, PARAMS = 'umt5.json', 'params'
_SHORTEST = 16  # Of the lengths that programs are compiled for.


def save(folder, module: umt5.UMT5Encoder, params, tokenizer):
  """Writes a folder that `load` reads.

  Args:
    folder: where; must not exist, or be empty.
    module: the encoder.
    params: its parameters, all of one type.
    tokenizer: a folder with tokenizer.json or spiece.model.

  Raises:
    UserError: if something is there, no tokenizer is, or the disk refuses.
  """
  folder = paths.folder(folder)
  source = text_tokens.find(tokenizer)
  if folder.exists() and list(folder.iterdir()):
    raise UserError(f'{folder} is not empty; it is left as it is.')
  try:
    arrays.save(folder / PARAMS, params)
    (folder / source.name).write_bytes(source.read_bytes())
    describe(folder, module, jax.tree.leaves(params)[0].dtype)
  except (OSError, ValueError, *paths.remote_errors()) as e:
    with contextlib.suppress(OSError):
      folder.rmtree()
    raise UserError(
        f'{folder} could not be written: {paths.first_line(e)}') from e


def describe(folder, module: umt5.UMT5Encoder, weights_dtype):
  """Completes a folder that has its weights and its tokenizer."""
  sizes = {field.name: getattr(module, field.name)
           for field in dataclasses.fields(module)
           if field.name not in ('parent', 'name')}
  (paths.folder(folder) / DESCRIPTION).write_text(json.dumps(
      {'encoder': sizes, 'weights': jnp.dtype(weights_dtype).name}, indent=2))
  checksums.write(folder)


def read(folder) -> tuple[umt5.UMT5Encoder, str]:
  """The encoder of a folder and the type of its weights, which are not read.

  Raises:
    UserError: if it is no folder of umT5.
  """
  if not folder:
    raise UserError("config.text.path='' must name a folder of umT5, as "
                    'models/umt5_text.py saves it, for '
                    "config.text.encoder='umt5'.")
  path = paths.folder(folder) / DESCRIPTION
  if not path.exists():
    raise UserError(f'config.text.path={folder} has no {DESCRIPTION}: it is no '
                    'folder of umT5.')
  try:
    content = json.loads(path.read_text())
    module = umt5.UMT5Encoder(**content['encoder'])
    umt5.shapes(module, content['weights'])  # Whether it can be.
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise UserError(f'{path} is damaged: {paths.first_line(e)}') from e
  return module, content['weights']


def load(folder):
  """What a folder holds: (module, params, tokenizer).

  Raises:
    UserError: if something is missing, damaged, or does not fit the rest.
  """
  module, weights_dtype = read(folder)
  tokenizer = text_tokens.Tokenizer(folder)
  if tokenizer.vocab > module.vocab:
    raise UserError(
        f'{folder}: the tokenizer has {tokenizer.vocab} tokens, the encoder '
        f'knows {module.vocab}; they do not belong together.')
  checksums.check(folder, extra_files=True)
  path = paths.folder(folder) / PARAMS
  try:
    params = arrays.load(path, umt5.shapes(module, weights_dtype))
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise UserError(f'{path} is damaged, or does not fit {DESCRIPTION}: '
                    f'{paths.first_line(e)}') from e
  return module, params, tokenizer


def fingerprint(folder) -> str:
  """Another one for other weights or another tokenizer."""
  return checksums.fingerprint(folder)


class UMT5TextEncoder:
  """umT5; prompts of more than `length` tokens are cut.

  >>> encode = UMT5TextEncoder(512, 'weights/umt5')
  >>> encode(['a stone room']).shape
  (1, 512, 4096)
  """

  @staticmethod
  def check(length: int, path: str):
    """Raises UserError if the folder has no umT5, or the length cannot be."""
    if length < 1:
      raise UserError(
          f'config.text.length={length} must be positive for umT5 (Wan: 512).')
    read(path)
    text_tokens.find(path)

  def __init__(self, length: int, path: str):
    self.check(length, path)
    self.length = length
    self._module, self.params, self._tokenizer = load(path)
    self.dim = self._module.dim
    self._apply = jax.jit(functools.partial(_embed, self._module))

  def __call__(self, prompts: Sequence[str]) -> jax.Array:
    """float32 [B, L, C], zero behind each prompt's last token."""
    if not prompts:
      return jnp.zeros((0, self.length, self.dim))
    ids_BL, mask_BL = self.tokens(prompts)
    # Padding changes nothing, so most of it is added to the result.
    longest = int(mask_BL.sum(axis=1).max())
    short = min(self.length, max(_SHORTEST, 1 << (longest - 1).bit_length()))
    x_BLC = self._apply(self.params, ids_BL[:, :short], mask_BL[:, :short])
    return jnp.pad(x_BLC, ((0, 0), (0, self.length - short), (0, 0)))

  def tokens(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids, int32 [B, L], and bool [B, L], true where there is a token."""
    return self._tokenizer(prompts, self.length)


def _embed(module, params, ids_BL, mask_BL):
  return module.apply(
      {'params': params}, ids_BL, mask_BL).astype(jnp.float32)

"""Prompts to token ids, as Wan does it: cleaned, cut, ended by a token.

umT5's tokenizer is a unigram model of SentencePiece. google/umt5-xxl and the
folder of that name in Wan's releases carry it in two files, either of which
will do:

  tokenizer.json  read by `tokenizers`, what Wan's own code reads; preferred
  spiece.model    read by `sentencepiece`; text that spells a special token
                  ('</s>', '<extra_id_0>') stays text
"""

from collections.abc import Sequence
import html
import importlib.util
import re

import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths

INSTALL = "pip install 'worldsim_jax[text]'"
READERS = {'tokenizer.json': 'tokenizers', 'spiece.model': 'sentencepiece'}


def clean(prompt: str) -> str:
  """Repairs mojibake, resolves HTML entities, one space between words."""
  import ftfy  # of the extra [text]

  # Twice: captions scraped from the web hold '&amp;quot;'.
  text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
  return re.sub(r'\s+', ' ', text).strip()


class Tokenizer:
  """Prompts to ids, of a tokenizer.json or a spiece.model.

  Attributes:
    vocab: how many ids there are.
  """

  def __init__(self, folder):
    """Reads the folder's tokenizer; local or gs://.

    Raises:
      UserError: if there is none, or it cannot be read.
    """
    path = find(folder)
    read = {'tokenizer.json': _read_json, 'spiece.model': _read_model}
    try:
      self.vocab, self._encode = read[path.name](path.read_bytes())
    except Exception as e:  # pylint: disable=broad-except
      # `tokenizers` raises Exception itself.
      raise UserError(f'{path} is no tokenizer: {paths.first_line(e)}') from e

  def __call__(self, prompts: Sequence[str], length: int):
    """Ids, int32 [B, L], and bool [B, L], true where there is a token.

    Prompts are cleaned; of one that is too long the beginning is kept. The last
    token always ends the text.
    """
    ids_BL = np.zeros((len(prompts), length), np.int32)
    mask_BL = np.zeros((len(prompts), length), bool)
    for row, prompt in enumerate(prompts):
      *words, end = self._encode(clean(prompt))
      ids = [*words[:length - 1], end]
      ids_BL[row, :len(ids)] = ids
      mask_BL[row, :len(ids)] = True
    return ids_BL, mask_BL


def find(folder):
  """The path of a folder's tokenizer.

  Raises:
    UserError: if it has none, or none whose library is installed.
  """
  folder = paths.folder(folder)
  there = [name for name in READERS if (folder / name).exists()]
  if not there:
    raise UserError(f'{folder} has no tokenizer: copy {" or ".join(READERS)} '
                    'of google/umt5-xxl there.')
  for needed in ('ftfy', READERS[there[0]]):
    if importlib.util.find_spec(needed) is None:
      raise UserError(
          f'config.text.encoder=umt5 needs {needed}: {INSTALL}')
  return folder / there[0]


def _read_json(content: bytes):
  import tokenizers  # of the extra [text]

  tokenizer = tokenizers.Tokenizer.from_str(content.decode())
  tokenizer.no_truncation()
  tokenizer.no_padding()
  if len(tokenizer.encode('').ids) != 1:
    raise ValueError('it does not end a text by one token')
  return tokenizer.get_vocab_size(), lambda text: tokenizer.encode(text).ids


def _read_model(content: bytes):
  import sentencepiece  # of the extra [text]

  model = sentencepiece.SentencePieceProcessor(model_proto=content)
  end = model.eos_id()
  return len(model), lambda text: [*model.encode(text), end]

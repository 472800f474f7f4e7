"""Names of umT5's tensors: in two published formats, and in ours.

  original      models_t5_umt5-xxl-enc-bf16.pth of Wan 2.1
  transformers  UMT5EncoderModel: `text_encoder/` of the diffusers folders

Each of the 242 tensors has one place in our parameters. Those of the layers
are stacked there, and matrices are [in, out] instead of [out, in]. The
embedding table is listed twice by transformers (`TIED`), which files hold once,
under either name.
"""

from collections.abc import Iterable
from collections.abc import Mapping

import numpy as np

from worldsim_jax.convert import mapping
from worldsim_jax.convert.mapping import Place
from worldsim_jax.convert.tensors import Readable
from worldsim_jax.errors import UserError
from worldsim_jax.models import umt5

TIED = {'encoder.embed_tokens.weight': 'shared.weight'}
# Ours to (original, transformers), without '.weight'.
_OUTSIDE = {
    'token_embedding': ('token_embedding', 'shared'),
    'norm/weight': ('norm', 'encoder.final_layer_norm'),
}
# Likewise, behind the prefix of a layer.
_LAYER = {
    'norm1/weight': ('norm1', 'layer.0.layer_norm'),
    'attn/q/kernel': ('attn.q', 'layer.0.SelfAttention.q'),
    'attn/k/kernel': ('attn.k', 'layer.0.SelfAttention.k'),
    'attn/v/kernel': ('attn.v', 'layer.0.SelfAttention.v'),
    'attn/o/kernel': ('attn.o', 'layer.0.SelfAttention.o'),
    'pos_embedding': ('pos_embedding.embedding',
                      'layer.0.SelfAttention.relative_attention_bias'),
    'norm2/weight': ('norm2', 'layer.1.layer_norm'),
    'ffn/gate/kernel': ('ffn.gate.0', 'layer.1.DenseReluDense.wi_0'),
    'ffn/fc1/kernel': ('ffn.fc1', 'layer.1.DenseReluDense.wi_1'),
    'ffn/fc2/kernel': ('ffn.fc2', 'layer.1.DenseReluDense.wo'),
}
MODEL = 'umT5'
FORMATS = ('original', 'transformers')
_PREFIXES = ('blocks', 'encoder.block')


def find_format(names: Iterable[str]) -> str | None:
  """The format of a file's names, if they are of one."""
  names = set(names)
  for format_, mark in zip(FORMATS, ('token_embedding.weight',
                                     'encoder.final_layer_norm.weight')):
    if mark in names:
      return format_
  return None


def own(tensors: Mapping[str, Readable]) -> dict[str, Readable]:
  """A file's tensors, by the names that `places` has; of twins, one."""
  return {TIED.get(name, name): x for name, x in sorted(tensors.items())
          if TIED.get(name) not in tensors}


def places(params, format_: str) -> dict[str, Place]:
  """Where all tensors of a format lie in a tree of ours.

  Args:
    params: of the encoder; arrays or shapes.
    format_: of FORMATS.
  """
  which = FORMATS.index(format_)
  found = {f'{names[which]}.weight': Place(tuple(ours.split('/')))
           for ours, names in _OUTSIDE.items()}
  for layer in range(params['blocks']['pos_embedding'].shape[0]):
    for ours, names in _LAYER.items():
      name = f'{_PREFIXES[which]}.{layer}.{names[which]}.weight'
      path = ('blocks', *ours.split('/'))
      found[name] = Place(path, layer, mapping.TRANSPOSED if (
          path[-1] == 'kernel') else mapping.SAME)
  return found


def module(found: Mapping[str, Readable], **fields) -> umt5.UMT5Encoder:
  """The encoder that a file's tensors belong to.

  Args:
    found: what has a `shape`, by name, of one format.
    **fields: that no tensor tells.

  Raises:
    UserError: if they belong to none.
  """
  format_ = find_format(found)
  if format_ is None:
    raise UserError('these are no weights of a umT5 encoder: neither '
                    'token_embedding.weight nor encoder.final_layer_norm.'
                    'weight is among them.')
  prefix = f'{_PREFIXES[FORMATS.index(format_)]}.'
  one_layer = {'blocks': {'pos_embedding': np.zeros(1)}}
  names = {'/'.join(place.path): name
           for name, place in places(one_layer, format_).items()}
  missing = sorted(name for name in names.values() if name not in found)
  if missing:
    raise UserError(f'{missing[0]} is missing among the tensors of {MODEL}.')
  at = lambda path: mapping.shape_of(found, names[path], 2, MODEL)
  num_buckets, num_heads = at('blocks/pos_embedding')
  layers = {name.removeprefix(prefix).partition('.')[0]
            for name in found if name.startswith(prefix)}
  vocab, dim = at('token_embedding')
  return umt5.UMT5Encoder(
      vocab=vocab, dim=dim, ffn_dim=at('blocks/ffn/gate/kernel')[0],
      num_heads=num_heads, head_dim=at('blocks/attn/q/kernel')[0] // num_heads,
      num_layers=len(layers), num_buckets=num_buckets, **fields)


def shapes(encoder: umt5.UMT5Encoder):
  """The parameters of an encoder, as jax.ShapeDtypeStruct."""
  return umt5.shapes(encoder)

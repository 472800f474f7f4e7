"""Names of umT5's tensors: in two published formats, and in ours.

  original      models_t5_umt5-xxl-enc-bf16.pth of Wan 2.1
  transformers  UMT5EncoderModel: `text_encoder/` of the diffusers folders

Each of the 242 tensors has one place in our parameters. Those of the layers
are stacked there, and matrices are [in, out] instead of [out, in]. The
embedding table is listed twice by transformers (`TIED`), which files hold once,
under either name.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.models import umt5


class Place(NamedTuple):
  """Where a tensor lies in our parameters.

  Attributes:
    path: names joined by '/'.
    layer: its row in the stack of layers, or None.
    transposed: whether ours is [in, out].
  """
  path: str
  layer: int | None = None
  transposed: bool = False


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
FORMATS = ('original', 'transformers')
_PREFIXES = ('blocks', 'encoder.block')


def places(format_: str, num_layers: int = 24) -> dict[str, Place]:
  """The place of every tensor of a format, by its name there."""
  which = FORMATS.index(format_)
  found = {f'{names[which]}.weight': Place(ours)
           for ours, names in _OUTSIDE.items()}
  for layer in range(num_layers):
    for ours, names in _LAYER.items():
      name = f'{_PREFIXES[which]}.{layer}.{names[which]}.weight'
      found[name] = Place(f'blocks/{ours}', layer, ours.endswith('kernel'))
  return found


def format_of(names) -> str:
  """The format that tensors of these names are in.

  Raises:
    UserError: if it is neither.
  """
  for format_, marker in zip(FORMATS, ('token_embedding.weight',
                                       'encoder.final_layer_norm.weight')):
    if marker in names:
      return format_
  raise UserError('these are no weights of a umT5 encoder: neither '
                  'token_embedding.weight nor encoder.final_layer_norm.weight '
                  'is among them.')


def untied(names) -> dict[str, str]:
  """The names that `places` knows -> those of a file; of twins, one."""
  names = set(names)
  return {TIED.get(name, name): name
          for name in sorted(names) if TIED.get(name) not in names}


def module(shapes: Mapping[str, tuple[int, ...]], dtype: str = 'float32'):
  """The encoder that tensors of these shapes, by name, belong to.

  Raises:
    UserError: if they belong to none.
  """
  format_ = format_of(shapes)
  shapes = {name: shapes[given] for name, given in untied(shapes).items()}
  own = {place.path: name for name, place in places(format_, 1).items()}
  missing = sorted(name for name in own.values() if name not in shapes)
  if missing:
    raise UserError(f'{missing[0]} is missing among the tensors of umT5.')
  at = lambda path: shapes[own[path]]
  num_buckets, num_heads = at('blocks/pos_embedding')
  prefix = f'{_PREFIXES[FORMATS.index(format_)]}.'
  return umt5.UMT5Encoder(
      *at('token_embedding'), at('blocks/ffn/gate/kernel')[0], num_heads,
      at('blocks/attn/q/kernel')[0] // num_heads,
      len({name.removeprefix(prefix).partition('.')[0]
           for name in shapes if name.startswith(prefix)}),
      num_buckets, dtype=dtype)


def to_params(weights: Mapping[str, np.ndarray]):
  """Our parameters, of tensors in either format, all of them in memory.

  Raises:
    UserError: for a tensor that is missing, is not umT5's, or has another shape
      than the others imply.
  """
  found = {name: weights[given] for name, given in untied(weights).items()}
  model = module({name: x.shape for name, x in found.items()})
  known = places(format_of(found), model.num_layers)
  for name in sorted(known.keys() ^ found.keys()):
    raise UserError(f'{name} is missing among the tensors of umT5.'
                    if name in known else f'{name} is no tensor of umT5.')
  expected = _flat(umt5.shapes(model))
  flat = {}
  for name, place in known.items():
    value = found[name].T if place.transposed else found[name]
    wanted = expected[place.path].shape[0 if place.layer is None else 1:]
    if value.shape != wanted:
      wanted = wanted[::-1] if place.transposed else wanted
      raise UserError(
          f'{name} has shape {found[name].shape}, but umT5 of this size has '
          f'{wanted}.')
    if place.layer is None:
      flat[place.path] = value
    else:
      stack = flat.setdefault(
          place.path, np.empty(expected[place.path].shape, value.dtype))
      stack[place.layer] = value
  return _nested(flat)


def from_params(params, format_: str) -> dict[str, np.ndarray]:
  """The tensors of a format, of our parameters; the inverse of `to_params`."""
  flat = _flat(params)
  found = {}
  for name, place in places(format_, len(flat['blocks/norm1/weight'])).items():
    value = np.asarray(flat[place.path])
    value = value if place.layer is None else value[place.layer]
    found[name] = np.ascontiguousarray(value.T if place.transposed else value)
  return found


def _flat(tree) -> dict:
  return {'/'.join(key.key for key in path): leaf for path, leaf
          in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _nested(flat) -> dict:
  tree = {}
  for path, leaf in flat.items():
    *parents, last = path.split('/')
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[last] = leaf
  return tree

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

from flax import traverse_util
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.models import umt5


class Place(NamedTuple):
  """Where a tensor lies in our parameters.

  Attributes:
    path: the names of its parameter, outermost first.
    layer: its row in the stack of layers, or None.
    transposed: whether ours is [in, out].
  """
  path: tuple[str, ...]
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
  found = {f'{names[which]}.weight': Place(tuple(ours.split('/')))
           for ours, names in _OUTSIDE.items()}
  for layer in range(num_layers):
    for ours, names in _LAYER.items():
      name = f'{_PREFIXES[which]}.{layer}.{names[which]}.weight'
      path = ('blocks', *ours.split('/'))
      found[name] = Place(path, layer, transposed=path[-1] == 'kernel')
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
  own = {'/'.join(place.path): name
         for name, place in places(format_, 1).items()}
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
  """Our parameters, of tensors in either format.

  Args:
    weights: arrays by name, or what has `shape` and `read() -> array`, which is
      called for one after the other.

  Raises:
    UserError: for a tensor that is missing, is not umT5's, or has another shape
      than the others imply.
  """
  found = {name: weights[given] for name, given in untied(weights).items()}
  encoder = module({name: x.shape for name, x in found.items()})
  known = places(format_of(found), encoder.num_layers)
  for name in sorted(known.keys() ^ found.keys()):
    raise UserError(f'{name} is missing among the tensors of umT5.'
                    if name in known else f'{name} is no tensor of umT5.')
  expected = traverse_util.flatten_dict(umt5.shapes(encoder))
  for name, place in known.items():
    wanted = expected[place.path].shape[place.layer is not None:]
    wanted = wanted[::-1] if place.transposed else wanted
    if tuple(found[name].shape) != wanted:
      raise UserError(f'{name} has shape {tuple(found[name].shape)}, but umT5 '
                      f'of this size has {wanted}.')
  params = {}
  for name, place in known.items():
    read = getattr(found[name], 'read', None)
    value = np.asarray(read() if read else found[name])
    value = value.T if place.transposed else value
    if place.layer is None:
      params[place.path] = value
    else:
      stack = params.setdefault(
          place.path, np.empty(expected[place.path].shape, value.dtype))
      stack[place.layer] = value
  return traverse_util.unflatten_dict(params)


def from_params(params, format_: str) -> dict[str, np.ndarray]:
  """The tensors of a format, of our parameters; the inverse of `to_params`."""
  flat = traverse_util.flatten_dict(params)
  found = {}
  for name, place in places(
      format_, len(flat['blocks', 'pos_embedding'])).items():
    value = np.asarray(flat[place.path])
    value = value if place.layer is None else value[place.layer]
    found[name] = np.ascontiguousarray(value.T if place.transposed else value)
  return found

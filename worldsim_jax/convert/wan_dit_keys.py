"""What the Wan transformer's tensors are called: upstream, in diffusers, here.

Two families of names exist,

  wan        Wan's own; also Self Forcing, CausVid, Causal Forcing, LongLive and
             Krea, behind prefixes that `bare` takes off
  diffusers  WanTransformer3DModel. Its norm2 is Wan's norm3, and the other way
             round; only the one before cross-attention has weights

and one tree of ours (models/transformer.py), in which the layers are stacked. A
`Place` says where a tensor of a file belongs; the map is one to one, and every
tensor is moved without arithmetic, so that there and back gives the same bits.

PyTorch's Linear is [out, in], ours [in, out]. The patch embedding is a Conv3d
[out, in, 1, p, q] there, a product with flattened patches [p q in, out] here.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import re
from typing import NamedTuple

import jax
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.models.transformer import VideoTransformer

FORMATS = ('wan', 'diffusers')
# Networks in a file of Self Forcing; the generator's average samples best.
GROUPS = ('generator_ema', 'generator', 'critic')
HEAD_DIM = 128  # Of all published sizes; the weights do not tell.

_GROUP = re.compile(f'(?:({"|".join(GROUPS)})/)?(.*)')
_WRAPPERS = re.compile(
    r'_(?:fsdp_wrapped_module|checkpoint_wrapped_module|orig_mod)\.')
_FRONT = re.compile(r'^(?:(?:module|model|diffusion_model|generator)\.)+')
# What a file may hold besides the transformer: the discriminator of Self
# Forcing's GAN, a table that is made anew, a norm that nothing reads.
_NOT_OURS = re.compile(
    r'(?:_cls_pred_branch|_register_tokens|_gan_ca_blocks)\.?|freqs$'
    r'|.*\.norm_added_q\.')


class Place(NamedTuple):
  """Where a tensor belongs in our tree.

  Attributes:
    path: of the parameter.
    layer: its index on the parameter's first axis; None if that is no stack.
    layout: 'same', 'row' ([1, ...] there), 'transposed' or 'patches'.
  """
  path: tuple[str, ...]
  layer: int | None
  layout: str


# Ours, Wan's, diffusers', what it is.
_OUTSIDE = (
    ('patch_embedding', 'patch_embedding', 'patch_embedding', 'convolution'),
    ('text_embedding_0', 'text_embedding.0',
     'condition_embedder.text_embedder.linear_1', 'linear'),
    ('text_embedding_2', 'text_embedding.2',
     'condition_embedder.text_embedder.linear_2', 'linear'),
    ('time_embedding_0', 'time_embedding.0',
     'condition_embedder.time_embedder.linear_1', 'linear'),
    ('time_embedding_2', 'time_embedding.2',
     'condition_embedder.time_embedder.linear_2', 'linear'),
    ('time_projection_1', 'time_projection.1',
     'condition_embedder.time_proj', 'linear'),
    ('head_modulation', 'head.modulation', 'scale_shift_table', 'table'),
    ('head', 'head.head', 'proj_out', 'linear'),
    ('img_emb/emb_pos', 'img_emb.emb_pos',
     'condition_embedder.image_embedder.pos_embed', 'table'),
    ('img_emb/proj_0', 'img_emb.proj.0',
     'condition_embedder.image_embedder.norm1', 'norm'),
    ('img_emb/proj_1', 'img_emb.proj.1',
     'condition_embedder.image_embedder.ff.net.0.proj', 'linear'),
    ('img_emb/proj_3', 'img_emb.proj.3',
     'condition_embedder.image_embedder.ff.net.2', 'linear'),
    ('img_emb/proj_4', 'img_emb.proj.4',
     'condition_embedder.image_embedder.norm2', 'norm'),
)
_ATTENTION = (
    ('q', 'to_q', 'linear'), ('k', 'to_k', 'linear'), ('v', 'to_v', 'linear'),
    ('o', 'to_out.0', 'linear'), ('norm_q', 'norm_q', 'scale'),
    ('norm_k', 'norm_k', 'scale'))
_ATTENTION_TO_IMAGE = (
    ('k_img', 'add_k_proj', 'linear'), ('v_img', 'add_v_proj', 'linear'),
    ('norm_k_img', 'norm_added_k', 'scale'))
_BLOCK = (
    ('modulation', 'modulation', 'scale_shift_table', 'table'),
    ('norm3', 'norm3', 'norm2', 'norm'),
    ('ffn_0', 'ffn.0', 'ffn.net.0.proj', 'linear'),
    ('ffn_2', 'ffn.2', 'ffn.net.2', 'linear'),
    *((f'self_attn/{ours}', f'self_attn.{ours}', f'attn1.{theirs}', kind)
      for ours, theirs, kind in _ATTENTION),
    *((f'cross_attn/{ours}', f'cross_attn.{ours}', f'attn2.{theirs}', kind)
      for ours, theirs, kind in _ATTENTION + _ATTENTION_TO_IMAGE),
)
# For each kind: (ours, theirs, layout) of its tensors; '' is itself.
_TENSORS = {
    'linear': (('kernel', 'weight', 'transposed'), ('bias', 'bias', 'same')),
    'convolution': (('kernel', 'weight', 'patches'), ('bias', 'bias', 'same')),
    'norm': (('scale', 'weight', 'same'), ('bias', 'bias', 'same')),
    'scale': (('weight', 'weight', 'same'),),
    'table': (('', '', 'row'),),
}


def _leaves(modules, family: str, front: tuple[str, ...] = ()):
  """{name: (path, layout)} of a table of modules."""
  found = {}
  for ours, wan, diffusers, kind in modules:
    module = {'wan': wan, 'diffusers': diffusers}[family]
    for leaf, theirs, layout in _TENSORS[kind]:
      path = (*front, *ours.split('/'), *([leaf] if leaf else []))
      found[f'{module}.{theirs}' if theirs else module] = (path, layout)
  return found


_NAMES = {  # family -> ({name: ...}, {name within blocks.N.: ...})
    family: (_leaves(_OUTSIDE, family), _leaves(_BLOCK, family, ('blocks',)))
    for family in FORMATS}
_OTHER = [  # Outside and in a block: a name to that of the other family.
    dict(zip((*wan, *diffusers), (*diffusers, *wan)))
    for wan, diffusers in zip(*_NAMES.values())]


def bare(name: str) -> str:
  """A tensor's name without what FSDP, checkpointing and wrappers put there."""
  return _FRONT.sub('', _WRAPPERS.sub('', name))


def bare_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same by their bare names.

  Raises:
    UserError: if two of them have the same.
  """
  found = {}
  for name, x in tensors.items():
    if bare(name) in found:
      raise UserError(f'{bare(name)} is there twice, once as {name}.')
    found[bare(name)] = x
  return found


def split_group(name: str) -> tuple[str | None, str]:
  """(the network of GROUPS or None, the bare name) of 'generator/model.x'."""
  group, name = _GROUP.fullmatch(name).groups()
  return group, bare(name)


def is_other(name: str) -> bool:
  """Whether a (bare) tensor is known not to belong to the transformer."""
  return bool(_NOT_OURS.match(name))


def format_of(names: Iterable[str]) -> str:
  """The family of a file's (bare) names.

  Raises:
    UserError: if they are of neither.
  """
  names = set(names)
  for family, mark in (('wan', 'head.modulation'),
                       ('diffusers', 'scale_shift_table')):
    if mark in names:
      return family
  shown = ', '.join(sorted(names)[:3])
  raise UserError('these are no weights of a Wan transformer: neither '
                  'head.modulation (Wan) nor scale_shift_table (diffusers) is '
                  f'among the {len(names)} tensors ({shown} ...).')


def place(name: str, family: str) -> Place:
  """Where the tensor of this (bare) name belongs.

  Raises:
    UserError: if the family has no such tensor.
  """
  outside, block = _NAMES[family]
  match = re.fullmatch(r'blocks\.(0|[1-9]\d*)\.(.+)', name)
  layer, table = (int(match[1]), block) if match else (None, outside)
  found = table.get(match[2] if match else name)
  if found is None:
    raise UserError(f'{name}: a Wan transformer has no such tensor (names of '
                    f'the family {family!r}).')
  path, layout = found
  return Place(path, layer, layout)


def other_name(name: str) -> str | None:
  """What the other family calls a (bare) tensor; None if it has no such."""
  block = re.match(r'blocks\.\d+\.|', name)[0]
  other = _OTHER[bool(block)].get(name.removeprefix(block))
  return other and block + other


def names(params, family: str) -> dict[str, Place]:
  """All tensors of a tree of ours, by the names of a family.

  Args:
    params: of the transformer; arrays or shapes.
    family: of FORMATS.

  Raises:
    UserError: for parameters that Wan does not have.
  """
  outside, block = ({path: (name, layout) for name, (path, layout)
                     in table.items()} for table in _NAMES[family])
  found = {}
  for path, x in _flat(params).items():
    if path in outside:
      name, layout = outside[path]
      found[name] = Place(path, None, layout)
    elif path in block:
      name, layout = block[path]
      for layer in range(x.shape[0]):
        found[f'blocks.{layer}.{name}'] = Place(path, layer, layout)
    else:
      raise UserError(
          f'{"/".join(path)} is a parameter that Wan does not have: this model '
          'cannot be written in a format of Wan.')
  return found


def shape_there(shape, where: Place, patch=(2, 2)) -> tuple[int, ...]:
  """The shape of the tensor in a file.

  Args:
    shape: of our parameter, with its stack of layers.
    where: of the tensor.
    patch: of the model, for the patch embedding.
  """
  shape = tuple(shape) if where.layer is None else tuple(shape)[1:]
  if where.layout == 'row':
    return (1, *shape)
  if where.layout == 'transposed':
    return shape[::-1]
  if where.layout == 'patches':
    return (shape[1], shape[0] // (patch[0] * patch[1]), 1, *patch)
  return shape


def to_ours(x, where: Place):
  """A tensor of a file, as it lies in our parameter (in its layer)."""
  if where.layout == 'row':
    return x[0]
  if where.layout == 'transposed':
    return x.T
  if where.layout == 'patches':
    return x[:, :, 0].transpose(2, 3, 1, 0).reshape(-1, x.shape[0])
  return x


def to_theirs(x, where: Place, patch=(2, 2)):
  """The inverse of `to_ours`; x is of one layer."""
  if where.layout == 'row':
    return x[None]
  if where.layout == 'transposed':
    return x.T
  if where.layout == 'patches':
    return x.reshape(*patch, -1, x.shape[1]).transpose(3, 2, 0, 1)[:, :, None]
  return x


def match(shapes: Mapping[str, tuple[int, ...]], params,
          patch=(2, 2)) -> dict[str, Place]:
  """Where each tensor of a file belongs, if they fit a model exactly.

  Args:
    shapes: by bare name; what `is_other` says is left out.
    params: of the model; arrays or shapes.
    patch: of the model.

  Raises:
    UserError: for a tensor that is missing, too many or of another shape.
  """
  places, flat = names(params, format_of(shapes)), _flat(params)
  expected = {name: shape_there(flat[where.path].shape, where, patch)
              for name, where in places.items()}
  for name, shape in expected.items():
    if name not in shapes:
      raise UserError(f'{name} {shape} is missing.')
    if tuple(shapes[name]) != shape:
      raise UserError(
          f'{name} has shape {tuple(shapes[name])}, expected {shape}.')
  for name in shapes:
    if name not in expected and not is_other(name):
      raise UserError(f'{name} {tuple(shapes[name])} is not of this model.')
  return places


def to_tree(tensors: Mapping[str, np.ndarray]):
  """Our tree from a whole state dict; for models that fit into memory twice.

  Raises:
    UserError: if the tensors are not those of one Wan transformer.
  """
  tensors = bare_names(tensors)
  shapes = {name: x.shape for name, x in tensors.items()}
  fields = model_fields(shapes)
  expected = params_of(fields)
  stacks = {}
  for name, where in match(shapes, expected, fields['patch']).items():
    stacks.setdefault(where.path, []).append(to_ours(tensors[name], where))
  treedef = jax.tree.structure(expected)
  return jax.tree.unflatten(treedef, [  # `names` lists layers in order.
      np.stack(stacks[path]) if path[0] == 'blocks' else stacks[path][0]
      for path in _flat(expected)])


def to_state_dict(params, family: str, patch=(2, 2)) -> dict[str, np.ndarray]:
  """A state dict from our tree."""
  flat, found = _flat(params), {}
  for name, where in names(params, family).items():
    x = flat[where.path]
    found[name] = to_theirs(
        np.asarray(x if where.layer is None else x[where.layer]), where, patch)
  return found


def model_fields(shapes: Mapping[str, tuple[int, ...]],
                 head_dim: int = HEAD_DIM) -> dict:
  """The fields of VideoTransformer that a file's tensors imply.

  Args:
    shapes: by bare name, of one family.
    head_dim: channels of a head.
  """
  family = format_of(shapes)
  by_path = {}
  for name, shape in shapes.items():
    if not is_other(name):
      where = place(name, family)
      by_path.setdefault(where.path, []).append(tuple(shape))
  def first(*path):
    if path not in by_path:
      raise UserError(f'{"/".join(path)} is missing among the {len(shapes)} '
                      'tensors.')
    return by_path[path][0]

  dim, channels, _, *patch = first('patch_embedding', 'kernel')
  latent = first('head', 'kernel')[0] // (patch[0] * patch[1])
  fields = dict(
      dim=dim, ffn_dim=first('blocks', 'ffn_0', 'kernel')[0],
      num_heads=max(dim // head_dim, 1),
      num_layers=len(by_path.get(('blocks', 'modulation'), ())),
      latent_channels=latent,
      patch=tuple(patch), freq_dim=first('time_embedding_0', 'kernel')[1],
      text_dim=first('text_embedding_0', 'kernel')[1],
      concatenated_channels=channels - latent)
  if ('img_emb', 'proj_1', 'kernel') in by_path:
    fields['clip_dim'] = first('img_emb', 'proj_1', 'kernel')[1]
  if ('img_emb', 'emb_pos') in by_path:
    fields['clip_positions'] = first('img_emb', 'emb_pos')[1]
  return fields


def params_of(fields):
  """The parameters, as shapes, of VideoTransformer(**fields)."""
  model = VideoTransformer(**fields)
  x = np.zeros((1, 1, *model.patch, model.latent_channels))
  return jax.eval_shape(
      model.init, jax.random.key(0), x, np.zeros((1, 1)))['params']


def _flat(params) -> dict[tuple[str, ...], jax.Array]:
  return {tuple(key.key for key in path): x
          for path, x in jax.tree.leaves_with_path(params)}

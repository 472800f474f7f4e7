"""What the Wan transformer's tensors are called: upstream, in diffusers, here.

Two families of names exist,

  wan        Wan's own; also Self Forcing, CausVid, Causal Forcing, LongLive and
             Krea, behind prefixes that `bare` takes off
  diffusers  WanTransformer3DModel. Its norm2 is Wan's norm3, and the other way
             round; only the one before cross-attention has weights

and one tree of ours (models/transformer.py), in which the layers are stacked;
`places` is the table between them.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import re

import jax
import numpy as np

from worldsim_jax.convert import mapping
from worldsim_jax.convert.mapping import Place
from worldsim_jax.convert.tensors import Readable
from worldsim_jax.errors import UserError
from worldsim_jax.models.transformer import VideoTransformer

MODEL = 'a Wan transformer'
FORMATS = ('wan', 'diffusers')
# Networks in a file of Self Forcing; the generator's average samples best.
GROUPS = ('generator_ema', 'generator', 'critic')
HEAD_DIM = 128  # Of all published sizes; the weights do not tell.

_WRAPPERS = re.compile(
    r'_(?:fsdp_wrapped_module|checkpoint_wrapped_module|orig_mod)\.')
_FRONT = re.compile(r'^(?:(?:module|model|diffusion_model|generator)\.)+')
# What a file may hold besides the transformer: the discriminator of Self
# Forcing's GAN, a table that is made anew, a norm that nothing reads.
_NOT_OURS = re.compile(
    r'(?:_cls_pred_branch|_register_tokens|_gan_ca_blocks)\.?|freqs$'
    r'|.*\.norm_added_q\.')


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
_PATCHES = 'patches'  # A layout that depends on the model.
# For each kind: (ours, theirs, layout) of its tensors; '' is itself.
_TENSORS = {
    'linear': (('kernel', 'weight', mapping.TRANSPOSED),
               ('bias', 'bias', mapping.SAME)),
    'convolution': (('kernel', 'weight', _PATCHES),
                    ('bias', 'bias', mapping.SAME)),
    'norm': (('scale', 'weight', mapping.SAME),
             ('bias', 'bias', mapping.SAME)),
    'scale': (('weight', 'weight', mapping.SAME),),
    'table': (('', '', mapping.ROW),),
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


def own(tensors: Mapping[str, Readable]) -> dict[str, Readable]:
  """A file's tensors by their bare names, without what is not the model's.

  Raises:
    UserError: if two of them have the same.
  """
  found = {}
  for name, x in tensors.items():
    if bare(name) in found:
      raise UserError(f'{bare(name)} is there twice, once as {name}.')
    if not _NOT_OURS.match(bare(name)):
      found[bare(name)] = x
  return found


def find_format(names: Iterable[str]) -> str | None:
  """The family of a file's (bare) names, if they are of one."""
  names = set(names)
  for family, mark in (('wan', 'head.modulation'),
                       ('diffusers', 'scale_shift_table')):
    if mark in names:
      return family
  return None


def other_name(name: str) -> str | None:
  """What the other family calls a (bare) tensor; None if it has no such."""
  block = re.match(r'blocks\.\d+\.|', name)[0]
  other = _OTHER[bool(block)].get(name.removeprefix(block))
  return other and block + other


def places(params, family: str, patch=(2, 2)) -> dict[str, Place]:
  """Where all tensors of a family lie in a tree of ours.

  Args:
    params: of the transformer; arrays or shapes.
    family: of FORMATS.
    patch: of the model.

  Raises:
    UserError: for parameters that Wan does not have.
  """
  outside, block = ({path: (name, layout) for name, (path, layout)
                     in table.items()} for table in _NAMES[family])
  layout_of = lambda x: mapping.patches(*patch) if x == _PATCHES else x
  found = {}
  for path, x in mapping.flatten(params).items():
    if path in outside:
      name, layout = outside[path]
      found[name] = Place(path, None, layout_of(layout))
    elif path in block:
      name, layout = block[path]
      for layer in range(x.shape[0]):
        found[f'blocks.{layer}.{name}'] = Place(path, layer, layout)
    else:
      raise UserError(
          f'{"/".join(path)} is a parameter that Wan does not have: this model '
          'cannot be written in a format of Wan.')
  return found


def module(found: Mapping[str, Readable],
           head_dim: int = HEAD_DIM, **fields) -> VideoTransformer:
  """The transformer that a file's tensors belong to.

  Args:
    found: what has a `shape`, by bare name, of one family.
    head_dim: channels of a head.
    **fields: that no tensor tells.

  Raises:
    UserError: if they are of no Wan transformer.
  """
  named, num_layers = _by_path(found)

  def shape(path, axes):
    if path not in named:
      raise UserError(f'{path} is missing among the {len(found)} tensors of '
                      f'{MODEL}.')
    return mapping.shape_of(found, named[path], axes, MODEL)

  dim, channels, _, *patch = shape('patch_embedding/kernel', 5)
  latent = shape('head/kernel', 2)[0] // (patch[0] * patch[1])
  if not 0 < latent <= channels:
    raise UserError(f'patch_embedding.weight reads {channels} channels, but '
                    f'the head writes {latent}.')
  fields |= dict(
      dim=dim, ffn_dim=shape('blocks/ffn_0/kernel', 2)[0],
      num_heads=max(dim // head_dim, 1), num_layers=num_layers,
      latent_channels=latent, patch=tuple(patch),
      freq_dim=shape('time_embedding_0/kernel', 2)[1],
      text_dim=shape('text_embedding_0/kernel', 2)[1],
      concatenated_channels=channels - latent)
  if 'img_emb/proj_1/kernel' in named:
    fields['clip_dim'] = shape('img_emb/proj_1/kernel', 2)[1]
  if 'img_emb/emb_pos' in named:
    fields['clip_positions'] = shape('img_emb/emb_pos', 3)[1]
  return VideoTransformer(**fields)


def shapes(model: VideoTransformer):
  """The parameters of a transformer, as jax.ShapeDtypeStruct."""
  x = np.zeros((1, 1, *model.patch, model.latent_channels))
  return jax.eval_shape(
      model.init, jax.random.key(0), x, np.zeros((1, 1)))['params']


def _by_path(found):
  """Names by the paths of ours, and how many layers there are."""
  family, named, layers = find_format(found), {}, set()
  if family is None:
    raise UserError('these are no weights of a Wan transformer: neither '
                    'head.modulation (Wan) nor scale_shift_table (diffusers) '
                    f'is among the {len(found)} tensors '
                    f'({", ".join(sorted(found)[:3])} ...).')
  outside, block = _NAMES[family]
  for name, x in found.items():
    match = re.fullmatch(r'blocks\.(0|[1-9]\d*)\.(.+)', name)
    known = block.get(match[2]) if match else outside.get(name)
    if known is None:
      raise UserError(f'{name} {tuple(x.shape)}: {MODEL} has no such tensor '
                      f'(names of the family {family!r}).')
    named.setdefault('/'.join(known[0]), name)
    if match:
      layers.add(int(match[1]))
  missing = next(i for i in range(len(layers) + 1) if i not in layers)
  if missing < len(layers):
    raise UserError(f'blocks.{missing} is missing, though there is blocks.'
                    f'{max(layers)}.')
  return named, len(layers)

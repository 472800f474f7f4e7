"""Where each tensor of a Wan 2.1 VAE file goes, and back.

Names are those of the original checkpoint ('original') or of diffusers'
AutoencoderKLWan ('diffusers'); ours are paths in the parameters of
`models.wan_vae.WanVAE`. The original's map is mechanical, an index joins what
it indexes:

  encoder.downsamples.0.residual.2.weight
      ->  ('encoder', 'downsamples_0', 'residual_2', 'kernel')

Diffusers' names are renamed to the original's first. Its decoder counts within
levels where the original counts on: residual block j and the resampler of level
i are upsamples (n + 2) i + j and (n + 2) i + n + 1, n being `num_res_blocks`.

The sizes of a model follow from its tensors, but for the constants of its
latents, which are those of Wan 2.1.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import re

import jax
import numpy as np

from worldsim_jax.convert import mapping
from worldsim_jax.convert.mapping import Path
from worldsim_jax.convert.mapping import Place
from worldsim_jax.convert.tensors import Readable
from worldsim_jax.errors import UserError
from worldsim_jax.models.wan_vae import WanVAE

MODEL = "Wan 2.1's VAE"
FORMATS = ('original', 'diffusers')

# (original, diffusers), within '.name.of.tensor'. The order matters: what is
# conv1 in diffusers is another thing in the original.
_RENAMED = (
    ('.encoder.conv1.', '.encoder.conv_in.'),
    ('.decoder.conv1.', '.decoder.conv_in.'),
    ('.conv1.', '.quant_conv.'),
    ('.conv2.', '.post_quant_conv.'),
    ('.residual.0.', '.norm1.'),
    ('.residual.2.', '.conv1.'),
    ('.residual.3.', '.norm2.'),
    ('.residual.6.', '.conv2.'),
    ('.shortcut.', '.conv_shortcut.'),
    ('.middle.0.', '.mid_block.resnets.0.'),
    ('.middle.1.', '.mid_block.attentions.0.'),
    ('.middle.2.', '.mid_block.resnets.1.'),
    ('.head.0.', '.norm_out.'),
    ('.head.2.', '.conv_out.'),
    ('.downsamples.', '.down_blocks.'),
)

_LAYER = r'\.(weight|bias)'
_RESIDUAL = rf'(residual\.[03]\.gamma|(residual\.[26]|shortcut){_LAYER})'
_RESAMPLE = rf'(resample\.1|time_conv){_LAYER}'
_ATTENTION = rf'(norm\.gamma|(to_qkv|proj){_LAYER})'
_ORIGINAL = re.compile(
    rf'conv[12]{_LAYER}'
    rf'|(encoder|decoder)\.(conv1{_LAYER}|head\.0\.gamma|head\.2{_LAYER}'
    rf'|middle\.[02]\.{_RESIDUAL}|middle\.1\.{_ATTENTION})'
    rf'|(encoder\.downsamples|decoder\.upsamples)\.\d+\.'
    rf'({_RESIDUAL}|{_RESAMPLE})')


def find_format(names: Iterable[str]) -> str | None:
  """The format of a file's names, if they are of one."""
  names = set(names)
  for format_, marks in (
      ('original', {'conv2.weight', 'decoder.conv1.weight'}),
      ('diffusers', {'post_quant_conv.weight', 'decoder.conv_in.weight'})):
    if marks <= names:
      return format_
  return None


def own(tensors: Mapping[str, Readable]) -> dict[str, Readable]:
  """A file's tensors, by the names that `places` has."""
  return dict(tensors)


def places(params, format_: str) -> dict[str, Place]:
  """Where all tensors of a format lie in a tree of ours.

  Args:
    params: of the VAE; arrays or shapes.
    format_: of FORMATS.
  """
  flat = mapping.flatten(params)
  num_res_blocks = _num_res_blocks(flat)
  return {to_theirs(path, format_, num_res_blocks): Place(path, None,
                                                          _layout(path))
          for path in flat}


def module(found: Mapping[str, Readable], **fields) -> WanVAE:
  """The VAE that a file's tensors belong to.

  Args:
    found: what has a `shape`, by name.
    **fields: that no tensor tells.

  Raises:
    UserError: if they are of no VAE of Wan 2.1.
  """
  if find_format(found) is None:
    raise UserError(f'these are no weights of {MODEL}: they have no '
                    'decoder.conv1.weight (original) or decoder.conv_in.weight '
                    '(diffusers).')
  by_path, blocks = {}, _num_res_blocks_there(found)
  for name, x in found.items():
    try:
      by_path[to_ours(name, blocks)] = name
    except KeyError as e:
      raise UserError(
          f'{name} {tuple(x.shape)} is no tensor of {MODEL}.') from e

  def shape(*path):
    if path not in by_path:
      raise UserError(f'{"/".join(path)} is missing among the {len(found)} '
                      f'tensors of {MODEL}.')
    return mapping.shape_of(found, by_path[path], 5, MODEL)

  base = shape('encoder', 'conv1', 'kernel')[0]
  widths, in_time, num_res_blocks = [base], [], 0
  for block in _in_order(by_path, 'encoder', 'downsamples_'):
    convolution = ('encoder', block, 'residual_2', 'kernel')
    if convolution in by_path:
      widths[-1] = shape(*convolution)[0]
      num_res_blocks += len(widths) == 1
    else:
      in_time.append(('encoder', block, 'time_conv', 'kernel') in by_path)
      widths.append(widths[-1])
  return WanVAE(**fields | dict(
      base=base, multipliers=tuple(width // base for width in widths),
      num_res_blocks=num_res_blocks, temporal_downsample=tuple(in_time),
      latent_channels=shape('conv2', 'kernel')[0]))


def shapes(vae: WanVAE):
  """The parameters of a VAE, as jax.ShapeDtypeStruct."""
  size = vae.space_stride
  return jax.eval_shape(vae.init, jax.random.key(0),
                        np.zeros((1, 1, size, size, 3)))['params']


def to_ours(name: str, num_res_blocks: int = 2) -> Path:
  """The path of a tensor of either format.

  Args:
    name: of the tensor in the file.
    num_res_blocks: of the model, 2 for the published ones.

  Raises:
    KeyError: if no Wan VAE has a tensor of such a name.
  """
  original = name
  if not _ORIGINAL.fullmatch(name):
    original = _from_diffusers(name, num_res_blocks)
  if not _ORIGINAL.fullmatch(original):
    raise KeyError(name)
  path = re.sub(r'\.(\d+)', r'_\1', original).split('.')
  return (*path[:-1], 'kernel' if path[-1] == 'weight' else path[-1])


def to_theirs(path: Path, to: str = 'original',
              num_res_blocks: int = 2) -> str:
  """The inverse of `to_ours`, for one of FORMATS."""
  if to not in FORMATS:
    raise ValueError(f'to={to!r} is not one of {FORMATS}.')
  name = '.'.join(re.sub(r'_(\d+)$', r'.\1', part) for part in path)
  name = re.sub(r'\.kernel$', '.weight', name)
  if not _ORIGINAL.fullmatch(name):
    raise KeyError('/'.join(path))
  return name if to == 'original' else _to_diffusers(name, num_res_blocks)


def _layout(path) -> mapping.Layout:
  # Norms have a unit axis per axis of what they norm, videos or frames.
  return {'kernel': mapping.CONVOLUTION, 'bias': mapping.SAME,
          'gamma': mapping.unit_axes(2 if path[-2] == 'norm' else 3)}[path[-1]]


def _num_res_blocks(paths) -> int:
  blocks = _in_order(paths, 'encoder', 'downsamples_')
  return next(i for i, block in enumerate(blocks) if (
      'encoder', block, 'residual_2', 'kernel') not in paths)


def _num_res_blocks_there(names) -> int:
  """Of diffusers' decoder, whose names depend on it."""
  resnets = [re.match(r'decoder\.up_blocks\.0\.resnets\.(\d+)\.', name)
             for name in names]
  return max((int(match[1]) for match in resnets if match), default=2)


def _in_order(paths, half: str, prefix: str) -> list[str]:
  found = {path[1] for path in paths
           if path[0] == half and path[1].startswith(prefix)}
  return sorted(found, key=lambda block: int(block.removeprefix(prefix)))


def _from_diffusers(name, num_res_blocks):
  def count_on(match):
    level, kind, place = int(match[1]), match[2], int(match[3])
    if place > (num_res_blocks if kind == 'resnets' else 0):
      raise KeyError(f'{name}, for num_res_blocks={num_res_blocks}')
    if kind == 'upsamplers':
      place = num_res_blocks + 1
    return f'.upsamples.{(num_res_blocks + 2) * level + place}.'

  name = re.sub(r'\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.', count_on,
                f'.{name}')
  for original, diffusers in reversed(_RENAMED):
    name = name.replace(diffusers, original)
  return name[1:]


def _to_diffusers(name, num_res_blocks):
  def count_within(match):
    level, place = divmod(int(match[1]), num_res_blocks + 2)
    block = (f'resnets.{place}' if place <= num_res_blocks else 'upsamplers.0')
    return f'.up_blocks.{level}.{block}.'

  name = re.sub(r'\.upsamples\.(\d+)\.', count_within, f'.{name}')
  for original, diffusers in _RENAMED:
    name = name.replace(original, diffusers)
  return name[1:]

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

Tensors differ in layout only: torch's [out, in, kt, kh, kw] is [kt, kh, kw, in,
out] here, and the norms' unit axes are gone.
"""

from collections.abc import Callable
import re

import numpy as np

FORMATS = ('original', 'diffusers')

Path = tuple[str, ...]
Transform = Callable[[np.ndarray], np.ndarray]

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


def to_ours(name: str, num_res_blocks: int = 2) -> tuple[Path, Transform]:
  """The path of a tensor of either format, and what to do to it.

  Args:
    name: of the tensor in the file.
    num_res_blocks: of the model, 2 for the published ones.

  Returns:
    (path, transform); transform(tensor) is a view where it only transposes.

  Raises:
    KeyError: if no Wan VAE has a tensor of such a name.
  """
  original = name
  if not _ORIGINAL.fullmatch(name):
    original = _from_diffusers(name, num_res_blocks)
  if not _ORIGINAL.fullmatch(original):
    raise KeyError(name)
  path = re.sub(r'\.(\d+)', r'_\1', original).split('.')
  if path[-1] != 'weight':
    return tuple(path), lambda x: x.reshape(-1)
  path[-1] = 'kernel'
  return tuple(path), lambda x: x.transpose(*range(2, x.ndim), 1, 0)


def from_ours(
    path: Path, to: str = 'original', num_res_blocks: int = 2
) -> tuple[str, Transform]:
  """The inverse of `to_ours`: (name, transform) for one of FORMATS."""
  if to not in FORMATS:
    raise ValueError(f'to={to!r} is not one of {FORMATS}.')
  name = '.'.join(re.sub(r'_(\d+)$', r'.\1', part) for part in path)
  name = re.sub(r'\.kernel$', '.weight', name)
  if not _ORIGINAL.fullmatch(name):
    raise KeyError('/'.join(path))
  # Norms have a unit axis per axis of what they norm, videos or frames.
  unit_axes = (1,) * (2 if path[-2] == 'norm' else 3)
  transforms = {
      'kernel': lambda x: x.transpose(x.ndim - 1, x.ndim - 2,
                                      *range(x.ndim - 2)),
      'bias': lambda x: x,
      'gamma': lambda x: x.reshape(-1, *unit_axes)}
  if to == 'diffusers':
    name = _to_diffusers(name, num_res_blocks)
  return name, transforms[path[-1]]


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

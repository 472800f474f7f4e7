"""Where each tensor of a TAEHV file goes, and back.

Upstream's halves are `nn.Sequential`s; our layers have their indices
(`models.tiny_vae.TinyVAE`). What merges or splits frames is a module there,
with a 1x1 convolution in it:

  encoder.0.weight         encoder/layer_0/kernel
  encoder.4.conv.2.weight  encoder/layer_4/conv_2/kernel
  encoder.7.conv.weight    encoder/layer_7/kernel, 1x1

Latents are what the encoder gives, as Wan's diffusion models have them.
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
from worldsim_jax.models.tiny_vae import TinyVAE

MODEL = 'TAEHV'
FORMATS = ('taehv',)
_MARKS = {'encoder.0.weight', 'decoder.1.weight', 'encoder.2.conv.weight'}


def find_format(names: Iterable[str]) -> str | None:
  """The format of a file's names, if they are TAEHV's."""
  return FORMATS[0] if _MARKS <= set(names) else None


def own(tensors: Mapping[str, Readable]) -> dict[str, Readable]:
  """A file's tensors, by the names that `places` has."""
  return dict(tensors)


def places(params, unused_format: str = FORMATS[0]) -> dict[str, Place]:
  """Where all tensors of a file lie in a tree of ours.

  Raises:
    UserError: for parameters that TAEHV does not have.
  """
  found = {}
  for path, x in mapping.flatten(params).items():
    if 'shortcut' in path:
      raise UserError(f'{"/".join(path)} is a parameter that TAEHV does not '
                      'have (config.vae.shortcut).')
    half, layer, *inner, leaf = path
    if leaf == 'kernel' and x.shape[:2] == (1, 1):
      inner = ['conv']
    parts = [half, layer.removeprefix('layer_'),
             *(part.replace('_', '.') for part in inner),
             'weight' if leaf == 'kernel' else leaf]
    found['.'.join(parts)] = Place(path, None, mapping.CONVOLUTION if (
        leaf == 'kernel') else mapping.SAME)
  return found


def module(found: Mapping[str, Readable], **fields) -> TinyVAE:
  """The VAE that a file's tensors belong to.

  Args:
    found: what has a `shape`, by name.
    **fields: that no tensor tells.

  Raises:
    UserError: if they are of no TAEHV.
  """
  shape = lambda name: mapping.shape_of(found, name, 4, MODEL)
  merging = [re.fullmatch(r'encoder\.(\d+)\.conv\.weight', x) for x in found]
  first = sorted(int(match[1]) for match in merging if match)
  last = max((int(match[1]) for match in (
      re.match(r'encoder\.(\d+)\.', name) for name in found) if match),
             default=0)
  if find_format(found) is None or (last - 2) % len(first):
    raise UserError(f'these are no weights of {MODEL}: its first layers '
                    f'({", ".join(sorted(_MARKS))}) are not among them.')
  blocks = (last - 2) // len(first) - 2
  strides = [shape(f'encoder.{k}.conv.weight')[1]
             // shape(f'encoder.{k}.conv.weight')[0] for k in first]
  convolutions = [3 + i * (3 + blocks) + blocks + 2 for i in range(len(first))]
  return TinyVAE(**dict(
      latent_channels=shape(f'encoder.{last}.weight')[0],
      encoder_widths=tuple(shape(f'encoder.{k + 1}.weight')[0] for k in first),
      decoder_widths=(
          shape('decoder.1.weight')[0],
          *(shape(f'decoder.{k}.weight')[0] for k in convolutions)),
      blocks_per_stage=blocks, time_strides=tuple(strides),
      patch=round((shape('encoder.0.weight')[1] / 3)**.5)) | fields)


def shapes(vae: TinyVAE):
  """The parameters of a VAE, as jax.ShapeDtypeStruct."""
  size = vae.space_stride
  return jax.eval_shape(vae.init, jax.random.key(0),
                        np.zeros((1, 1, size, size, 3)))['params']

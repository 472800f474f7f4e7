"""`--mode=convert --format=...`: a world to files that PyTorch users run.

  diffusers     transformer/, vae/, text_encoder/, tokenizer/ as diffusers has
                them; taew2_1.pth beside them for a world with TAEHV
  wan           Wan's own release: safetensors with its names, Wan2.1_VAE.pth or
                taew2_1.pth, models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl/
  self_forcing  one .pt of Self Forcing, CausVid and their successors, the
                transformer alone, under `generator` and `generator_ema`

One tensor at a time is in memory. Of a world that was converted, each tensor
has the bits that it had.
"""

import collections
import json
import os
import shutil
from typing import NamedTuple

from worldsim_jax.convert import diffusers_config
from worldsim_jax.convert import disk
from worldsim_jax.convert import into_world
from worldsim_jax.convert import mapping
from worldsim_jax.convert import safetensors_file
from worldsim_jax.convert import sources
from worldsim_jax.convert import taehv_keys
from worldsim_jax.convert import tensors
from worldsim_jax.convert import torch_file
from worldsim_jax.convert import umt5_keys
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.convert import wan_vae_keys
from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.models import text_tokens
from worldsim_jax.models import umt5
from worldsim_jax.models import umt5_text
from worldsim_jax.models.tiny_vae import TinyVAE
from worldsim_jax.storage import arrays
from worldsim_jax.storage import checksums
from worldsim_jax.storage import paths
from worldsim_jax.streaming import files

FORMATS = ('diffusers', 'wan', 'self_forcing')
_SHARD_BYTES = 5 * 10**9  # diffusers' default is 10 GB, Wan's files have 10.
_WEIGHTS = 'diffusion_pytorch_model.safetensors'


def convert(source, target, format_: str):
  """Writes a world's weights in a published format.

  Args:
    source: a world's folder, or the workdir of a finished run.
    target: a folder that is not there, or empty; for 'self_forcing' a .pt file.
    format_: of FORMATS.

  Raises:
    UserError: if the world has what the format has not, there is no room, or
      something is in the way. Nothing is written then.
  """
  if format_ not in FORMATS:
    raise UserError(f'--format={format_} is not one of {", ".join(FORMATS)}')
  target = disk.local(os.path.abspath(disk.local(target)))
  if target.exists() and (not target.is_dir() or list(target.iterdir())):
    raise UserError(f'--target={target} is there already; it is left as it is')
  world = files.stored(source)
  if world.variables['student'] and build.is_recurrent(
      build.student(world.config)):
    raise UserError(f'{source} has a recurrent network (config.model.kind), '
                    'which no other format knows: keep it as a world')
  write = _write_folder
  if format_ == 'self_forcing':
    write = _write_self_forcing
  with disk.alone(target):
    write(world, target, format_)
  print(f'{target}: in the format {format_}')


def _write_self_forcing(world, target, unused_format):
  if target.suffix != '.pt':
    raise UserError(f'--target={target} must end with .pt: Self Forcing has '
                    'one file')
  if not world.variables['student']:
    raise UserError(f'{world.directory} has no transformer, and the format '
                    'self_forcing nothing else')
  # The same tensors: readers want one or the other, and data is written once.
  network = {f'model.{name}': tensor
             for name, tensor in _transformer(world, 'wan').items()}
  torch_file.write_torch(target, {
      'generator': network, 'generator_ema': network})


def _write_folder(world, target, format_):
  """All or nothing: it has another name until all of it is there."""
  incomplete = target.with_name(f'{target.name}.incomplete')
  parts = _PARTS[format_](world)
  disk.check_space(target, sum(
      tensors.size_of(x) for part in parts for x in part.tensors.values()))
  shutil.rmtree(incomplete, ignore_errors=True)  # Of a process that was killed.
  try:
    for part in parts:
      _write_part(part, incomplete)
    if target.exists():
      target.rmdir()
    incomplete.rename(target)
  except OSError as e:
    raise UserError(f'{target} could not be written: {paths.first_line(e)}'
                    ) from e
  finally:
    shutil.rmtree(incomplete, ignore_errors=True)


class _Part(NamedTuple):
  """A file of weights, or files without any.

  Attributes:
    folder: within the target.
    file: of the weights, whose suffix says how they are written; or ''.
    tensors: by name.
    beside: contents of other files, by name.
  """
  folder: str
  file: str
  tensors: dict[str, tensors.Computed]
  beside: dict[str, bytes]


def _write_part(part, target):
  folder = target / part.folder
  folder.mkdir(parents=True, exist_ok=True)
  if part.file.endswith(safetensors_file.SUFFIX):
    safetensors_file.write_safetensors(
        folder / part.file, part.tensors, shard_bytes=_SHARD_BYTES)
  elif part.file:
    torch_file.write_torch(folder / part.file, part.tensors)
  for name, content in part.beside.items():
    (folder / name).write_bytes(content)


def _diffusers(world) -> list[_Part]:
  parts, vae = [], world.variables['vae']
  if world.variables['student']:
    model = build.denoiser(build.student(world.config))
    parts.append(_Part(
        'transformer', _WEIGHTS, _transformer(world, 'diffusers'),
        _json('config.json', diffusers_config.transformer(model))))
  if vae:
    module = build.tokenizer(world.config)
    if isinstance(module, TinyVAE):  # diffusers has none for videos.
      parts.append(_Part('', 'taew2_1.pth', _tokenizer(world), {}))
    else:
      parts.append(_Part(
          'vae', _WEIGHTS, _tokenizer(world, 'diffusers'),
          _json('config.json', diffusers_config.tokenizer(module))))
  encoder = _text_encoder(world, 'transformers')
  if encoder:
    module, dtype, named, tokenizer = encoder
    parts += [
        _Part('text_encoder', 'model.safetensors', named, _json(
            'config.json', diffusers_config.text_encoder(module, dtype))),
        _Part('tokenizer', '', {}, tokenizer | _json(
            'tokenizer_config.json', diffusers_config.TOKENIZER))]
  # Image-to-video is another pipeline, with CLIP, which is not here.
  is_whole = len(parts) == 4 and not model.concatenated_channels
  if is_whole and not isinstance(build.tokenizer(world.config), TinyVAE):
    parts += [
        _Part('scheduler', '', {}, _json('scheduler_config.json', (
            diffusers_config.scheduler(world.config.student.shift)))),
        _Part('', '', {}, _json('model_index.json', diffusers_config.PIPELINE))]
  return parts


def _wan(world) -> list[_Part]:
  parts = []
  if world.variables['student']:
    model = build.denoiser(build.student(world.config))
    parts.append(_Part('', _WEIGHTS, _transformer(world, 'wan'), _json(
        'config.json', diffusers_config.wan_model(model))))
  if world.variables['vae']:
    is_tiny = isinstance(build.tokenizer(world.config), TinyVAE)
    parts.append(_Part('', 'taew2_1.pth' if is_tiny else 'Wan2.1_VAE.pth',
                       _tokenizer(world), {}))
  encoder = _text_encoder(world, 'original')
  if encoder:
    _, _, named, tokenizer = encoder
    parts += [_Part('', 'models_t5_umt5-xxl-enc-bf16.pth', named, {}),
              _Part('google/umt5-xxl', '', {}, tokenizer)]
  return parts


_PARTS = {'diffusers': _diffusers, 'wan': _wan}


def _transformer(world, format_):
  params = world.variables['student']
  patch = tuple(build.student(world.config).model.patch)
  return mapping.to_tensors(
      params, wan_dit_keys.places(params, format_, patch),
      _narrower(world, sources.TRANSFORMER))


def _tokenizer(world, format_=None):
  params = world.variables['vae']['params']
  keys = wan_vae_keys
  if isinstance(build.tokenizer(world.config), TinyVAE):
    keys = taehv_keys
  return mapping.to_tensors(
      params, keys.places(params, format_ or keys.FORMATS[0]),
      _narrower(world, sources.TOKENIZER))


def _text_encoder(world, format_):
  """(encoder, dtype, tensors, {name of the tokenizer's file: content}) of a
  world that has its own, or None."""
  folder = world.directory / files.TEXT_ENCODER
  if not folder.exists():
    return None
  module, dtype = umt5_text.read(folder)
  checksums.check(folder, extra_files=True)
  params = arrays.stored(folder / umt5_text.PARAMS, umt5.shapes(module, dtype))
  file = text_tokens.find(folder)
  named = mapping.to_tensors(params, umt5_keys.places(params, format_),
                             _narrower(world, sources.TEXT_ENCODER))
  # Transformers wants one type; a few of its own layers have more bits.
  dtype = collections.Counter(
      x.dtype.name for x in named.values()).most_common(1)[0][0]
  return module, dtype, named, {file.name: file.read_bytes()}


def _narrower(world, kind):
  """What a converted world tells of the bits of its files."""
  path = world.directory / into_world.ORIGIN
  if not path.exists():
    return None
  return json.loads(path.read_text())['narrower'].get(kind)


def _json(name: str, content) -> dict[str, bytes]:
  return {name: json.dumps(content, indent=2).encode()}

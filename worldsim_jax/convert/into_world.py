"""`--mode=convert`: published weights to a world, tensor by tensor.

Files are opened and compared with the model that they imply before anything is
written. Then each tensor is read, put in its place of the checkpoint and
forgotten: in memory are one tensor, a copy of it in our layout, and a chunk of
the checkpoint and its compressed form, of 0.3 GB each, whatever the number of
layers. The largest tensor of Wan's 14B has 0.63 GB in float32, that of umT5-xxl
2.1 GB in bfloat16 and 4.2 in float32 (`benchmarks/convert.py` measures).

A world tells in `converted.json` where it is from, and which tensors had fewer
bits than their parameters have, so that it can be written back exactly.
"""

from collections.abc import Sequence
import functools
import json
import math
import os
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.convert import disk
from worldsim_jax.convert import lora
from worldsim_jax.convert import mapping
from worldsim_jax.convert import sources
from worldsim_jax.convert import taehv_keys
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.convert import wan_vae_keys
from worldsim_jax.convert import world_config
from worldsim_jax.errors import UserError
from worldsim_jax.models import text_tokens
from worldsim_jax.models import umt5_text
from worldsim_jax.storage import paths
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World

ORIGIN = 'converted.json'
DTYPES = ('float32', 'bfloat16', 'float16')
# Where releases have a tokenizer, from the folder of its encoder's weights.
_TOKENIZERS = ('.', 'google/umt5-xxl', '../tokenizer')


class Component(NamedTuple):
  """A model and its parameters, not yet read.

  Attributes:
    source: where they are.
    found: the file's tensors, by the names that its keys have.
    module: that they belong to.
    params: tree of `storage.arrays.Streamed`.
  """
  source: sources.Source
  found: Any
  module: Any
  params: Any

  def say(self, kind: str):
    leaves = mapping.flatten(self.params).values()
    count, dtype = sum(x.size for x in leaves), _widest(leaves).name
    network = f', {self.source.network}' * bool(self.source.network)
    print(f'{kind}: {count:,} parameters in {len(self.found):,} tensors, '
          f'{dtype}, of {self.source.file}{network}')

  def narrower(self):
    """See `mapping.narrower`."""
    keys = self.source.keys
    return mapping.narrower(
        self.found, keys.places(self.params, keys.find_format(self.found)),
        self.params)


def convert(named: Sequence[str], target, *, network: str = '',
            dtype: str = '', config=None, lora_alpha: float | None = None):
  """Writes a world of published weights, or a folder of umT5 alone.

  Args:
    named: files and folders; together at most one of each component.
    target: the folder to write, which is not there, or empty.
    network: of a file of several: 'generator_ema', 'generator' or 'critic'.
    dtype: of the parameters of transformer and text encoder, of DTYPES;
      default: the file's.
    config: a run's config, which decides what weights do not tell.
    lora_alpha: of a LoRA whose file does not tell; default: its rank.

  Raises:
    UserError: if something does not fit, or there is no room. Nothing is
      written then.
  """
  if dtype and dtype not in DTYPES:
    raise UserError(f'--weights_dtype={dtype} is not one of '
                    f'{", ".join(DTYPES)}')
  target = paths.absolute(target)
  if target.exists() and (not target.is_dir() or list(target.iterdir())):
    raise UserError(f'--target={target} is there already; it is left as it is')
  found = sources.find(named, network)
  _check_lora(found, lora_alpha)
  components = {
      kind: _component(source, found.get(sources.LORA), dtype, lora_alpha)
      for kind, source in found.items() if source.keys is not None}
  for kind, component in components.items():
    component.say(kind)
  origin = {
      'sources': {kind: {'file': source.file, 'network': source.network}
                  for kind, source in found.items()},
      'narrower': {kind: component.narrower()
                   for kind, component in components.items()}}
  origin = {ORIGIN: json.dumps(origin, indent=1).encode()}
  _check_space(target, components.values())
  text_encoder = components.pop(sources.TEXT_ENCODER, None)
  save_text_encoder = text_encoder and functools.partial(
      umt5_text.save, module=text_encoder.module, params=text_encoder.params,
      tokenizer=_tokenizer_of(text_encoder))
  if components:
    world = _world(components, text_encoder, config)
    with disk.alone(target):
      files.save(world, target, origin, save_text_encoder)
    print(f'{target}: worldsim_jax.load({os.fspath(target)!r})')
  else:
    with disk.alone(target):
      files.replace(target, save_text_encoder)
    print(f'{target}: use it with --config.text.path={target}')


def _check_lora(found, alpha):
  """Whether a LoRA has what it changes, and an alpha a LoRA."""
  if sources.LORA in found and sources.TRANSFORMER not in found:
    raise UserError(f'{found[sources.LORA].file} is a LoRA: name the weights '
                    'that it changes, too (--source=A,B)')
  if alpha is not None and (
      sources.LORA not in found or not alpha or not math.isfinite(alpha)):
    raise UserError(f'--lora_alpha={alpha} is there for a LoRA, and a finite '
                    'number other than 0')


def _component(source, lora_source, dtype, alpha) -> Component:
  """A component, checked against the model that its tensors imply."""
  keys, given = source.keys, source.weights
  found = keys.own(given)
  if keys is wan_dit_keys and lora_source is not None:
    found = lora.merged(found, lora_source.weights,
                        source.network or None, alpha)
  for name, tensor in found.items():
    if not jnp.issubdtype(tensor.dtype, jnp.floating) or (
        tensor.dtype.itemsize < 2):
      raise UserError(f'{source.file}: {name} is of {tensor.dtype}; quantised '
                      'weights cannot be converted, take the full ones')
  widest = mapping.widest(tensor.dtype for tensor in found.values())
  own_dtype = np.dtype(np.float32) if source.kind == sources.TOKENIZER else (
      jnp.dtype(dtype or widest))
  if own_dtype.name not in DTYPES:
    raise UserError(f'{source.file} is of {own_dtype}: say what to make of it '
                    f'(--weights_dtype, one of {", ".join(DTYPES)})')
  module, params = mapping.read(
      keys, found, source.file, own_dtype, **_fields(source, own_dtype))
  return Component(source, found, module, params)


def _fields(source, dtype):
  """Of the module: what tensors do not tell, but config.json may."""
  told, name = source.weights.config or {}, jnp.dtype(dtype).name
  if source.keys is wan_dit_keys:
    fields = {'dtype': 'float32' if name == 'float32' else 'bfloat16'}
    if 'attention_head_dim' in told:  # diffusers
      fields['head_dim'] = told['attention_head_dim']
    elif {'dim', 'num_heads'} <= told.keys():  # Wan
      fields['head_dim'] = told['dim'] // told['num_heads']
    return fields
  if source.keys is wan_vae_keys:
    return {ours: tuple(told[theirs]) for ours, theirs in (
        ('latent_mean', 'latents_mean'), ('latent_std', 'latents_std'))
            if theirs in told}
  if source.keys is taehv_keys:
    return {'pad': 'end'}  # What its encoder was trained with.
  return {}


def _world(components, text_encoder, given) -> World:
  """A world whose parameters are still in files."""
  module = lambda kind: components[kind].module if kind in components else None
  transformer = components.get(sources.TRANSFORMER)
  dtype = (_widest(mapping.flatten(transformer.params).values()).name
           if transformer else 'float32')
  config = world_config.make(
      module(sources.TRANSFORMER), module(sources.TOKENIZER),
      text_encoder and text_encoder.module, dtype, given)
  try:
    variables = jax.eval_shape(lambda: files.initial_variables(config))
  except (ValueError, TypeError) as e:
    raise UserError(f'--config: {paths.first_line(e)}') from e
  if transformer:
    _check_same(variables['student'], transformer)
  vae = {}
  if sources.TOKENIZER in components:
    # Statistics of latents: Wan's are in the module, TAEHV's latents are such.
    vae = {name: jax.tree.map(
        lambda x, value=value: np.full(x.shape, value, x.dtype), stat)
           for name, value in (('mean', 0), ('std', 1))
           for stat in [variables['vae'].get('latent_stats', {}).get(name)]
           if stat is not None}
    vae = {'latent_stats': vae} if vae else {}
    vae['params'] = components[sources.TOKENIZER].params
  world = World(config, transformer.params if transformer else {}, vae, None)
  starts = np.zeros((0, world.context_frames, config.data.height,
                     config.data.width, 3), np.uint8)
  return World(config, world.params, vae, starts)


def _check_same(expected, component):
  """Whether the config that was given has the model of the weights."""
  found, expected = map(mapping.flatten, (component.params, expected))
  for path in sorted(found.keys() ^ expected.keys()):
    raise UserError(f'{"/".join(path)} is a parameter of '
                    + ('the weights' if path in found else '--config')
                    + ' only (config.model)')


def _tokenizer_of(text_encoder):
  """The folder of the tokenizer that belongs to an encoder's weights."""
  file = paths.folder(text_encoder.source.file)
  folder = file if file.is_dir() else file.parent
  looked = [folder / name for name in _TOKENIZERS]
  for place in looked:
    if any((place / name).exists() for name in text_tokens.READERS):
      return place
  raise UserError(
      f'{file} needs its tokenizer ({" or ".join(text_tokens.READERS)}, as in '
      f'google/umt5-xxl); there is none in {", ".join(map(str, looked))}')


def _check_space(target, components):
  if paths.is_remote(target):
    return
  disk.check_space(target, sum(
      x.nbytes for component in components
      for x in mapping.flatten(component.params).values()))


def _widest(leaves):
  return mapping.widest(x.dtype for x in leaves)

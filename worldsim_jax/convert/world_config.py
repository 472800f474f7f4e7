"""The configuration of a converted world: what weights do not tell, they say.

Sizes follow from the tensors. What does not is as published: Self Forcing's
four steps and window for the stream, 480x832 pixels at 16 frames per second,
prompts of 512 tokens. A config that is given (--config) decides instead, if its
sizes are those of the tensors.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.models.tiny_vae import TinyVAE
from worldsim_jax.models.transformer import VideoTransformer
from worldsim_jax.models.umt5 import UMT5Encoder
from worldsim_jax.models.wan_vae import WanVAE

_DATA = dict(height=480, width=832, frames_per_second=16., actions=False,
             tics_per_frame=1)
_STUDENT = dict(
    chunk=3, context_frames=0, timesteps=(1000, 750, 500, 250), shift=5.,
    window=21, sink=0, relative_positions=True, context_sigma=0.)
_TEXT_LENGTH = 512
KINDS = {WanVAE: 'wan', TinyVAE: 'taehv'}
# Of a transformer's fields, what weights decide. They do not tell into how many
# heads their channels are split; 128 is what all published models have.
_SIZES = ('dim', 'ffn_dim', 'num_layers', 'patch', 'freq_dim',
          'concatenated_channels', 'clip_dim', 'clip_positions')
# What models/build.py takes from the rest of the config.
_DERIVED = ('latent_channels', 'text_dim', 'action_dim')


def make(transformer: VideoTransformer | None, tokenizer,
         text_encoder: UMT5Encoder | None, weights_dtype: str,
         given: ConfigDict | None = None) -> ConfigDict:
  """The config of a world.

  Args:
    transformer: as its tensors tell; None for a world without.
    tokenizer: WanVAE, TinyVAE or None, likewise.
    text_encoder: likewise; its weights lie beside the world's.
    weights_dtype: of the transformer's parameters.
    given: a run's config, which decides what tensors do not.

  Raises:
    UserError: if two of them do not fit together.
  """
  transformer = transformer or VideoTransformer(
      dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096)
  has_tokenizer = tokenizer is not None
  tokenizer = tokenizer or _of_that_shape(transformer.latent_channels)
  _check_pair('latent channels', transformer.latent_channels,
              tokenizer.latent_channels, 'tokenizer')
  if text_encoder is not None:
    _check_pair('channels of text', transformer.text_dim, text_encoder.dim,
                'text encoder')
  own = ConfigDict(dict(
      stages=(), data=_DATA, vae=_vae(tokenizer), model=_fields(transformer),
      text=dict(encoder='umt5', dim=transformer.text_dim, length=_TEXT_LENGTH,
                path=''),
      student=_STUDENT | dict(weights_dtype=weights_dtype)))
  return own if given is None else _with(given, own, has_tokenizer)


def _with(given: ConfigDict, own: ConfigDict,
          has_tokenizer: bool) -> ConfigDict:
  """A run's config for these weights."""
  config = given.copy_and_resolve_references().unlock()
  for key in _SIZES:
    wanted, found = given.model.get(key, own.model[key]), own.model[key]
    if tuple(np.ravel(wanted)) != tuple(np.ravel(found)):
      raise UserError(f'config.model.{key}={wanted}, but the weights have '
                      f'{found}')
  config.model = ConfigDict(own.model.to_dict() | given.model.to_dict())
  config.stages = ()
  if has_tokenizer:
    config.vae = own.vae
  config.text.dim = own.text.dim
  config.student.weights_dtype = own.student.weights_dtype
  return config


def _check_pair(what, ours, theirs, name):
  if ours != theirs:
    raise UserError(f'the transformer has {ours} {what}, the {name} {theirs}; '
                    'they do not belong together')


def _of_that_shape(latent_channels):
  """A tokenizer with the strides of Wan's, whose weights are not there."""
  if latent_channels == WanVAE.latent_channels:
    return WanVAE()
  return TinyVAE(latent_channels, patch=2)  # Wan 2.2's strides.


def _vae(tokenizer) -> dict[str, Any]:
  return {'kind': KINDS[type(tokenizer)]} | _fields(tokenizer)


def _fields(module) -> dict[str, Any]:
  fields = {field.name: getattr(module, field.name)
            for field in dataclasses.fields(module)
            if field.name not in ('parent', 'name')}
  fields['dtype'] = jnp.dtype(fields['dtype']).name  # It may be a class.
  if isinstance(module, VideoTransformer):
    for name in _DERIVED:
      del fields[name]
  return fields

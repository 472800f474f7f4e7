"""Checks of stages whose clips are films of several shots.

Part of `validation`; every message is one line and names the key to change.
"""

import jax.numpy as jnp

from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import routing
from worldsim_jax.errors import UserError
from worldsim_jax.models import build


def check(config):
  """Raises UserError, or ValueError with a line to show."""
  for name in config.stages:
    stage = config[name]
    if stage.get('shots', 1) > 1:
      _check_length(name, config)
    if stage.get('moc'):
      _check_mixture(name, config)
  _check_texts(config)


def latents_of_film(config) -> int:
  """Latent frames of a film that the config renders, encoded shot by shot."""
  shot = config.data.num_frames // config.data.shots
  return config.data.shots * (
      1 + (shot - 1) // build.tokenizer(config).time_stride)


def _check_length(name, config):
  stage, data = config[name], config.data
  if data.records or data.latents:
    return  # How long those are is not known before they are read.
  available = latents_of_film(config)
  if stage.clip_frames > available:
    raise UserError(
        f'config.{name}.clip_frames={stage.clip_frames} is more than the '
        f'{available} latent frames of a film (config.data.num_frames='
        f'{data.num_frames}, config.data.shots={data.shots}).')
  needed = -(-stage.clip_frames * data.shots // available)
  if stage.shots < needed:
    raise UserError(
        f'config.{name}.shots={stage.shots} cannot be: clips of '
        f'{stage.clip_frames} latent frames have {needed} shots '
        '(config.data.shots, config.data.num_frames).')


def _check_mixture(name, config):
  stage, own = config[name], build.for_network(config, name)
  settings, where = stage.moc, f'config.{name}.moc'
  if stage.get('shots', 1) == 1:
    raise UserError(
        f'{where} chooses chunks of earlier shots, but config.{name}.shots=1: '
        'set it to the shots of a clip.')
  if settings.chunk < 0:
    raise UserError(f'{where}.chunk={settings.chunk} must be at least 1, or 0 '
                    'for a latent frame.')
  try:
    routing.Routing(
        settings.top_k, settings.drop_off, settings.drop_in).check()
    chunks.check_rules(chunks.Rules(window=settings.window))
    moc.chosen(settings.implementation, own.model.dim // own.model.num_heads,
               jnp.dtype(own.model.dtype))
  except ValueError as e:
    raise UserError(str(e).replace('config.moc', where)) from e


def _check_texts(config):
  if not config.text.get('per_shot'):
    return
  data = config.data
  if not config.text.dim:
    raise UserError('config.text.per_shot=True needs text (config.text.dim).')
  if not (data.records or data.latents or data.shot_captions):
    raise UserError('config.text.per_shot=True needs a caption of each shot '
                    '(config.data.shot_captions=True).')

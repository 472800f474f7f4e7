"""From a configuration to modules: the one place that reads config.model."""

from collections.abc import Mapping
import dataclasses

import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import kv_cache
from worldsim_jax.attention.moc.recall import Recall
from worldsim_jax.diffusion import flow
from worldsim_jax.models import recurrent
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.models.recurrent import RecurrentDenoiser
from worldsim_jax.models.tiny_vae import TinyVAE
from worldsim_jax.models.transformer import VideoTransformer
from worldsim_jax.models.wan_vae import WanVAE

NUM_ACTIONS = 3  # forward, strafe, turn
TOKENIZERS = {'taehv': TinyVAE, 'wan': WanVAE}  # by config.vae.kind
NETWORKS = {  # By config.model.kind.
    'transformer': VideoTransformer, 'recurrent': RecurrentDenoiser}
# Worlds from before there were others name none.
DEFAULT_KIND, DEFAULT_NETWORK = 'taehv', 'transformer'


def for_network(config, name: str):
  """The config as the network of a stage has it.

  Args:
    config: of a run, as it was written.
    name: a stage. Its network is config.model with the stage's own
      config.<name>.model on top; one that starts from another stage's network
      is of that one's size.
  """
  while config[name].get('start_from'):
    name = config[name].start_from
  own = config.copy_and_resolve_references()
  own.model.update(config[name].get('model', {}))
  return own


def student(config):
  """The config as the network that streams has it: the last stage's."""
  return for_network(config, config.stages[-1]) if config.stages else config


def denoiser(config) -> VideoTransformer | RecurrentDenoiser:
  """The denoiser of config.model, sized to config.vae's latents.

  Raises:
    ValueError: for a kind that there is not, or a field that it has not.
  """
  vae = tokenizer(config)
  module, fields = _module(config, 'model', NETWORKS, DEFAULT_NETWORK)
  actions = NUM_ACTIONS * vae.time_stride if config.data.actions else 0
  return module(
      latent_channels=vae.latent_channels, action_dim=actions,
      text_dim=config.text.dim, **fields)


def is_recurrent(config) -> bool:
  """Whether the network of config.model has a state instead of a window."""
  return config.model.get('kind', DEFAULT_NETWORK) == 'recurrent'


def tokenizer(config) -> TinyVAE | WanVAE:
  """The autoencoder of config.vae.

  Raises:
    ValueError: for a kind that there is not, or a field that it has not.
  """
  module, fields = _module(config, 'vae', TOKENIZERS, DEFAULT_KIND)
  return module(**fields)


def tokenizer_fields(config) -> dict:
  """All of config.vae: the kind, then its fields, defaults included."""
  vae = tokenizer(config)
  return {'kind': config.vae.get('kind', DEFAULT_KIND)} | {
      name: getattr(vae, name) for name in _names(type(vae))}


def latent_size(config) -> tuple[int, int]:
  """Height and width of a latent frame.

  Raises:
    ValueError: if the VAE or the patches do not divide the frames.
  """
  size = (config.data.height, config.data.width)
  divisor = tokenizer(config).space_stride
  patch = _patch(config)
  for name, pixels, p in zip(('height', 'width'), size, patch):
    if pixels % (divisor * p):
      raise ValueError(
          f'config.data.{name}={pixels} must be a multiple of {divisor * p} '
          f'(VAE stride {divisor} times config.model.patch {p}).')
  return size[0] // divisor, size[1] // divisor


def tokens_per_frame(config) -> int:
  height, width = latent_size(config)
  patch = _patch(config)
  return height * width // (patch[0] * patch[1])


def num_heads(config) -> int:
  """Parts into which attention can be split; 1 for a network without."""
  return config.model.get('num_heads', 1)


def example_inputs(config, batch: int = 1, frames: int = 1):
  """(x, timesteps, conditioning) of zeros, to initialise a denoiser."""
  model, size = denoiser(config), latent_size(config)
  x = jnp.zeros((batch, frames, *size, model.latent_channels))
  conditioning = Conditioning(
      text=jnp.zeros((batch, 1, model.text_dim)) if model.text_dim else None,
      actions=(jnp.zeros((batch, frames, model.action_dim))
               if model.action_dim else None),
      image=x if model.image else None)
  return x, jnp.zeros((batch, frames)), conditioning


def new_cache(config, batch: int, num_slots: int | None = None):
  """An empty KV cache as config.student describes it, or with other slots.

  Of a recurrent model: its state before the first frame, whatever the slots.
  """
  model, student = config.model, config.student
  if is_recurrent(config):
    height, width = latent_size(config)
    return recurrent.empty(
        batch=batch, height=height, width=width, dim=model.dim)
  recall, slots = None, student.window + student.sink
  if student.get('recall'):
    settings, slots = student.recall, student.recall.slots
    recall = Recall(settings.top_k, settings.most, student.window, student.sink,
                    settings.implementation)
  return kv_cache.empty(
      num_layers=model.num_layers, batch=batch, recall=recall,
      num_slots=num_slots or slots,
      tokens_per_frame=tokens_per_frame(config), num_heads=model.num_heads,
      head_dim=model.dim // model.num_heads, sink=student.sink,
      relative=student.relative_positions, dtype=jnp.dtype(model.dtype))


def student_sigmas(config) -> np.ndarray:
  return flow.few_step_sigmas(
      tuple(config.student.timesteps), config.student.shift)


def velocity_fn(model: VideoTransformer | RecurrentDenoiser):
  """(params, x, timesteps, conditioning, context=None, cache=None) -> model."""
  return lambda params, *args: model.apply({'params': params}, *args)


def _module(config, part: str, kinds: Mapping, default: str):
  """The class that config.<part>.kind names, and its fields there."""
  fields = _fields(config[part])
  kind = fields.pop('kind', default)
  if kind not in kinds:
    raise ValueError(
        f'config.{part}.kind={kind!r} is not one of {tuple(kinds)}.')
  unknown = sorted(fields.keys() - set(_names(kinds[kind])))
  if unknown:
    raise ValueError(
        f'config.{part}.{unknown[0]} is no field of config.{part}.kind='
        f'{kind!r}; another kind replaces all of config.{part} '
        '(configs/base.py).')
  return kinds[kind], fields


def _patch(config) -> tuple[int, int]:
  """Latent pixels of a token: one, for a network that has no tokens."""
  return tuple(config.model.get('patch', (1, 1)))


def _names(module) -> list[str]:
  """Of a module's fields, without flax's own."""
  return [field.name for field in dataclasses.fields(module)
          if field.name not in ('parent', 'name')]


def _fields(config: Mapping) -> dict:
  """Module fields; ConfigDict gives lists where modules want tuples."""
  return {k: tuple(v) if isinstance(v, (list, tuple)) else v
          for k, v in config.items()}

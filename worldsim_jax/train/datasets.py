"""The record sets of a run: frames as rendered, and latents made of them."""

import functools
import os

import jax
import numpy as np

from worldsim_jax.data import pipeline
from worldsim_jax.data import records
from worldsim_jax.data import splits
from worldsim_jax.data import worlds
from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.parallel import distributed
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.storage import paths
from worldsim_jax.train import encoding

FRAME_FIELDS = ('rgb', 'actions')


def latent_fields(config) -> tuple[str, ...]:
  """What a denoiser's batch holds."""
  has_cuts = any(config[name].get('shots', 1) > 1 for name in config.stages)
  return ('latents', 'actions', *['text'] * bool(config.text.dim),
          *['shot_id'] * has_cuts)


def frames(config, workdir) -> str:
  """The folder of the run's frames: rendered here, or the user's records.

  With config.data.latents they are for evaluation only.
  """
  data = config.data
  if data.records:
    return data.records
  generated = lambda split, count: splits.generated_maps(split, count)
  world = worlds.World(
      train_maps=() if data.latents else tuple(data.train_maps) + generated(
          'train', data.generated_train_maps),
      test_maps=tuple(data.test_maps) + generated(
          'test', data.generated_test_maps),
      train_episodes=data.train_episodes, test_episodes=data.test_episodes,
      num_frames=data.num_frames, policy=data.policy, height=data.height,
      width=data.width, tics_per_frame=data.tics_per_frame, seed=config.seed,
      monsters=data.monsters, shots=data.shots,
      shot_captions=data.shot_captions)
  directory = _data_dir(config, workdir)
  return distributed.in_order(
      lambda: worlds.build(world, directory, data.num_workers), directory)


def latents(config, workdir, directory: str, vae, variables) -> str:
  """The folder of the same episodes as latents, with grouped actions.

  Models with text also get the embeddings of their captions.
  """
  encoder = encoding.Encoder(config, vae, variables)
  data_dir = _data_dir(config, workdir)
  return distributed.in_order(
      lambda: records.derive(directory, data_dir, encoder.name, encoder,
                             metadata=encoder.metadata), data_dir)


def check_latents(config, made_with):
  """Raises UserError for config.data.latents that no stage can train on.

  Args:
    config: of the run.
    made_with: the config of the tokenizer that made them.
  """
  source = records.Source(config.data.latents, 'train')
  where = f'config.data.latents={config.data.latents}'
  lost = [name for name in latent_fields(config) if name not in source.shapes]
  if lost:
    raise UserError(f'{where} has no field {lost[0]!r}.')
  vae, made_by = map(build.tokenizer_fields, (config, made_with))
  for key in vae:  # Only where the kinds agree, which come first, do the rest.
    if vae[key] != made_by[key]:
      raise UserError(f'{where} was made with config.vae.{key}='
                      f'{made_by[key]}, but it is {vae[key]} here.')
  size = (*build.latent_size(config), vae['latent_channels'])
  if source.shapes['latents'][1:] != size:
    raise UserError(
        f'{where} has latents of {source.shapes["latents"][1:]}, but '
        f'config.data.height, config.data.width and config.vae say {size}.')
  if config.text.dim:
    made = (source.metadata['latents']['text_encoder'],
            source.metadata['padded']['text'], source.shapes['text'][-1])
    wanted = (config.text.encoder, config.text.length, config.text.dim)
    if made != wanted:
      raise UserError(f'{where} has text of (encoder, length, dim) {made}, but '
                      f'config.text says {wanted}.')
  pipeline.check_lengths(source, {
      f'config.{name}.clip_frames':
          -(-config[name].clip_frames // config[name].get('shots', 1))
      for name in config.stages})


def films(config, directory: str, count: int):
  """Yields films spread over the training split, uint8 [1, P, H, W, 3]."""
  source = records.Source(directory, 'train')
  stride = build.tokenizer(config).time_stride
  count = min(count, len(source))
  for index in np.linspace(0, len(source) - 1, count).astype(int):
    rgb = source[int(index)]['rgb']
    yield rgb[None, :len(rgb) - (len(rgb) - 1) % stride]


class Batches:
  """Clips of a record set: the rows that this process's devices need.

  Called with a stage's config, it gives () -> an iterator over the training
  split.

  Args:
    directory: of the record set.
    fields: of a batch.
    seed: of the order.
    mesh: of all processes' devices.
  """

  def __init__(self, directory: str, fields, seed: int, mesh):
    self._fields, self._seed, self._mesh = fields, seed, mesh
    self._source = functools.cache(
        lambda split: records.Source(directory, split))

  def __call__(self, stage):
    return lambda: pipeline.make_iterator(
        self._source('train'), batch_size=stage.batch_size,
        clip_frames=stage.clip_frames, most_shots=stage.get('shots', 1),
        seed=self._seed, fields=self._fields,
        rows=meshes.rows(self._mesh, stage.batch_size))

  def test_clips(self, num_clips: int, clip_frames: int) -> dict:
    """The same clips of the test split on every call, as a batch."""
    clips = pipeline.eval_clips(
        self._source('test'), num_clips=num_clips, clip_frames=clip_frames,
        fields=self._fields)
    rows = meshes.rows(self._mesh, num_clips)
    return {name: clips[name][rows] for name in self._fields}


def _data_dir(config, workdir) -> str:
  """Record sets are read at random, and so kept on this machine's disk."""
  return config.data.dir or os.path.join(paths.local_folder(workdir), 'data')

"""The record sets of a run: frames as rendered, and latents made of them."""

import functools
import hashlib
import os

import jax
import numpy as np

from worldsim_jax.data import pipeline
from worldsim_jax.data import records
from worldsim_jax.data import shots
from worldsim_jax.data import splits
from worldsim_jax.data import worlds
from worldsim_jax.data.actions import ActionSpace
from worldsim_jax.forcing import batches
from worldsim_jax.models import build
from worldsim_jax.models import text_encoder
from worldsim_jax.models import tiny_vae
from worldsim_jax.parallel import distributed
from worldsim_jax.parallel import mesh as meshes

FRAME_FIELDS = ('rgb', 'actions')


def latent_fields(config) -> tuple[str, ...]:
  """What a denoiser's batch holds."""
  return ('latents', 'actions') + (('text',) if config.text.dim else ())


def frames(config, workdir) -> str:
  """The folder of the run's frames: rendered here, or the user's records."""
  data = config.data
  if data.records:
    return data.records
  generated = lambda split, count: splits.generated_maps(split, count)
  world = worlds.World(
      train_maps=tuple(data.train_maps) + generated(
          'train', data.generated_train_maps),
      test_maps=tuple(data.test_maps) + generated(
          'test', data.generated_test_maps),
      train_episodes=data.train_episodes, test_episodes=data.test_episodes,
      num_frames=data.num_frames, policy=data.policy, height=data.height,
      width=data.width, tics_per_frame=data.tics_per_frame, seed=config.seed)
  directory = _data_dir(config, workdir)
  return distributed.in_order(
      lambda: worlds.build(world, directory, data.num_workers), directory)


def latents(config, workdir, directory: str, vae, variables) -> str:
  """The folder of the same episodes as latents, with grouped actions.

  Models with text also get the embeddings of their captions.
  """
  encode = jax.jit(functools.partial(vae.apply, method='encode'))
  embed = text_encoder.make(config.text.encoder, config.text.length)

  def transform(episode):
    # Whole groups of frames only: P = 1 + s (F - 1).
    length = len(episode['rgb']) - (len(episode['rgb']) - 1) % vae.time_stride
    video = tiny_vae.to_float(episode['rgb'][None, :length])
    actions = ActionSpace().normalise(episode['actions'][None, :length])
    z, _ = encode(variables, video)
    grouped = batches.group_actions(actions, vae.time_stride)[0]
    made = {'latents': z[0], 'actions': grouped}
    if config.text.dim:
      made['text'] = embed([episode['caption']])[0]
    made = {name: np.asarray(x, np.float32) for name, x in made.items()}
    if 'shot_id' in episode:
      made['shot_id'] = shots.grouped(
          episode['shot_id'][:length], vae.time_stride)
    return made

  text = config.text
  name = f'latents-shots-{_digest(variables)}-{text.encoder}{text.length}'
  data_dir = _data_dir(config, workdir)
  return distributed.in_order(
      lambda: records.derive(directory, data_dir, name, transform), data_dir)


def films(config, directory: str, count: int):
  """Yields films spread over the training split, uint8 [1, P, H, W, 3]."""
  source = records.Source(directory, 'train')
  stride = build.tiny_vae(config).time_stride
  count = min(count, len(source))
  for index in np.linspace(0, len(source) - 1, count).astype(int):
    rgb = source[int(index)]['rgb']
    yield rgb[None, :len(rgb) - (len(rgb) - 1) % stride]


def training_batches(directory: str, fields, seed: int, mesh):
  """Returns (stage config) -> () -> an iterator over the training split.

  It yields the rows that this process's devices of the mesh need.
  """
  source = functools.cache(lambda: records.Source(directory, 'train'))

  def of_stage(stage):
    return lambda: pipeline.make_iterator(
        source(), batch_size=stage.batch_size, clip_frames=stage.clip_frames,
        seed=seed, fields=fields, rows=meshes.rows(mesh, stage.batch_size))

  return of_stage


def _data_dir(config, workdir) -> str:
  return config.data.dir or os.path.join(os.fspath(workdir), 'data')


def _digest(variables) -> str:
  """A name for a set of weights."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(variables):
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:12]

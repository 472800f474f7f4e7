"""Worlds on disk: a folder with config.json, starts.npz and params/.

This is what a finished run leaves in <workdir>/world, what `--mode=export` writes
and what `worldsim_jax.load` reads.
"""

import json

from etils import epath
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.streaming.world import World

CONFIG, STARTS, PARAMS = 'config.json', 'starts.npz', 'params'


def save(world: World, directory, extra=()):
  """Writes a world; the folder appears when it is complete.

  Args:
    world: what to write.
    directory: where; an older one is replaced.
    extra: more files, a dict of bytes by name.
  """
  directory = epath.Path(directory)
  incomplete = directory.parent / f'{directory.name}.incomplete'
  if incomplete.exists():  # Of a process that was killed.
    incomplete.rmtree()
  incomplete.mkdir(parents=True)
  (incomplete / CONFIG).write_text(world.config.to_json(indent=2))
  with (incomplete / STARTS).open('wb') as f:
    np.savez_compressed(f, frames=world.starts)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save((incomplete / PARAMS).resolve(), world.variables)
  for name, content in dict(extra).items():
    (incomplete / name).write_bytes(content)
  if directory.exists():
    directory.rmtree()
  incomplete.rename(directory)


def load(path) -> World:
  """Reads a world.

  Args:
    path: its folder, or the workdir of a finished run; local or gs://.

  Raises:
    UserError: if there is no world, or it does not fit its configuration.
  """
  path = epath.Path(path)
  for directory in (path, path / 'world'):
    if (directory / CONFIG).exists() and (directory / PARAMS).exists():
      break
  else:
    raise UserError(
        f'{path}: no world here (no {CONFIG} with {PARAMS}/, also not in '
        'world/); a run leaves one when all its stages are done.')
  config = ml_collections.ConfigDict(
      json.loads((directory / CONFIG).read_text()))
  expected = jax.eval_shape(lambda: initial_variables(config))
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      variables = checkpointer.restore(
          (directory / PARAMS).resolve(), expected)
  except (ValueError, OSError, KeyError) as e:
    reason = (str(e).splitlines() or [''])[0][:200]
    raise UserError(f'{directory}/{PARAMS} does not fit its {CONFIG}, or is '
                    f'damaged: {reason}') from e
  with (directory / STARTS).open('rb') as f:
    starts = np.load(f)['frames']
  return World(config, variables['student'], variables['vae'], starts)


def initial_variables(config):
  """Untrained variables of a world, for their shapes."""
  model, vae = build.transformer(config), build.tiny_vae(config)
  size = (config.data.height, config.data.width)
  video = np.zeros((1, 1, *size, 3), np.float32)
  key = jax.random.key(0)
  return {
      'student': model.init(key, *build.example_inputs(config))['params'],
      'vae': vae.init(key, video)}

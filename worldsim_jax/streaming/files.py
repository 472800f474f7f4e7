"""Worlds on disk: a folder with config.json, starts.npz and params/.

This is what a finished run leaves in <workdir>/world, what `--mode=export`
writes and what `worldsim_jax.load` reads.
"""

import contextlib
import json
import zipfile

from etils import epath
import jax
import ml_collections
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.streaming.world import World

CONFIG, STARTS, PARAMS = 'config.json', 'starts.npz', 'params'


def save(world: World, directory, extra=()):
  """Writes a world; the folder appears when it is complete.

  One process does it alone, whoever else takes part in the run.

  Args:
    world: what to write.
    directory: where; an older world is replaced.
    extra: more files, a dict of bytes by name.

  Raises:
    UserError: if there is something else, or the disk refuses.
  """
  directory = epath.Path(directory)
  incomplete, replaced = (
      directory.parent / f'{directory.name}.{suffix}'
      for suffix in ('incomplete', 'replaced'))
  if not _is_replaceable(directory):
    raise UserError(f'{directory} is there and is no world; it is left as it '
                    'is. Write to another folder (--target).')
  try:
    _remove(incomplete, replaced)  # Of a process that was killed.
    _write(world, incomplete, dict(extra))
    if directory.exists():
      directory.rename(replaced)
    incomplete.rename(directory)
    _remove(replaced)
  except (OSError, ValueError) as e:
    with contextlib.suppress(OSError):
      _remove(incomplete)
    raise UserError(f'{directory} could not be written: {_line(e)}') from e


def is_world(directory) -> bool:
  """Whether `save` wrote it."""
  directory = epath.Path(directory)
  return (directory / CONFIG).exists() and (directory / PARAMS).exists()


def load(path, with_student: bool = True) -> World:
  """Reads a world.

  Args:
    path: its folder, or the workdir of a finished run; local or gs://.
    with_student: False for one that was saved without (params = {}).

  Raises:
    UserError: if there is no world, or it does not fit its configuration.
  """
  path = epath.Path(path)
  for directory in (path, path / 'world'):
    if is_world(directory):
      break
  else:
    raise UserError(
        f'{path}: no world here (no {CONFIG} with {PARAMS}/, also not in '
        'world/); a run leaves one when all its stages are done.')
  with _readable(directory / CONFIG):
    config = ml_collections.ConfigDict(
        json.loads((directory / CONFIG).read_text()))
    shapes = jax.eval_shape(lambda: initial_variables(config))
    if not with_student:
      shapes['student'] = {}
  with _readable(directory / PARAMS):
    # To one device of this machine, whatever the world was trained on.
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    expected = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        shapes)
    with _checkpointer() as checkpointer:
      variables = checkpointer.restore(
          (directory / PARAMS).resolve(), expected)
  with _readable(directory / STARTS), (directory / STARTS).open('rb') as f:
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


def _write(world, directory, extra):
  directory.mkdir(parents=True)
  (directory / CONFIG).write_text(world.config.to_json(indent=2))
  with (directory / STARTS).open('wb') as f:
    np.savez_compressed(f, frames=world.starts)
  with _checkpointer() as checkpointer:
    # Of one process's own devices, Orbax saves only what is on the host.
    checkpointer.save((directory / PARAMS).resolve(),
                      jax.tree.map(np.asarray, world.variables))
  for name, content in extra.items():
    (directory / name).write_bytes(content)


def _is_replaceable(directory) -> bool:
  """Whether nothing but a world would be lost."""
  if not directory.exists():
    return True
  if not directory.is_dir():
    return False
  return is_world(directory) or not list(directory.iterdir())


def _remove(*directories):
  for directory in directories:
    if directory.exists():
      directory.rmtree()


@contextlib.contextmanager
def _readable(path):
  """Whatever a damaged or foreign file raises becomes one line."""
  try:
    yield
  except (OSError, ValueError, KeyError, AttributeError, TypeError, EOFError,
          zipfile.BadZipFile) as e:
    raise UserError(f'{path} is damaged, or does not fit the files beside it: '
                    f'{_line(e)}') from e


def _line(error) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _checkpointer():
  import orbax.checkpoint as ocp  # slow to import

  alone = jax.process_index()
  return ocp.StandardCheckpointer(
      multiprocessing_options=ocp.options.MultiprocessingOptions(
          primary_host=alone, active_processes={alone}))

"""Worlds on disk: a folder with config.json, starts.npz and params/.

This is what a finished run leaves in <workdir>/world, what `--mode=export`
writes and what `worldsim_jax.load` reads. checksums.json, written last, tells
whether its files are what they were.
"""

import contextlib
import functools
import json
import os
from typing import Any
from typing import NamedTuple
import zipfile

import jax
import ml_collections
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.storage import arrays
from worldsim_jax.storage import checksums
from worldsim_jax.storage import paths
from worldsim_jax.streaming.world import World

CONFIG, STARTS, PARAMS = 'config.json', 'starts.npz', 'params'
TEXT_ENCODER = 'text_encoder'  # umT5, with checksums of its own.


def save(world: World, directory, extra=(), save_text_encoder=None):
  """Writes a world; the folder appears when it is complete.

  One process does it alone, whoever else takes part in the run.

  Args:
    world: what to write.
    directory: where; an older world is replaced.
    extra: more files, a dict of bytes by name.
    save_text_encoder: (folder) -> writes the world's own, if it has one.

  Raises:
    UserError: if there is something else, or the disk refuses.
  """
  directory = paths.folder(directory)
  if not _is_replaceable(directory):
    raise UserError(f'{directory} is there and is no world; it is left as it '
                    'is. Write to another folder (--target).')
  replace(directory, functools.partial(
      _write, world, extra=dict(extra), save_text_encoder=save_text_encoder))


def replace(directory, write):
  """Replaces a folder, or nothing, by one that `write` fills.

  Args:
    directory: which one; it is there, complete, or as it was.
    write: (folder) -> fills it.

  Raises:
    UserError: if the disk refuses.
  """
  directory = paths.folder(directory)
  put = _replace_object if paths.is_remote(directory) else _replace_folder
  try:
    put(directory, write)
  except (OSError, ValueError, *paths.remote_errors()) as e:
    raise UserError(
        f'{directory} could not be written: {paths.first_line(e)}') from e


def is_world(directory) -> bool:
  """Whether `save` wrote it."""
  directory = paths.folder(directory)
  return ((directory / CONFIG).exists() and (directory / PARAMS).exists()
          and not _is_half_written(directory))


def load(path) -> World:
  """Reads a world, or as much of one as was saved.

  Args:
    path: its folder, or the workdir of a finished run; local or gs://.

  Raises:
    UserError: if there is no world, a file of it is damaged, or it does not
      fit its configuration.
  """
  directory, config, shapes = described(path, whole=True)
  with _readable(directory / PARAMS):
    # To one device of this machine, whatever the world was trained on.
    variables = arrays.load(directory / PARAMS, shapes)
  with _readable(directory / STARTS), (directory / STARTS).open('rb') as f:
    starts = np.load(f)['frames']
  return World(config, variables['student'], variables['vae'], starts)


class StoredWorld(NamedTuple):
  """A world that is still on the disk.

  Attributes:
    directory: where.
    config: of the world.
    variables: as `World.variables`, of `storage.arrays.Stored`.
  """
  directory: Any
  config: ml_collections.ConfigDict
  variables: Any


def stored(path) -> StoredWorld:
  """As `load`, but parameters are read when they are asked for."""
  directory, config, shapes = described(path, whole=True)
  with _readable(directory / PARAMS):
    return StoredWorld(
        directory, config, arrays.stored(directory / PARAMS, shapes))


def initial_variables(config):
  """Untrained variables of a world, for their shapes and dtypes."""
  own = build.student(config)
  model, vae = build.denoiser(own), build.tokenizer(config)
  size = (config.data.height, config.data.width)
  video = np.zeros((1, 1, *size, 3), np.float32)
  key = jax.random.key(0)
  weights_dtype = config.student.get('weights_dtype', 'float32')
  student = model.init(key, *build.example_inputs(own))['params']
  return {
      'student': jax.tree.map(lambda x: x.astype(weights_dtype), student),
      'vae': vae.init(key, video)}


class Description(NamedTuple):
  """A world without its numbers.

  Attributes:
    directory: where it is.
    config: of the world.
    shapes: of the variables that it has.
  """
  directory: Any
  config: ml_collections.ConfigDict
  shapes: Any


def described(path, whole: bool = False) -> Description:
  """What a world is; raises as `load`.

  Args:
    path: as there.
    whole: whether to compare all its files with their checksums first, and not
      read the small ones alone.
  """
  path = paths.folder(path)
  for directory in (path, path / 'world'):
    if is_world(directory):
      break
  else:
    raise UserError(
        f'{path}: no world here (no {CONFIG} with {PARAMS}/, also not in '
        'world/); a run leaves one when all its stages are done.')
  if whole:  # Users put films beside a world.
    checksums.check(directory, extra_files=True)
  with _readable(directory / CONFIG):
    config = ml_collections.ConfigDict(
        json.loads((directory / CONFIG).read_text()))
    shapes = jax.eval_shape(lambda: initial_variables(config))
  with _readable(directory / PARAMS):
    saved = arrays.names(directory / PARAMS)
  if (directory / TEXT_ENCODER).exists():
    config.text.path = os.fspath(directory / TEXT_ENCODER)  # It may have moved.
  return Description(directory, config, {
      name: tree if name in saved else {} for name, tree in shapes.items()})


def _replace_folder(directory, write):
  """Under another name until it is complete."""
  incomplete = _beside(directory, 'incomplete')
  replaced = _beside(directory, 'replaced')
  try:
    _remove(incomplete, replaced)  # Of a process that was killed.
    write(incomplete)
    if directory.exists():
      directory.rename(replaced)
    incomplete.rename(directory)
    _remove(replaced)
  except BaseException:  # Also of what a weights file turns out to be.
    with contextlib.suppress(OSError):
      _remove(incomplete)
    raise


def _replace_object(directory, write):
  """In a bucket, where folders have no name to change: a file marks it."""
  incomplete = _beside(directory, 'incomplete')
  incomplete.write_text('The world beside this file is being written.')
  _remove(directory)
  write(directory)
  incomplete.unlink()


def _write(world, directory, extra, save_text_encoder):
  directory.mkdir(parents=True, exist_ok=True)
  (directory / CONFIG).write_text(world.config.to_json(indent=2))
  with (directory / STARTS).open('wb') as f:
    np.savez_compressed(f, frames=world.starts)
  arrays.save(directory / PARAMS, world.variables)
  for name, content in extra.items():
    (directory / name).write_bytes(content)
  checksums.write(directory)
  if save_text_encoder:
    save_text_encoder(directory / TEXT_ENCODER)


def _beside(directory, suffix: str):
  return directory.parent / f'{directory.name}.{suffix}'


def _is_replaceable(directory) -> bool:
  """Whether nothing but a world would be lost."""
  if not directory.exists():
    return True
  if not directory.is_dir():
    return False
  return (is_world(directory) or _is_half_written(directory)
          or not list(directory.iterdir()))


def _is_half_written(directory) -> bool:
  return (paths.is_remote(directory)
          and _beside(directory, 'incomplete').exists())


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
                    f'{paths.first_line(e)}') from e

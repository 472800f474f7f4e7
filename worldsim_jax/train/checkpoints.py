"""Checkpoints of one stage: Orbax, saved asynchronously, resumed exactly.

A checkpoint holds the `TrainState` (parameters, optimisers, averages, step),
the state of the data iterator and the configuration that made it. Orbax writes
into a temporary directory and renames it when everything is on disk (in a
bucket: marks it as complete), so a process that dies while saving leaves the
previous checkpoint as the latest one.

Orbax itself does not notice a byte of an array that has changed on disk. So a
checkpoint is given checksums of its files before it is complete; one that does
not match them is passed over for the one before it.
"""

import contextlib
import functools
import json
import logging as standard_logging
import os
import sys
from typing import Any, Iterator

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from worldsim_jax.errors import UserError
from worldsim_jax.storage import checksums
from worldsim_jax.storage import paths

_ORBAX = os.path.dirname(os.path.abspath(ocp.__file__))
_WRITE_ERRORS = (OSError, ValueError)
# Orbax completes these last. They hold times and nothing that is restored.
_WRITTEN_LAST = ('_CHECKPOINT_METADATA', 'commit_success.txt')


class Checkpoints:
  """The checkpoints of one stage of a workdir.

  Args:
    directory: local or gs:// path; made if it is not there.
    config: a flat dict of what a run that resumes must have in common.
    max_to_keep: older checkpoints are deleted.
    keep_every: but not those of steps that are multiples of this; 0: of none.
    announce: called with one line when something is worth saying.

  Raises:
    UserError: if the directory cannot be made.
  """

  def __init__(self, directory, config: dict[str, Any], *, max_to_keep: int = 2,
               keep_every: int = 0, announce=print):
    self._directory = paths.absolute(directory)
    self._config = json.loads(json.dumps(config))
    self._announce = announce
    self._damaged = []  # Steps that `restore` passed over.
    self._saving = None  # The step whose files are being written.
    options = ocp.CheckpointManagerOptions(
        preservation_policy=_preserved(max_to_keep, keep_every),
        cleanup_tmp_directories=True, create=True,
        async_options=ocp.options.AsyncOptions(
            post_finalization_callback=self._add_checksums))
    try:
      self._manager = ocp.CheckpointManager(self._directory, options=options)
    except (OSError, *paths.remote_errors()) as error:
      raise UserError(f'cannot keep checkpoints in {self._directory}: '
                      f'{paths.first_line(error)}.') from error
    self._filter = _RaisedAnyway()
    logging.get_absl_logger().addFilter(self._filter)
    _drop_late_callbacks()

  def latest_step(self) -> int | None:
    """Finished steps of the newest checkpoint, or None."""
    return self._manager.latest_step()

  def written_step(self) -> int | None:
    """The same, but not of one that is still being written; reads the disk."""
    return max(ocp.utils.checkpoint_steps(self._directory), default=None)

  def save(self, step: int, state, iterator_state: dict[str, Any]):
    """Starts saving; returns when the state may be donated again.

    Raises:
      UserError: if this or the previous save could not be written.
    """
    with self._named_errors():
      self._manager.wait_until_finished()
      # What `restore` found damaged is in the way, or would be taken for newer
      # than what is saved from now on.
      for old in {step, *self._damaged} & set(self._manager.all_steps()):
        self._manager.delete(old)
      self._damaged, self._saving = [], step
      self._manager.save(step, args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          data=ocp.args.JsonSave(iterator_state),
          config=ocp.args.JsonSave(self._config)), force=True)

  def __enter__(self):
    return self

  def __exit__(self, exception_type, *_):
    if exception_type is None:
      self.close()
      return
    try:
      self.close()
    except UserError as error:  # It must not hide the first one.
      self._announce(str(error))

  def restore(self, like) -> tuple[Any, dict[str, Any]] | None:
    """The newest readable checkpoint, or None if there is none.

    Args:
      like: a state of arrays or ShapeDtypeStructs; shardings are obeyed.

    Returns:
      (state, data iterator state). A damaged checkpoint is skipped for the one
      before it, and said.

    Raises:
      UserError: if it belongs to another configuration, or all are damaged.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    for step in steps:
      try:
        _check_files(self._directory / str(step))
      except checksums.Damaged as error:
        self._damaged.append(step)
        self._announce(_passed_over(self._directory, step, error))
        continue
      check_same_config(
          _config_of(self._manager, step), self._config, self._directory)
      with _whole_but_unreadable(self._directory, step):
        restored = self._manager.restore(step, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(like),
            data=ocp.args.JsonRestore()))
      return restored['state'], restored['data']
    if steps:
      raise UserError(f'no checkpoint in {self._directory} is readable: remove '
                      'the folder to train this stage again.')
    return None

  def wait(self):
    """Blocks until the last save is on disk."""
    with self._named_errors():
      self._manager.wait_until_finished()

  def close(self):
    try:
      with self._named_errors():
        self._manager.close()
    finally:
      logging.get_absl_logger().removeFilter(self._filter)

  def _add_checksums(self):
    """Runs in Orbax's thread, of the first process, before it commits."""
    # Locally the folder has another name until it is complete.
    [folder] = [path for path in self._directory.iterdir()
                if path.name.partition('.')[0] == str(self._saving)]
    checksums.write(folder, later=_WRITTEN_LAST)

  @contextlib.contextmanager
  def _named_errors(self) -> Iterator[None]:
    try:
      yield
    except (*_WRITE_ERRORS, *paths.remote_errors()) as error:
      last = self._manager.latest_step()
      kept = ('there is no earlier checkpoint' if last is None
              else f'the last good checkpoint is step {last}')
      raise UserError(f'could not save to {self._directory}: '
                      f'{paths.first_line(error)}; {kept}.') from error


def newest_params(directory, network: str,
                  announce=print) -> tuple[int, Any] | None:
  """The best parameters of a network in the newest readable checkpoint.

  Args:
    directory: of a stage, as given to `Checkpoints`.
    network: its name.
    announce: called with one line for a checkpoint that is passed over.

  Returns:
    (finished steps, parameters on the first device): the best on held-out clips
    or averaged ones where there are any; optimisers are not read. None if there
    is no checkpoint.

  Raises:
    UserError: if no checkpoint can be read.
  """
  directory = paths.absolute(directory)
  steps = _steps(directory)
  for step in steps:
    try:
      _check_files(directory / str(step))
    except checksums.Damaged as error:
      announce(_passed_over(directory, step, error))
      continue
    with _whole_but_unreadable(directory, step):
      return step, _read_params(directory / str(step) / 'state', network)
  if steps:
    raise UserError(f'no checkpoint in {directory} is readable.')
  return None


def _read_params(state, network: str):
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    tree = reader.metadata(state).item_metadata.tree
    part = next(part for part in ('best', 'ema', 'params')
                if network in tree.get(part, {}))
    wanted = {part: {network: jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        tree[part][network])}}
    read = reader.restore(state, args=ocp.args.PyTreeRestore(
        wanted, partial_restore=True,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted)))
  return read[part][network]


def _check_files(folder, under: str = ''):
  """Compares a checkpoint with its checksums, the work shared by processes.

  Raises:
    checksums.Damaged: in all processes, if any of them found damage.
  """
  found, count = None, jax.process_count()
  try:
    checksums.check(folder, under, share=(jax.process_index(), count))
  except checksums.Damaged as error:
    found = error
  # All must go on with the same checkpoint.
  if count > 1 and multihost_utils.process_allgather(
      np.array(found is not None)).any():
    found = found or checksums.Damaged('another process found damage')
  if found:
    raise found


@contextlib.contextmanager
def _whole_but_unreadable(directory, step: int) -> Iterator[None]:
  """Says so; to go on from an older one would lose what is not damaged."""
  try:
    yield
  except Exception as error:  # Orbax raises many types.
    raise UserError(
        f'checkpoint {directory}/{step} is whole but cannot be read: '
        f'{paths.first_line(error)}.') from error


def _passed_over(directory, step: int, error: Exception) -> str:
  return (f'checkpoint {directory}/{step} is unreadable '
          f'({paths.first_line(error)}); trying the one before it')


def _preserved(max_to_keep: int, keep_every: int):
  policies = ocp.checkpoint_managers
  newest = policies.LatestN(max_to_keep)
  if not keep_every:
    return newest
  return policies.AnyPreservationPolicy(
      [newest, policies.EveryNSteps(keep_every)])


class _RaisedAnyway(standard_logging.Filter):
  """Drops tracebacks that Orbax's threads print of errors that it also raises.

  They come to us from the next call of the manager, and become one line.
  """

  def filter(self, record):
    error = record.exc_info and record.exc_info[1]
    return not (isinstance(error, _WRITE_ERRORS)
                and record.pathname.startswith(_ORBAX))


@functools.cache
def _drop_late_callbacks():
  """Silences arrays whose save fails after that of another one has.

  That one closed Orbax's event loop, of which TensorStore then prints a
  traceback per array. They come until the process ends.
  """
  before = sys.unraisablehook

  def hook(unraisable):
    is_late = (isinstance(unraisable.exc_value, RuntimeError)
               and str(unraisable.exc_value) == 'Event loop is closed')
    if not is_late or unraisable.object is not None:
      before(unraisable)

  sys.unraisablehook = hook


def finished_steps(directory, config: dict[str, Any]) -> int:
  """Steps of the newest checkpoint in a directory; 0 where there is none.

  Raises:
    UserError: if it belongs to another configuration. One that cannot be read
      is passed over, as by `Checkpoints.restore`.
  """
  directory = paths.absolute(directory)
  for step in _steps(directory):
    try:
      checksums.check(directory / str(step), under='config')
    except checksums.Damaged:  # Whoever restores it says so.
      continue
    with _opened(directory) as manager:
      saved = _config_of(manager, step)
    check_same_config(saved, json.loads(json.dumps(config)), directory)
    return step
  return 0


def _steps(directory) -> list[int]:
  """The steps of all checkpoints, newest first."""
  if not directory.exists():
    return []
  with _opened(directory) as manager:
    return sorted(manager.all_steps(), reverse=True)


def _opened(directory):
  """A manager to read with; Orbax's `read_only` warns of itself."""
  return ocp.CheckpointManager(
      directory, options=ocp.CheckpointManagerOptions(create=False))


def _config_of(manager, step: int) -> dict[str, Any]:
  return manager.restore(step, args=ocp.args.Composite(
      config=ocp.args.JsonRestore()))['config']


def check_same_config(saved: dict[str, Any], current: dict[str, Any], where):
  """Raises UserError naming the first keys in which two flat configs differ."""
  different = [key for key in sorted(saved | current)
               if saved.get(key) != current.get(key)]
  if different:
    changes = ', '.join(
        f'config.{key}={saved.get(key)!r} there and {current.get(key)!r} now'
        for key in different[:3])
    more = f' and {len(different) - 3} more' if len(different) > 3 else ''
    raise UserError(
        f'{where} was made with another configuration: {changes}{more}. Use '
        f'that configuration or another --workdir, or remove {where} and the '
        'folders of later stages to train them again; earlier stages stay.')

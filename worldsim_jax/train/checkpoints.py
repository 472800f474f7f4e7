"""Checkpoints of one stage: Orbax, saved asynchronously, resumed exactly.

A checkpoint holds the `TrainState` (parameters, optimisers, averages, step),
the state of the data iterator and the configuration that made it. Orbax writes
into a temporary directory and renames it when everything is on disk, so a
process that dies while saving leaves the previous checkpoint as the latest one.
"""

import contextlib
import functools
import json
import logging as standard_logging
import os
import sys
from typing import Any, Iterator

from absl import logging
from etils import epath
import jax
import orbax.checkpoint as ocp

from worldsim_jax.errors import UserError

_ORBAX = os.path.dirname(os.path.abspath(ocp.__file__))
_WRITE_ERRORS = (OSError, ValueError)


class Checkpoints:
  """The checkpoints of one stage of a workdir.

  Args:
    directory: local or gs:// path; made if it is not there.
    config: a flat dict of what a run that resumes must have in common.
    max_to_keep: older checkpoints are deleted.
    announce: called with one line when something is worth saying.

  Raises:
    UserError: if the directory cannot be made.
  """

  def __init__(self, directory, config: dict[str, Any], *, max_to_keep: int = 2,
               announce=print):
    self._directory = _absolute(directory)
    self._config = json.loads(json.dumps(config))
    self._announce = announce
    options = ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep, cleanup_tmp_directories=True, create=True)
    try:
      self._manager = ocp.CheckpointManager(self._directory, options=options)
    except OSError as error:
      raise UserError(f'cannot keep checkpoints in {self._directory}: '
                      f'{_first_line(error)}.') from error
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
      # One that `restore` found unreadable, or it would not be written again.
      if step in self._manager.all_steps():
        self._manager.delete(step)
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
      (state, data iterator state). A checkpoint that cannot be read is skipped
      for the one before it, and said.

    Raises:
      UserError: if it belongs to another configuration, or none is readable.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    for step in steps:
      try:
        check_same_config(
            _config_of(self._manager, step), self._config, self._directory)
        restored = self._manager.restore(step, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(like),
            data=ocp.args.JsonRestore()))
        return restored['state'], restored['data']
      except UserError:
        raise
      except Exception as error:  # Orbax raises many types for a broken file.
        self._announce(f'checkpoint {self._directory}/{step} is unreadable '
                       f'({_first_line(error)}); trying the one before it')
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

  @contextlib.contextmanager
  def _named_errors(self) -> Iterator[None]:
    try:
      yield
    except _WRITE_ERRORS as error:
      last = self._manager.latest_step()
      kept = ('there is no earlier checkpoint' if last is None
              else f'the last good checkpoint is step {last}')
      raise UserError(f'could not save to {self._directory}: '
                      f'{_first_line(error)}; {kept}.') from error


def newest_params(directory, network: str) -> tuple[int, Any] | None:
  """The best parameters of a network in the newest checkpoint.

  Args:
    directory: of a stage, as given to `Checkpoints`.
    network: its name.

  Returns:
    (finished steps, parameters on the first device): averaged ones where there
    are any; optimisers are not read. None if there is no checkpoint.

  Raises:
    UserError: if the checkpoint cannot be read.
  """
  directory = _absolute(directory)
  if not directory.exists():
    return None
  with _opened(directory) as manager:
    step = manager.latest_step()
  if step is None:
    return None
  state = directory / str(step) / 'state'
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    try:
      tree = reader.metadata(state).item_metadata.tree
      part = 'ema' if network in tree.get('ema', {}) else 'params'
      wanted = {part: {network: jax.tree.map(
          lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
          tree[part][network])}}
      read = reader.restore(state, args=ocp.args.PyTreeRestore(
          wanted, partial_restore=True,
          restore_args=ocp.checkpoint_utils.construct_restore_args(wanted)))
    except Exception as error:  # Orbax raises many types for a broken file.
      raise UserError(f'checkpoint {state} is unreadable: '
                      f'{_first_line(error)}.') from error
  return step, read[part][network]


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
  directory = _absolute(directory)
  if not directory.exists():
    return 0
  with _opened(directory) as manager:
    for step in sorted(manager.all_steps(), reverse=True):
      try:
        saved = _config_of(manager, step)
      except Exception:  # Whoever restores it says so.
        continue
      check_same_config(saved, json.loads(json.dumps(config)), directory)
      return step
  return 0


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


def _absolute(directory) -> epath.Path:
  """Orbax takes absolute paths only."""
  is_url = '://' in str(directory)
  return epath.Path(directory if is_url else os.path.abspath(directory))


def _first_line(error: BaseException) -> str:
  if 'No space left' in str(error):
    return 'no space left on the device'
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

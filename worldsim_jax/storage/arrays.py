"""Trees of arrays in a folder, by Orbax.

One process writes or reads them alone, whoever else takes part in the run, and
has them on one of its own devices. Arrays that do not fit into memory are
written from pieces (`Streamed`) and read by slices (`Stored`).
"""

import asyncio
from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import json
import math
import os
from typing import Any

import jax
import numpy as np

from worldsim_jax.storage import paths

_METADATA = '_METADATA'  # Orbax's list of what a folder has.
# Of a chunk, the unit of reading and compression; several are in memory.
_CHUNK_BYTES = 2**28
_SMALL_BYTES = 2**22


@dataclasses.dataclass(frozen=True)
class Streamed:
  """An array that is made while it is written.

  Attributes:
    shape: of at least one axis.
    dtype: of all pieces.
    pieces: () -> (slice of the first axis, array) ..., which cover it in order.
  """
  shape: tuple[int, ...]
  dtype: np.dtype
  pieces: Callable[[], Iterator[tuple[slice, np.ndarray]]]

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    return self.size * self.dtype.itemsize

  def whole(self) -> np.ndarray:
    """All of it."""
    array = np.empty(self.shape, self.dtype)
    for rows, piece in self.pieces():
      array[rows] = piece
    return array


class Stored:
  """An array of a folder; indexing its first axis reads that part."""

  def __init__(self, store):
    self._store = store
    self.shape = tuple(store.shape)
    self.dtype = np.dtype(store.dtype.numpy_dtype)

  def __getitem__(self, rows) -> np.ndarray:
    return self._store[rows].read().result()


def save(folder, tree):
  """Writes a tree of arrays and `Streamed`; the folder must not exist."""
  import orbax.checkpoint as ocp  # slow to import

  tree = jax.tree.map(
      _savable, tree, is_leaf=lambda x: isinstance(x, Streamed))
  registry = ocp.type_handlers.create_type_handler_registry(
      (jax.Array, ocp.type_handlers.ArrayHandler()),  # Else Orbax warns.
      (np.ndarray, ocp.type_handlers.NumpyHandler()),
      (Streamed, _streamed_handler(ocp)))
  options = _alone(ocp)
  handler = ocp.PyTreeCheckpointHandler(
      type_handler_registry=registry, multiprocessing_options=options)
  with ocp.Checkpointer(
      handler, multiprocessing_options=options) as checkpointer:
    checkpointer.save(paths.absolute(folder), args=ocp.args.PyTreeSave(tree))


def load(folder, shapes):
  """Reads a tree of these jax.ShapeDtypeStruct.

  Those without a sharding come onto this process's device.
  """
  import orbax.checkpoint as ocp

  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  expected = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=x.sharding or device), shapes)
  with ocp.StandardCheckpointer(
      multiprocessing_options=_alone(ocp)) as checkpointer:
    return checkpointer.restore(paths.absolute(folder), expected)


def names(folder) -> set[str]:
  """The outermost names of a folder's tree under which there are arrays.

  Raises:
    ValueError, KeyError: if it is none.
  """
  text = (paths.folder(folder) / _METADATA).read_text()
  entries = json.loads(text)['tree_metadata'].values()
  return {entry['key_metadata'][0]['key'] for entry in entries
          if entry['value_metadata']['value_type'] != 'Dict'}  # An empty one.


def stored(folder, shapes) -> Any:
  """A tree like `shapes`, of `Stored`: nothing is read yet.

  Raises:
    ValueError: if the folder has not all of them, or in other shapes.
  """
  import tensorstore as ts  # Orbax's own; slow to import.

  folder = paths.absolute(folder)
  base = os.fspath(folder) if paths.is_remote(folder) else f'file://{folder}'

  def opened(path, x):
    name = '.'.join(key.key for key in path)
    kvstore = {'driver': 'ocdbt', 'base': f'{base}/', 'path': f'{name}/'}
    found = Stored(ts.open({'driver': 'zarr', 'kvstore': kvstore}).result())
    if found.shape != tuple(x.shape):
      raise ValueError(f'{name} has shape {found.shape}, not {tuple(x.shape)}')
    return found

  return jax.tree_util.tree_map_with_path(opened, shapes)


def _savable(x):
  if isinstance(x, Streamed):  # Small ones are faster together.
    return x if x.nbytes > _SMALL_BYTES else x.whole()
  # Of one process's own devices, Orbax saves only what is on the host.
  x = np.asarray(x)
  if x.nbytes <= _CHUNK_BYTES:
    return x
  return Streamed(x.shape, x.dtype, lambda: iter([(slice(0, len(x)), x)]))


def _alone(ocp):
  process = jax.process_index()
  return ocp.options.MultiprocessingOptions(
      primary_host=process, active_processes={process})


def _streamed_handler(ocp):
  """Writes `Streamed` as Orbax writes NumPy arrays, but one piece at a time."""
  import tensorstore as ts

  class StreamedHandler(ocp.type_handlers.NumpyHandler):

    def __init__(self):
      super().__init__(deepcopy_host_arrays=False)
      self._turn = asyncio.Semaphore()  # Orbax begins all arrays at once.

    async def _open_and_write(self, value, tspec, ts_context):
      async with self._turn:
        store = None
        for rows, piece in value.pieces():
          if store is None:
            spec = dict(tspec, metadata=dict(
                tspec['metadata'], chunks=_chunk_shape(piece)))
            store = await ts.open(
                ts.Spec(spec), create=True, open=True, context=ts_context)
          step = _chunk_shape(piece)[0]
          for start in range(0, len(piece), step):
            part = piece[start:start + step]
            first = rows.start + start
            await store[first:first + len(part)].write(part)

  return StreamedHandler()


def _chunk_shape(piece) -> list[int]:
  """Whole rows of a piece; a piece is whole chunks, but for its last one."""
  row_bytes = max(piece[:1].nbytes, 1)
  return [max(1, min(len(piece), _CHUNK_BYTES // row_bytes)), *piece.shape[1:]]

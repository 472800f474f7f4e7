"""The device mesh, and placing arrays on it.

The rules of what lies where are in `parallel/layout.py`. Nothing else in the
project names a device.

Virtual devices of a CPU share a pool of threads, by default one each. A device
that waits in two independent collectives takes two of them, and another may
find none: all wait for ever. `give_threads` is for programs; tests/conftest.py
does the same, and has XLA's CPU begin collectives in one order.
"""

import functools
import logging
import math
import os

import jax
from jax.experimental import mesh_utils
from jax.experimental import multihost_utils
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.parallel import layout

_THREADS = 64  # of virtual devices together
_GATHERED = 2**30  # bytes


def give_threads():
  """Lets virtual CPU devices wait for each other; before JAX finds devices."""
  if 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
    os.environ.setdefault('PJRT_NPROC', str(_THREADS))


def make_mesh(sizes=None, devices=None) -> jax.sharding.Mesh:
  """A mesh with all axes of `layout.AXES`, with automatic sharding.

  Args:
    sizes: by axis name; axes that are not named have size 1, one may be -1 and
      takes what is left. Default: all devices on 'data'.
    devices: default: all.

  Raises:
    UserError: if the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = dict(sizes or {'data': -1})
  shape = [sizes.get(axis, 1) for axis in layout.AXES]
  shape = _complete(shape, len(devices))
  grid = _arrange(shape, devices)
  return jax.sharding.Mesh(
      grid, layout.AXES, axis_types=(AxisType.Auto,) * len(layout.AXES))


def _complete(shape, num_devices: int) -> list[int]:
  """Fills in the -1."""
  named = ', '.join(f'config.mesh.{axis}={size}'
                    for axis, size in zip(layout.AXES, shape) if size != 1)
  known = math.prod(size for size in shape if size != -1)
  if shape.count(-1) == 1 and not num_devices % max(known, 1) and known > 0:
    return [num_devices // known if size == -1 else size for size in shape]
  if shape.count(-1) > 1 or known != num_devices or min(shape) < 1:
    raise UserError(
        f'a mesh of {named or "one device"} does not fit the {num_devices} '
        'devices; one axis may be -1 and takes what is left.')
  return shape


def _arrange(shape, devices) -> np.ndarray:
  """Neighbours on the mesh are neighbours on the network, where it is known."""
  if devices[0].platform != 'tpu':
    return np.array(devices).reshape(shape)
  slices = layout.AXES.index('slice')
  try:
    if shape[slices] == 1:
      return mesh_utils.create_device_mesh(
          shape, devices, allow_split_physical_axes=True)
    over_dcn = [size if i == slices else 1 for i, size in enumerate(shape)]
    within = [1 if i == slices else size for i, size in enumerate(shape)]
    return mesh_utils.create_hybrid_device_mesh(
        within, over_dcn, devices, allow_split_physical_axes=True)
  except (ValueError, NotImplementedError) as e:
    # Correct all the same, with longer ways.
    logging.getLogger(__name__).warning(
        'config.mesh does not fold into the network of these devices; '
        'collectives will be slower than they could be (%s)', e)
    return np.array(devices).reshape(shape)


def rows(mesh, batch_size: int) -> np.ndarray:
  """Which rows of a batch this process's devices need, ascending.

  All of them in a single process. Two processes may need the same ones: where
  they share a sequence (context) or a matrix (tensor).
  """
  shares, parts = _shares(mesh)
  return np.arange(batch_size).reshape(parts, -1)[shares].reshape(-1)


def place_batch(mesh, batch, batch_size_key: str = 'config.*.batch_size'):
  """Puts a batch of NumPy arrays on the mesh, split along its first axis.

  Args:
    mesh: of all processes' devices.
    batch: a tree of arrays: this process's `rows` of the batch.
    batch_size_key: for the error.

  Raises:
    ValueError: if the batch cannot be split evenly.
  """
  size = jax.tree.leaves(batch)[0].shape[0]
  shares, parts = _shares(mesh)
  if size % len(shares):
    raise ValueError(f'a batch of {size} cannot be split over '
                     f'{len(shares)} devices ({batch_size_key}).')
  sharding = NamedSharding(mesh, batch_spec())
  if sharding.is_fully_addressable:
    return jax.device_put(batch, sharding)
  rows_of_share = size // len(shares)

  def put(x):
    def share(index):
      first = shares.index((index[0].start or 0) // rows_of_share)
      return x[first * rows_of_share:(first + 1) * rows_of_share]

    shape = (rows_of_share * parts, *x.shape[1:])
    return jax.make_array_from_callback(shape, sharding, share)

  return jax.tree.map(put, batch)


@functools.cache
def _shares(mesh) -> tuple[list[int], int]:
  """Which shares of a batch are this process's, of how many."""
  parts = math.prod(mesh.shape[axis] for axis in layout.BATCH)
  sharding = NamedSharding(mesh, batch_spec())
  local = sharding.addressable_devices_indices_map((parts,)).values()
  return sorted({index.start or 0 for index, in local}), parts


def batch_spec() -> PartitionSpec:
  return PartitionSpec(layout.BATCH)


def abstract(mesh, tree, host=()):
  """Shapes and layouts of a tree, for a checkpoint to restore to.

  As `place`.
  """
  return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      tree, layout.shardings(mesh, tree, host))


def place(mesh, tree, host=()):
  """Puts parameters, or what belongs to them, where the rules say.

  Where a mesh spans processes, all of them call this with equal values.

  Args:
    mesh: of devices.
    tree: of arrays.
    host: see `layout.shardings`.
  """
  return jax.tree.map(_put, tree, layout.shardings(mesh, tree, host))


def replicate(mesh, tree):
  """Puts a copy of every array on each device of the mesh."""
  sharding = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(lambda x: _put(x, sharding), tree)


def fetch(tree):
  """The same arrays for use in one process alone; all processes must call it.

  Arrays that no other process has a part of are returned as they are; others
  are gathered into NumPy arrays: a device may not have room for all.
  """
  return jax.tree.map(lambda x: _gathered(x) if _is_spread(x) else x, tree)


def _gathered(x) -> np.ndarray:
  """The whole array; at most _GATHERED of it visit a device at a time."""
  if x.nbytes <= _GATHERED or x.ndim < 2:
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
  return np.stack([_gathered(x[i]) for i in range(len(x))])


def _put(x, sharding):
  """device_put that sends nothing between processes if all have the value."""
  if sharding.is_fully_addressable or _is_spread(x):
    return jax.device_put(x, sharding)
  x = np.asarray(x)
  return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])


def _is_spread(x) -> bool:
  """Whether other processes hold parts of an array."""
  return isinstance(x, jax.Array) and not x.is_fully_addressable

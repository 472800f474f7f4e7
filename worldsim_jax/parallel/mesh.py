"""The device mesh, and the rules that lay arrays out on it.

The one axis so far, `data`, replicates parameters and splits the batch. The
loop places batches and states through the functions below and nothing else in
the project names a device.
"""

import jax
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

AXES = ('data',)


def make_mesh(devices=None) -> jax.sharding.Mesh:
  """A mesh over all devices (or the given ones), with automatic sharding."""
  devices = devices or jax.devices()
  return jax.make_mesh(
      (len(devices),), AXES, axis_types=(AxisType.Auto,) * len(AXES),
      devices=devices)


def place_batch(mesh, batch, batch_size_key: str = 'config.*.batch_size'):
  """Puts a batch of NumPy arrays on the mesh, split along its first axis.

  Raises:
    ValueError: if the batch cannot be split evenly.
  """
  size = jax.tree.leaves(batch)[0].shape[0]
  if size % mesh.shape['data']:
    raise ValueError(f'a batch of {size} cannot be split over '
                     f'{mesh.shape["data"]} devices ({batch_size_key}).')
  return jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data')))


def abstract(mesh, tree):
  """Shapes and layouts of a replicated tree, for a checkpoint to restore to."""
  sharding = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def replicate(mesh, tree):
  """Puts a copy of every array on each device of the mesh."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))

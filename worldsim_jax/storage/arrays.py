"""Trees of arrays in a folder, by Orbax.

One process writes or reads them alone, whoever else takes part in the run, and
has them on one of its own devices.
"""

import jax
import numpy as np

from worldsim_jax.storage import paths


def save(folder, tree):
  """Writes a tree; the folder must not exist."""
  with _checkpointer() as checkpointer:
    # Of one process's own devices, Orbax saves only what is on the host.
    checkpointer.save(paths.absolute(folder), jax.tree.map(np.asarray, tree))


def load(folder, shapes):
  """Reads a tree of these jax.ShapeDtypeStruct onto this process's device."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  expected = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes)
  with _checkpointer() as checkpointer:
    return checkpointer.restore(paths.absolute(folder), expected)


def _checkpointer():
  import orbax.checkpoint as ocp  # slow to import

  alone = jax.process_index()
  return ocp.StandardCheckpointer(
      multiprocessing_options=ocp.options.MultiprocessingOptions(
          primary_host=alone, active_processes={alone}))

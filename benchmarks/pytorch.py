"""PyTorch beside ours: imported when it is needed, outputs compared."""

import importlib
import os

import numpy as np

from worldsim_jax.errors import UserError


def require(benchmark: str, *packages: str):
  """Imports packages of the extra [parity] before they start threads.

  Raises:
    UserError: with the line that installs them.
  """
  # By default an OpenMP thread spins while it waits for another. On cores that
  # are shared the other may not be running: a forward took 3 times as long.
  os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
  for package in packages:
    try:
      importlib.import_module(package)
    except ImportError as e:
      raise UserError(f'{benchmark} needs {" and ".join(packages)}: pip '
                      "install -e '.[parity]' (a CPU build will do)") from e


def difference(theirs, ours, tolerance: float) -> float:
  """max |theirs - ours| / max |ours|.

  Raises:
    UserError: if that is more than rounding explains.
  """
  theirs = np.asarray(theirs.cpu() if hasattr(theirs, 'cpu') else theirs)
  ours = np.asarray(ours)
  found = float(np.max(np.abs(theirs - ours)) / np.max(np.abs(ours)))
  if not found <= tolerance:
    raise UserError(f'PyTorch and ours differ by {found:.2g} of the '
                    f'largest output, more than {tolerance}: not the same '
                    'computation, so nothing to compare')
  return found

"""Host memory that is kept once it was used.

On CPU, XLA allocates its large temporary arrays anew in every step. The C
library takes each from the kernel and gives it back, and the kernel zeroes
every page of it again: a fifth of a training step on two cores. Told to keep
what is freed, the process holds its peak instead.
"""

import ctypes
import sys

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_PAD_BYTES = 2**28


def keep() -> bool:
  """Makes this process keep freed memory; to be called before JAX starts.

  Returns:
    Whether it did: only glibc (Linux) has the setting.
  """
  if not sys.platform.startswith('linux'):
    return False
  try:
    mallopt = ctypes.CDLL('libc.so.6').mallopt
  except (OSError, AttributeError):
    return False
  return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _NEVER),
              mallopt(_TOP_PAD, _PAD_BYTES)])

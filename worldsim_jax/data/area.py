"""Exact area averaging of images, in whole numbers.

An output pixel is the mean of the input area under it. From m pixels to n,
with g = gcd(m, n), every m/g inputs make n/g outputs by the same few weights,
which are whole multiples of g/m: 5 inputs to 2 outputs is [2 2 1 0 0] and
[0 0 1 2 2], over 5. Integer sums have no rounding and no order, so a film has
the same bytes on every machine; and they need no BLAS, whose threads cost more
than these small sums.
"""

import functools
import math

import numpy as np


def resize(rgb_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
  """Area average of uint8 [..., H, W, C], rounded half up, uint8."""
  h, w = rgb_HWC.shape[-3:-1]
  if (h, w) == (height, width):
    return rgb_HWC
  total = h // math.gcd(h, height) * (w // math.gcd(w, width))
  # Twice the largest sum, and half a unit for rounding, must fit.
  dtype = next(
      t
      for t in (np.uint16, np.uint32, np.uint64)
      if 511 * total <= np.iinfo(t).max
  )
  # Channels first: the innermost loop is then along a row, not over 3 values.
  x = np.moveaxis(rgb_HWC, -1, -3).astype(dtype, order='C')
  x = _sum_axis(_sum_axis(x, -2, height), -1, width)
  x = ((2 * x + dtype(total)) // dtype(2 * total)).astype(np.uint8)
  return np.ascontiguousarray(np.moveaxis(x, -3, -1))


@functools.lru_cache
def overlaps(m: int, n: int) -> np.ndarray:
  """Integers [n, m]: n times the part of input pixel j under output pixel i."""
  i, j = np.arange(n)[:, None], np.arange(m)
  low = np.maximum(i * m, j * n)
  high = np.minimum((i + 1) * m, (j + 1) * n)
  return np.maximum(high - low, 0)


def _sum_axis(x, axis, n):
  """Sums of x under each of n outputs along an axis, not yet divided."""
  m = x.shape[axis]
  g = math.gcd(m, n)
  weights = overlaps(m // g, n // g).astype(x.dtype)
  lead, tail = x.shape[:axis], x.shape[axis:][1:]
  x = x.reshape(*lead, g, m // g, *tail)
  out = np.zeros((*lead, g, n // g, *tail), x.dtype)
  rest = (slice(None),) * len(tail)
  for i, row in enumerate(weights):
    for j in np.flatnonzero(row):
      part = x[(..., j, *rest)]
      out[(..., i, *rest)] += part if row[j] == 1 else part * row[j]
  return out.reshape(*lead, n, *tail)

"""Sizes of tiles and blocks, by device.

Larger ones make better use of a matrix unit, and waste more on ragged ends. For
TPUs they are what `python -m benchmarks.moc_blocks` makes of the compiler's
static schedules, for GPUs the largest that keep everything in registers
(`benchmarks.run moc_gpu_static`).
"""

from typing import NamedTuple

import jax


class Blocks(NamedTuple):
  """Rows that are worked on at a time.

  Attributes:
    anchor_tile, anchor_block: queries and keys of the anchors' branch.
    chunk_tile, chunk_block: of the routed one.
    part: keys of a block that a TPU's forward kernel sums up at a time.
    warps: of a GPU's program.
  """
  anchor_tile: int
  anchor_block: int
  chunk_tile: int
  chunk_block: int
  part: int = 128
  warps: int = 8


# By the beginning of the device's kind; the last one fits all. Older TPUs have
# 16 MiB of vector memory, a quarter or less of these. What is chosen is
# quickest for chunks of 1,280 tokens; chunks of 10,240 would gain 6 to 23 % by
# larger blocks, as schedules have it.
BLOCKS = (
    ('TPU v5 lite', Blocks(1024, 1024, 512, 256)),
    ('TPU v5', Blocks(1024, 1024, 1024, 512)),
    ('TPU v6', Blocks(1024, 1024, 1024, 512, 256)),
    ('TPU7', Blocks(1024, 1024, 1024, 512, 256)),
    ('TPU', Blocks(512, 512, 512, 256)),
    ('NVIDIA', Blocks(128, 64, 128, 64)),
    ('', Blocks(256, 512, 256, 256)),
)


SMALLEST = 32


def of_kind(kind: str) -> Blocks:
  """Those of a device of this kind, such as 'TPU v5p'."""
  return next(sizes for begin, sizes in BLOCKS if kind.startswith(begin))


def of_device(chunk: int = 0) -> Blocks:
  """Those of the device that is computed on, or compiled for.

  Args:
    chunk: tokens of a chunk, if they are known: a CPU's blocks are no larger,
      for what is padded costs as much as what is not.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  kind = device.device_kind if device else jax.devices()[0].device_kind
  blocks = of_kind(kind)
  if not chunk or blocks != BLOCKS[-1][1]:
    return blocks
  most = max(SMALLEST, 1 << (chunk - 1).bit_length())
  return Blocks(*(min(size, 2 * most) for size in blocks[:2]),
                *(min(size, most) for size in blocks[2:]))

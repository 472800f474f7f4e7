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
# 16 MiB of vector memory, a quarter or less of these.
BLOCKS = (
    ('TPU v5 lite', Blocks(1024, 1024, 512, 256)),
    ('TPU v5', Blocks(1024, 1024, 1024, 512)),
    ('TPU v6', Blocks(1024, 1024, 1024, 512, 256)),
    ('TPU7', Blocks(1024, 1024, 1024, 512, 256)),
    ('TPU', Blocks(512, 512, 512, 256)),
    ('NVIDIA', Blocks(128, 64, 128, 64)),
    ('', Blocks(256, 512, 256, 256)),
)
# Cycles of the routed branch for a tile with a block, and for the gradient: the
# sizes above are quickest for chunks of 1,280 tokens, of others these tell.
SIZES = (512, 256), (512, 512), (1024, 512), (1024, 1024)
CYCLES = {
    'TPU v5 lite': (3063, 5379, 10253, 19791),
    'TPU v5': (3458, 5722, 10602, 20106),
    'TPU v6': (2267, 3423, 6042, 10931),
    'TPU7': (2203, 3387, 6016, 11021),
}
SMALLEST = 32


def of_kind(kind: str, chunk: int = 0, choices: float = 1.) -> Blocks:
  """Those of a device of this kind, such as 'TPU v5p'.

  Args:
    kind: as JAX calls it.
    chunk: tokens of a chunk, if they are known.
    choices: see `quickest`.
  """
  begin, blocks = next(row for row in BLOCKS if kind.startswith(row[0]))
  if not chunk:
    return blocks
  if begin in CYCLES:
    tile, block = quickest(CYCLES[begin], chunk, choices)
    return blocks._replace(chunk_tile=tile, chunk_block=block)
  if not begin:  # On a CPU what is padded costs as much as what is not.
    most = max(SMALLEST, 1 << (chunk - 1).bit_length())
    return Blocks(*(min(size, 2 * most) for size in blocks[:2]),
                  *(min(size, most) for size in blocks[2:]))
  return blocks


def quickest(cycles, chunk: int, choices: float) -> tuple[int, int]:
  """Of SIZES the one whose pairs of tiles and blocks take the fewest cycles.

  Args:
    cycles: of a pair, for each.
    chunk: its tokens. It ends within a block.
    choices: pairs of a query with a chunk that it chose, for each key of the
      chunks: top_k, if queries and keys are of the same film. What chose a
      chunk ends within a tile: half of one is empty in the mean.
  """
  def of_chunk(size_and_cycles):
    (tile, block), cycles_of_pair = size_and_cycles
    tiles = choices * chunk / tile + .5
    return tiles * -(-chunk // block) * cycles_of_pair

  return min(zip(SIZES, cycles), key=of_chunk)[0]


def of_device(chunk: int = 0, choices: float = 1.) -> Blocks:
  """As `of_kind`, of the device that is computed on, or compiled for."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  kind = device.device_kind if device else jax.devices()[0].device_kind
  return of_kind(kind, chunk, choices)

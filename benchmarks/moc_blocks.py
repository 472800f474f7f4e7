"""Sizes of tiles and blocks for TPUs, from the compiler's static schedules.

  python -m benchmarks.moc_blocks

prints the tables of worldsim_jax/attention/moc/executors/blocks.py as they
follow from the results of `benchmarks.run moc_tpu_static`. A tile with a block
takes what its products need or what the schedule does, whichever is more, and a
step of the grid. Of the sizes that were compiled those are chosen that need the
fewest cycles for one head of the paper's film and its gradient: the anchors of
shots of S tokens go through shots · ⌈S / tile⌉ · ⌈S / block⌉ pairs, the chunks
through those of `blocks.quickest`.
"""

import json

from benchmarks import moc_page
from benchmarks import moc_tpu_static
from worldsim_jax import command_line
from worldsim_jax.attention.moc.executors import blocks
from worldsim_jax.parallel import chips

# Kernels of the two branches.
KERNELS = {'anchors': ('moc_forward', 'moc_dq', 'moc_dkv'),
           'chunks': ('moc_forward', 'moc_dq', 'moc_dkv_of_runs')}


def rows() -> list[dict]:
  """Those of the benchmark's last results."""
  return json.loads(
      (moc_page.RESULTS / 'moc_tpu_static.json').read_text())['rows']


def cycles(rows, branch: str) -> dict[str, tuple[int, ...]]:
  """By kind of chip: of a tile with a block, forwards and back, by SIZES."""
  of_size = lambda name, size: sum(
      max(row['cycles'], row['ideal_cycles']) + row['loop'] for row in rows
      if (row['chip'], row['tile'], row['block']) == (name, *size)
      and row['kernel'] in KERNELS[branch])
  names = dict.fromkeys(row['chip'] for row in rows)
  return {chips.of_name(name).kind: tuple(
      of_size(name, size) for size in blocks.SIZES) for name in names}


def of_anchors(cycles) -> tuple[int, int]:
  """(tile, block) that go through the anchors of the film in the fewest."""
  shot = moc_tpu_static.TOKENS // moc_tpu_static.SHOTS
  return min(zip(blocks.SIZES, cycles), key=lambda x: (
      _parts(shot, x[0][0]) * _parts(shot, x[0][1]) * x[1]))[0]


def _parts(whole: int, size: int) -> int:
  return -(-whole // size)


def main(argv):
  del argv
  of_film, of_chunks = (cycles(rows(), branch) for branch in KERNELS)
  for kind, found in of_chunks.items():
    chunk = blocks.quickest(
        found, moc_tpu_static.CHUNK, moc_tpu_static.TOP_K)
    print(f'{kind}: anchors {of_anchors(of_film[kind])}, chunks {chunk}; '
          f'cycles {found}')


if __name__ == '__main__':
  command_line.run(main)

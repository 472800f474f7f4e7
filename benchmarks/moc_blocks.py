"""Sizes of tiles and blocks for TPUs, from the compiler's static schedules.

  python -m benchmarks.moc_blocks

prints the table of worldsim_jax/attention/moc/executors/blocks.py as it follows
from the results of `benchmarks.run moc_tpu_static`. Of the sizes that were
compiled, those are chosen that need the fewest cycles for one head of the
paper's film and its gradient: a tile with a block takes what its products need
or what the schedule does, whichever is more, and a step of the grid, and

  anchors  shots · ⌈S / tile⌉ · ⌈S / block⌉      of shots of S tokens
  chunks   (routed queries / tile + C / 2) · ⌈chunk / block⌉

pairs of them are gone through: each of the C chunks leaves half a tile empty.
"""

import json

from benchmarks import moc_page
from benchmarks import moc_tpu_static
from worldsim_jax import command_line
from worldsim_jax.parallel import chips

# Kernels of the two branches.
KERNELS = {'anchors': ('moc_forward', 'moc_dq', 'moc_dkv'),
           'chunks': ('moc_forward', 'moc_dq', 'moc_dkv_of_runs')}


def rows() -> list[dict]:
  """Those of the benchmark's last results."""
  return json.loads(
      (moc_page.RESULTS / 'moc_tpu_static.json').read_text())['rows']


def table(rows) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
  """By kind of chip: (tile, block) of anchors, and of chunks."""
  names = dict.fromkeys(row['chip'] for row in rows)
  return {chips.of_name(name).kind: tuple(
      min(moc_tpu_static.SIZES, key=lambda size: cycles(
          [row for row in rows if row['chip'] == name], size, branch))
      for branch in KERNELS) for name in names}


def cycles(rows, size, branch: str) -> float:
  """Of a branch of one head of the film, with its gradient."""
  pairs = {'anchors': _of_anchors, 'chunks': _of_chunks}[branch](*size)
  return pairs * sum(
      max(row['cycles'], row['ideal_cycles']) + row['loop'] for row in rows
      if (row['tile'], row['block']) == size
      and row['kernel'] in KERNELS[branch])


def _of_anchors(tile: int, block: int) -> int:
  shots = moc_tpu_static.SHOTS
  shot = moc_tpu_static.TOKENS // shots
  return shots * _parts(shot, tile) * _parts(shot, block)


def _of_chunks(tile: int, block: int) -> float:
  tokens, shots = moc_tpu_static.TOKENS, moc_tpu_static.SHOTS
  chunk = moc_tpu_static.CHUNK
  chunks = shots * _parts(tokens // shots, chunk)
  # The first shot has none to choose from.
  routed = tokens * (1 - 1 / shots) * moc_tpu_static.TOP_K
  return (routed / tile + chunks / 2) * _parts(chunk, block)


def _parts(whole: int, size: int) -> int:
  return -(-whole // size)


def main(argv):
  del argv
  for kind, sizes in table(rows()).items():
    print(f'{kind}: anchors {sizes[0]}, chunks {sizes[1]}')


if __name__ == '__main__':
  command_line.run(main)

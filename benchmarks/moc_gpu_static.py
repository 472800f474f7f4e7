"""Kernels of the Mixture of Contexts as the GPU compilers make them.

For an H100 and each kernel, size of tile and block, number of warps and stages:
what ptxas says of the program that Triton writes, with D = 128.

  registers   of a thread; 65,536 / (32 · warps · registers) programs fit beside
              each other into a multiprocessor, as far as registers go
  spills      bytes that a thread moves out of its registers; any are slow
  serialised  whether products wait for each other for want of registers
  wgmma       instructions for products by warp groups, Hopper's fast ones

`minute` is the gradient of one layer with 12 heads of the paper's film, as in
moc_tpu_static.

Nothing is measured, and the CUDA wheels are needed (`pip install
'worldsim_jax[cuda]'`), but no GPU. executors/blocks.py has the sizes that were
chosen.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from benchmarks import apart
from benchmarks import moc_tpu_static
from worldsim_jax.attention.moc.executors import blocks as blocks_lib
from worldsim_jax.attention.moc.executors import pallas_gpu
from worldsim_jax.errors import UserError

CHIP = 'h100:1'
LAUNCH = pallas_gpu.Launch()[:2]  # The warps and stages that are chosen.
# Tile, block, warps, stages.
SIZES = ((64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 8, 2), (64, 128, 8, 2),
         (128, 64, 4, 2), (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2))
CHOSEN = blocks_lib.of_kind('NVIDIA H100')[:2] + LAUNCH
KERNELS = 'moc_forward', 'moc_dq', 'moc_dkv'


def benchmark(options):
  """A row per kernel and size.

  Raises:
    UserError: if the CUDA wheels are not here.
  """
  del options
  ptxas()
  return [*(row for size in SIZES for row in scheduled(*size)),
          *scheduled(*CHOSEN, 'float32')]


def details(options) -> dict:
  """What the compiler makes of a whole layer."""
  del options
  return {'minute': json.loads(apart.printed(__name__).splitlines()[-1])}


def scheduled(tile: int, block: int, warps: int, stages: int,
              dtype='bfloat16') -> list[dict]:
  """A row per kernel, as the module says."""
  with tempfile.TemporaryDirectory() as folder:
    apart.printed(__name__, tile, block, warps, stages, dtype,
                  XLA_FLAGS=f'--xla_dump_to={folder}')
    if dtype == 'float32':  # So the kernels do.
      tile = block = pallas_gpu.FLOAT32_ROWS
      warps = pallas_gpu.FLOAT32_WARPS
    size = {'tile': tile, 'block': block, 'warps': warps, 'stages': stages,
            'dtype': dtype}
    return [{'kernel': kernel} | size | figures(pathlib.Path(folder), kernel)
            for kernel in KERNELS]


def figures(folder: pathlib.Path, kernel: str) -> dict:
  """What ptxas says of a kernel's program."""
  program, = (path for path in folder.glob('*.ptx')
              if f'.entry {kernel}' in path.read_text())
  done = subprocess.run(
      [ptxas(), '-arch=sm_90a', '-v', str(program), '-o', os.devnull],
      check=True, capture_output=True, text=True)
  figure = lambda pattern: int(re.search(pattern, done.stderr)[1])
  return {'registers': figure(r'Used (\d+) registers'),
          'spills': figure(r'(\d+) bytes spill stores'),
          'serialised': 'instructions are serialized' in done.stderr,
          'wgmma': program.read_text().count('wgmma.mma_async')}


def ptxas() -> str:
  """The assembler of the CUDA wheels, or of a CUDA that is installed."""
  for folder in map(pathlib.Path, sys.path):
    path = folder / 'nvidia/cuda_nvcc/bin/ptxas'
    if path.exists():
      return str(path)
  found = shutil.which('ptxas')
  if not found:
    raise UserError("ptxas is not here: pip install 'worldsim_jax[cuda]'")
  return found


def compile_kernels(tile: int, block: int, warps: int, stages: int, dtype: str):
  """All three, for one GPU."""
  from worldsim_jax.parallel import topologies
  topologies.use_no_accelerator()
  from worldsim_jax.parallel import mesh as meshes

  mesh = meshes.make_mesh({'data': 1}, topologies.devices(CHIP)[1])
  moc_tpu_static.compile_for(mesh, pallas_gpu.executor(
      tile, block, warps=warps, stages=stages), dtype)


if __name__ == '__main__':
  if len(sys.argv) == 1:
    print(json.dumps(moc_tpu_static.compile_minute(
        CHIP, heads=12, kernel='__gpu$xla.gpu.triton')))
  else:
    compile_kernels(*map(int, sys.argv[1:5]), sys.argv[5])

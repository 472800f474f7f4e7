"""Kernels of the Mixture of Contexts as the TPU compiler schedules them.

For each chip, kernel and size of tile and block: cycles of the fast path, that
is of one tile with one whole block, beside what the matrix units alone need,

  ideal = products · 2 · tile · block · D / (FLOP per cycle of a core)

with 2 products forwards, 3 for dq and 4 for dk and dv (of anchors, and of
chunks: `of_runs`), bf16 and D = 128.
Nothing is measured: these are lengths of programs. `spills` are stores to free
a register, `loop` the cycles that a step of the grid adds.

executors/blocks.py has those sizes that were chosen: larger ones have a larger
share, and waste more on the ragged ends of shots and chunks.

`minute` is the gradient of one layer with two heads of the paper's film,
180,224 tokens in chunks of 1,280 and k = 5, compiled for each chip.
"""

import json
import sys
import tempfile
import time

from benchmarks import apart
from benchmarks import llo
from worldsim_jax.attention.moc.executors import blocks as blocks_lib

# FLOP of a core's matrix units per cycle in bf16: 4 of 128 x 128, 2 of 256².
CHIPS = {'v5e:1x1': 4 * 2 * 128**2, 'v5p:2x2x1': 4 * 2 * 128**2,
         'v6e:1x1': 2 * 2 * 256**2, 'tpu7x:2x2x1': 2 * 2 * 256**2}
PRODUCTS = {'moc_forward': 2, 'moc_dq': 3, 'moc_dkv': 4, 'moc_dkv_of_runs': 4}
FUNCTIONS = 'forward', 'backward_queries', 'backward_keys'
DIM = 128
# The paper's minute.
TOKENS, SHOTS, CHUNK, TOP_K = 180_224, 8, 1280, 5


def benchmark(options):
  """A row per chip, kernel and size."""
  del options
  return [row for chip in CHIPS for size in blocks_lib.SIZES
          for row in scheduled(chip, *size)]


def details(options) -> dict:
  """What the compiler makes of a whole layer."""
  del options
  return {'minute': [json.loads(
      apart.printed(__name__, chip).splitlines()[-1]) for chip in CHIPS]}


def scheduled(chip: str, tile: int, block: int) -> list[dict]:
  """A row per kernel, as the module says."""
  with tempfile.TemporaryDirectory() as folder:
    apart.printed(__name__, chip, tile, block,
                  LIBTPU_INIT_ARGS=llo.dumping(folder))
    return [_row(chip, tile, block, kernel, llo.segments(folder, kernel))
            for kernel in PRODUCTS]


def _row(chip, tile, block, kernel, segments):
  most = max(s.used['MXU'] for s in segments)
  # The ragged path has comparisons and selections more.
  fast = min((s for s in segments if s.used['MXU'] > most / 2),
             key=lambda s: s.used['VALU'])
  ideal = PRODUCTS[kernel] * 2 * tile * block * DIM / CHIPS[chip]
  return {'chip': chip.split(':')[0], 'kernel': kernel, 'tile': tile,
          'block': block, 'cycles': fast.bundles, 'ideal_cycles': round(ideal),
          'mxu_share': min(1., ideal / fast.bundles),
          'spills': fast.used['VSTORE:SPILL'],
          'loop': sum(s.bundles for s in segments if s.label in ('LB', 'PF'))}


def compile_minute(topology: str, heads=2, kernel='tpu_custom_call') -> dict:
  """The gradient of a layer of a minute's film, for one chip."""
  begin = time.perf_counter()
  compiled = lower_layer(topology, heads=heads).compile()
  memory = compiled.memory_analysis()
  return {'chip': topology.split(':')[0], 'heads': heads,
          'temporary_gib': memory.temp_size_in_bytes / 2**30,
          'kernels': compiled.as_text().count(kernel),
          'compile_seconds': time.perf_counter() - begin}


def lower_layer(topology: str, tokens=TOKENS, chunk=CHUNK, top_k=TOP_K,
                heads=2):
  """The gradient of a layer, for one chip, to be compiled."""
  from worldsim_jax.parallel import topologies
  topologies.use_no_accelerator()
  import jax
  import jax.numpy as jnp
  from worldsim_jax.attention.moc import attend as moc
  from worldsim_jax.attention.moc import chunks
  from worldsim_jax.attention.moc import routing
  from worldsim_jax.parallel import mesh as meshes

  mesh = meshes.make_mesh({'data': 1}, topologies.devices(topology)[1][:1])
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  x = jax.ShapeDtypeStruct(
      (1, tokens, heads, DIM), jnp.bfloat16, sharding=split)
  table = chunks.table([chunks.of_shots([tokens // SHOTS] * SHOTS, chunk)])
  rules = chunks.Rules()

  def loss(q, k, v):
    plan = moc.plan(table, rules, tokens, blocks_lib.of_device(chunk, top_k))
    mixture = moc.Mixture(plan, routing=routing.Routing(top_k))
    return jnp.sum(moc.attend(q, k, v, mixture).astype(jnp.float32)**2)

  with jax.set_mesh(mesh):
    return jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x)


def compile_kernels(topology: str, tile: int, block: int, dtype='bfloat16'):
  """All four, for one chip."""
  from worldsim_jax.parallel import topologies
  topologies.use_no_accelerator()
  from worldsim_jax.attention.moc.executors import pallas_tpu
  from worldsim_jax.parallel import mesh as meshes

  mesh = meshes.make_mesh({'data': 1}, topologies.devices(topology)[1][:1])
  part = blocks_lib.of_kind(mesh.devices.flat[0].device_kind).part
  compile_for(mesh, pallas_tpu.executor(tile, block, part), dtype)
  compile_for(mesh, pallas_tpu.executor(tile, block, part, runs=True), dtype,
              names=('backward_keys',))


def compile_for(mesh, executor, dtype='bfloat16', names=FUNCTIONS):
  """Compiles an executor's functions, with two heads and three ranges a tile.

  Args:
    mesh: of one device, which need not be here.
    executor: for it.
    dtype: of queries, keys and values.
    names: of its functions.
  """
  import jax
  import jax.numpy as jnp
  from worldsim_jax.attention.moc import executors
  from worldsim_jax.attention.moc import packing

  tile, block = executor.tile, executor.block
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  array = lambda dtype, *shape: jax.ShapeDtypeStruct(
      shape, dtype, sharding=split)
  heads, tiles, blocks = 2, 8, 16
  rows = lambda n: array(dtype, heads, n, DIM)
  ranges = lambda n, r: packing.Ranges(*[array(jnp.int32, 1, n, r)] * 2)
  keys = executors.Keys(rows(blocks * block), rows(blocks * block),
                        array(jnp.int32, 1, blocks))
  q, row = rows(tiles * tile), array(jnp.float32, heads, tiles * tile)
  args = {
      'forward': (q, keys, ranges(tiles, 3)),
      'backward_queries': (q, keys, ranges(tiles, 3), q, row, row),
      'backward_keys': (q, keys, ranges(blocks, 1), q, row, row,
                        ranges(tiles, 1))}
  with jax.set_mesh(mesh):
    for name in names:
      jax.jit(getattr(executor, name)).lower(*args[name]).compile()


if __name__ == '__main__':
  if len(sys.argv) == 2:
    print(json.dumps(compile_minute(sys.argv[1])))
  else:
    compile_kernels(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

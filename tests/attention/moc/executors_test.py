"""Kernels and loops compute one and the same; the TPU's compiler takes them."""

import functools
import importlib.util
import math
import re

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax._src.lib import triton  # Only Triton's own program shows offsets.
from jax.experimental.pallas import tpu as pltpu
from jax.extend.mlir import ir
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import moc_blocks
from benchmarks import moc_gpu_static
from benchmarks import moc_tpu_static
from worldsim_jax.attention.moc import executors
from worldsim_jax.attention.moc import packing
from worldsim_jax.attention.moc.executors import blocks as blocks_lib
from worldsim_jax.attention.moc.executors import pallas_gpu
from worldsim_jax.attention.moc.executors import pallas_tpu
from worldsim_jax.attention.moc.executors import xla
from worldsim_jax.parallel import topologies

G, M, R = 4, 2, 2


def drawn(seed, tile, block, tiles=3, blocks=5, dim=128, dtype=jnp.float32):
  """Branches of two tables for four heads, with ragged and unused blocks."""
  dice = np.random.default_rng(seed)
  normal = lambda *shape: jnp.asarray(dice.normal(size=shape) / 4, dtype)
  valid = dice.integers(1, block + 1, (M, blocks)).astype(np.int32)
  valid[:, ::2] = block
  is_token = np.repeat(np.arange(blocks * block) % block
                       < np.repeat(valid, block, axis=1), G // M, axis=0)
  k, v = (jnp.where(is_token[..., None], normal(G, blocks * block, dim), 0)
          for _ in range(2))
  # Two ranges that do not meet: blocks before and from `split` on.
  split = dice.integers(1, blocks, (M, tiles))
  first = [np.arange(M)[:, None] * 0 + dice.integers(0, split), split]
  counts = [dice.integers(0, split - first[0] + 1),
            dice.integers(0, blocks - split + 1)]
  counts[0][0, 0] = counts[1][0, 0] = 0  # A tile that reads nothing.
  read = packing.Ranges(*(np.stack(x, -1).astype(np.int32)
                          for x in (first, counts)))
  return normal(G, tiles * tile, dim), executors.Keys(k, v, valid), read


def readers(read, blocks):
  """For each block one range of tiles: made so that it is one, or none."""
  tiles = np.zeros((M, blocks, read.start.shape[1]), bool)
  for m, t, r in np.ndindex(*read.start.shape):
    first = read.start[m, t, r]
    tiles[m, first:first + read.count[m, t, r], t] = True
  start = tiles.argmax(-1)
  return packing.Ranges(start[..., None].astype(np.int32),
                        tiles.sum(-1)[..., None].astype(np.int32))


def outputs(executor, q, keys, read, back, do, lse=None):
  out, own_lse = executor.forward(q, keys, read)
  lse = own_lse if lse is None else lse
  delta = jnp.sum(out.astype(jnp.float32) * do.astype(jnp.float32), -1)
  args = do, lse, delta
  dq = executor.backward_queries(q, keys, read, *args)
  dk, dv = executor.backward_keys(q, keys, back, *args, read)
  is_token = jnp.repeat(
      jnp.arange(dk.shape[1]) % executor.block
      < jnp.repeat(jnp.asarray(keys.valid), executor.block, axis=1),
      G // len(keys.valid), axis=0)[..., None]
  return out, own_lse, dq, *(jnp.where(is_token, x, 0) for x in (dk, dv))


class ExecutorsTest(parameterized.TestCase):

  def check(self, executor, seed, tile, block, dim=128, dtype=jnp.float32,
            atol=2e-6):
    q, keys, read = drawn(seed, tile, block, dim=dim, dtype=dtype)
    blocks = keys.valid.shape[1]
    # The first tile's lists, so that the readers of every block are a range.
    same = packing.Ranges(*(np.broadcast_to(x[:, 1:2], x.shape).copy()
                            for x in read))
    self.assertTrue((same.count.sum(axis=(1, 2)) > 0).all(), 'nothing is read')
    same.count[0, 0] = 0
    do = jax.random.normal(jax.random.key(seed), q.shape, dtype) / 4
    args = q, keys, same, readers(same, blocks), do
    found = jax.jit(functools.partial(outputs, executor))(*args)
    expected = jax.jit(functools.partial(
        outputs, xla.executor(tile, block)))(*args)
    for name, ours, its in zip(('o', 'lse', 'dq', 'dk', 'dv'), found, expected):
      np.testing.assert_allclose(
          np.float32(ours), np.float32(its), atol=atol, err_msg=name)

  @parameterized.parameters((0, 128, 128), (1, 256, 128), (3, 128, 256))
  @pytest.mark.slow
  def test_tpu_kernels_equal_the_loops(self, seed, tile, block):
    self.check(pallas_tpu.executor(tile, block, interpret=True), seed, tile,
               block)

  @pytest.mark.slow
  def test_tpu_kernels_in_bfloat16(self):
    # Sums of some hundred products of 1/16 in 8 bits; p is rounded as well.
    self.check(pallas_tpu.executor(128, 128, interpret=True), 3, 128, 128,
               dtype=jnp.bfloat16, atol=2e-2)

  @parameterized.parameters(jnp.float32, jnp.bfloat16)
  @pytest.mark.slow
  def test_tpu_kernels_go_through_the_tiles_of_chunks(self, dtype):
    # Chunks of 2, 1, 0 and 2 blocks, read by 3, 1, 0 and 0 tiles; a tile that
    # is not used; and all of it of another head, whose first chunk has none.
    first, count = np.int32([0, 2, 3, 3]), np.int32([2, 1, 0, 2])
    chunk_of_tile = np.array([[0, 0, 0, 1, 2], [1, 1, 3, 3, 3]])
    at = lambda x: np.repeat(x[chunk_of_tile], 2, axis=0)[..., None]
    read = packing.Ranges(at(first), at(count))
    q, keys, _ = drawn(5, 128, 128, tiles=5, dtype=dtype)
    keys = keys._replace(valid=np.repeat(keys.valid, 2, axis=0))
    tiles = np.zeros((G, 5, 5), bool)
    for g, t in np.ndindex(G, 5):
      begin = read.start[g, t, 0]
      tiles[g, begin:begin + read.count[g, t, 0], t] = True
    back = packing.Ranges(*(np.int32(x)[..., None] for x in (
        tiles.argmax(-1), tiles.sum(-1))))
    do = jax.random.normal(jax.random.key(0), q.shape, dtype) / 4
    found, expected = (
        jax.jit(functools.partial(outputs, executor))(q, keys, read, back, do)
        for executor in (
            pallas_tpu.executor(128, 128, interpret=True, runs=True),
            pallas_tpu.executor(128, 128, interpret=True)))
    for ours, its in zip(found, expected):
      np.testing.assert_array_equal(ours, its)  # In the same order.

  @parameterized.parameters((0, 32, 16, 64), (1, 16, 32, 128), (2, 64, 128, 64))
  def test_gpu_kernels_equal_the_loops(self, seed, tile, block, dim):
    self.check(pallas_gpu.executor(tile, block, interpret=True), seed, tile,
               block, dim)

  def test_gpu_kernels_in_bfloat16(self):
    # A rounding of values of 1/4 to 8 bits.
    self.check(pallas_gpu.executor(64, 32, interpret=True), 6, 64, 32, 64,
               dtype=jnp.bfloat16, atol=2e-3)

  @parameterized.parameters(jnp.float32, jnp.bfloat16)
  @pytest.mark.slow
  def test_tpu_kernels_touch_no_memory_but_their_own(self, dtype):
    # Uninitialised memory is NaN, reads beyond an array raise, and copies that
    # race are found.
    simulated = pltpu.InterpretParams(
        uninitialized_memory='nan', detect_races=True)
    self.check(pallas_tpu.executor(128, 128, interpret=simulated), 4, 128, 128,
               dtype=dtype, atol=2e-6 if dtype == jnp.float32 else 2e-2)

  @parameterized.parameters(
      (pallas_tpu.executor(128, 128, interpret=True),),
      (pallas_gpu.executor(32, 16, interpret=True),), (xla.executor(32, 16),))
  def test_what_is_not_listed_is_not_read(self, executor):
    tile, block = executor.tile, executor.block
    q, keys, read = drawn(0, tile, block)
    # Of table 0 all tiles but the first read blocks 0, 1 and 3; of table 1 all
    # read block 1.
    each = lambda *x: np.tile(np.int32(x)[:, None], (1, read.start.shape[1], 1))
    read = packing.Ranges(each([0, 3], [1, 4]), each([2, 1], [1, 0]))
    read.count[0, 0] = 0
    back = readers(read, keys.valid.shape[1])
    do = jax.random.normal(jax.random.key(0), q.shape) / 4
    run = jax.jit(functools.partial(outputs, executor))
    expected = run(q, keys, read, back, do)
    # Were a block computed and then masked, its NaN would be in the sums.
    is_read = np.repeat(back.count[..., 0] > 0, block, axis=1)
    is_reading = np.repeat(read.count.sum(axis=-1) > 0, tile, axis=1)
    spoilt = lambda x, keep: jnp.where(
        np.repeat(keep, G // M, axis=0)[..., None], x, jnp.nan)
    found = run(
        spoilt(q, is_reading),
        keys._replace(k=spoilt(keys.k, is_read), v=spoilt(keys.v, is_read)),
        read, back, spoilt(do, is_reading))
    for ours, its in zip(found, expected):
      np.testing.assert_array_equal(ours, its)

  def test_a_tile_that_reads_nothing_says_so(self):
    q, keys, read = drawn(0, 16, 16)
    out, lse = jax.jit(xla.executor(16, 16).forward)(q, keys, read)
    np.testing.assert_array_equal(out[:2, :16], 0.)
    np.testing.assert_array_equal(
        lse[:2, :16], np.float32(executors.NOTHING))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="needs libtpu: pip install 'worldsim_jax[aot]'")
class CompilerTest(parameterized.TestCase):

  # All chips at the size of anchors and long chunks, and the others of one.
  @parameterized.parameters(
      *((topology, size) for topology in moc_tpu_static.CHIPS
        for size in blocks_lib.SIZES
        if size == (1024, 1024) or topology.startswith('v5p')),
      ('v6e:1x1', (1024, 512)))
  def test_schedules_are_no_longer_than_those_recorded(self, topology, size):
    # Else docs/moc.md is out of date, and a kernel slower than it was.
    found = moc_tpu_static.scheduled(topology, *size)
    name = lambda row: tuple(
        row[key] for key in ('chip', 'kernel', 'tile', 'block'))
    recorded = {name(row): row for row in moc_blocks.rows()}
    self.assertLen(found, len(moc_tpu_static.PRODUCTS))
    for row in found:
      for length in 'cycles', 'loop', 'spills':
        self.assertLessEqual(row[length], 1.05 * recorded[name(row)][length],
                             f'{length} of {name(row)}')

  @parameterized.parameters('v4:2x2x1', 'v5e:1x1')
  def test_the_chosen_sizes_have_room_for_float32(self, topology):
    # In bfloat16 that is room for heads of 256 channels as well.
    kind = topologies.parse(topology)[0].kind
    moc_tpu_static.compile_kernels(
        topology, *blocks_lib.of_kind(kind)[:2], 'float32')

  def test_the_tpu_compiler_takes_a_layer_of_a_film(self):
    compiled = moc_tpu_static.lower_layer(
        'v5p:2x2x1', tokens=8 * 1024, chunk=256, top_k=3).compile()
    # Forwards, dq, and dk with dv: of the anchors and of the chunks.
    self.assertEqual(compiled.as_text().count('tpu_custom_call'), 6)

  def test_a_layer_of_a_minute_has_no_array_of_all_pairs(self):
    text = moc_tpu_static.lower_layer('v5p:2x2x1', heads=24).as_text()
    largest = max(
        math.prod(map(int, shape.split('x'))) for shape in re.findall(
            r'tensor<([0-9]+(?:x[0-9]+)*)x(?:bf16|f32|i32|i1)>', text))
    # Nor one of each query with each chunk that it chose: these are gathered
    # for a few heads at a time, so that int32 counts the numbers of any array.
    self.assertLess(largest, 1.1 * 24 * 128 * moc_tpu_static.TOKENS)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec('jax_cuda12_plugin') is None,
    reason="needs the CUDA compilers: pip install 'worldsim_jax[cuda]'")
class GpuCompilerTest(parameterized.TestCase):

  @parameterized.parameters('bfloat16', 'float32')
  def test_programs_of_the_chosen_size_keep_all_in_registers(self, dtype):
    for row in moc_gpu_static.scheduled(*moc_gpu_static.CHOSEN, dtype):
      self.assertEqual((row['spills'], row['serialised']), (0, False), row)
      if dtype == 'bfloat16':
        self.assertGreater(row['wgmma'], 0)


def triton_program(fn, *args) -> str:
  """What Pallas hands to the GPU's compiler, for the first kernel of fn."""
  module = jax.jit(fn).trace(*args).lower(
      lowering_platforms=('cuda',)).compiler_ir()
  calls = []
  def visit(op):
    if op.name == 'stablehlo.custom_call':
      calls.append(op)
    return ir.WalkResult.ADVANCE
  module.operation.walk(visit)
  code = calls[0].attributes['mhlo.backend_config']['ir'].value_bytes
  with module.context:
    triton.dialect.register_dialect(module.context)
    return str(ir.Module.parse(code))


class LoweringTest(parameterized.TestCase):

  @parameterized.parameters((1, 'i32'), (8, 'i64'))
  def test_offsets_into_the_keys_of_a_film_are_wide_enough(
      self, minutes, integer):
    # 24 heads of eight minutes are 4.4e9 numbers.
    tile, block, rows = 128, 64, minutes * moc_tpu_static.TOKENS
    shape = jax.ShapeDtypeStruct
    x = shape((24, rows, 128), jnp.bfloat16)
    ranges = packing.Ranges(*[shape((1, rows // tile, 1), jnp.int32)] * 2)
    keys = executors.Keys(x, x, shape((1, rows // block), jnp.int32))
    program = triton_program(
        pallas_gpu.executor(tile, block).forward, x, keys, ranges)
    offsets = re.findall(r'tt.addptr.*<bf16>>, tensor<.*x(i\d+)>', program)
    self.assertNotEmpty(offsets)
    self.assertEqual(set(offsets), {integer})


if __name__ == '__main__':
  absltest.main()

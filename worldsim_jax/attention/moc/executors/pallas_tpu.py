"""The executor for TPUs: three Pallas kernels (Mosaic).

Grid: (head of a sample, tile, nth block that the tile reads); which block that
is comes from the tables of ranges in SMEM, so that blocks are fetched while the
previous one is in work. The last dimension is as long as the longest list; a
shorter one stays at its last block, which costs neither a copy nor a product,
but a step of the grid. Where a few chunks are chosen by most queries, lists of
who reads a block would differ by the hundred, so dk and dv of chunks go through
the tiles instead (`backward_keys_of_runs`).

Logits are held transposed, sᵀ = K Qᵀ [block, tile]: then the running maximum
and sum of a query are rows [1, tile], reductions go down the sublanes, and
nothing is broadcast over lanes. Hence V comes transposed to the forward kernel,
which makes oᵀ = Vᵀ pᵀ, and K twice to the one of dq. Only the ragged last block
of a unit is masked.

VMEM for tile 1024, block 1024, D 128, bf16: sᵀ and pᵀ 2 × 4 MiB in float32, q,
k, v double-buffered 1.5 MiB, sums 0.5 MiB. SMEM: 8 bytes per tile, table and
range, and 4 per block. FLOPs per pair of a query and a key: 4 D forwards, 6 D
for dq and 8 D for dk and dv, which recompute the logits.
"""

import functools

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from worldsim_jax.attention.moc import executors
from worldsim_jax.attention.moc import packing

LANES = 128  # Tiles and blocks are multiples of it.
PART = 128
_VMEM = 48 * 2**20  # bytes, for tiles and blocks of 1024 x 256 float32
_NT = (((1,), (1,)), ((), ()))  # a bᵀ
_NN = (((1,), (0,)), ((), ()))  # a b


def executor(tile: int, block: int, part: int = PART, interpret=False,
             runs: bool = False) -> executors.Executor:
  """Of tiles and blocks of these sizes, multiples of 128.

  Args:
    tile, block: rows of queries and of keys that a kernel works on at a time.
    part: keys of a block that the forward kernel sums up at a time: as many as
      the matrix unit is wide.
    runs: whether each tile reads one range, the same ones side by side, as
      `gather` has them.
    interpret: as of pallas_call: True to run the program anywhere, or
      pltpu.InterpretParams to simulate the memories, too.
  """
  bound = lambda f: functools.partial(
      f, tile=tile, block=block, interpret=interpret)
  return executors.Executor(
      functools.partial(bound(forward), part=min(part, block)),
      bound(backward_queries),
      bound(backward_keys_of_runs if runs else backward_keys), tile, block)


def forward(q_GQD, keys: executors.Keys, read: packing.Ranges, *, tile: int,
            block: int, part: int, interpret):
  """See executors.Executor."""
  heads, rows, dim = q_GQD.shape
  run = _Call('moc_forward', heads, keys, read, interpret)
  out, lse = run(
      functools.partial(_forward_kernel, part=part),
      tiles=[_whole(tile, dim)], blocks=[_whole(block, dim),
                                         _transposed(dim, block)],
      outputs=[_whole(tile, dim), _row(tile)],
      shapes=[jax.ShapeDtypeStruct(q_GQD.shape, q_GQD.dtype),
              jax.ShapeDtypeStruct((heads, 1, rows), jnp.float32)],
      scratch=[(1, tile), (1, tile), (dim, tile)],
      operands=(q_GQD, keys.k, keys.v.swapaxes(1, 2)))
  return out, lse[:, 0]


def backward_queries(q_GQD, keys: executors.Keys, read: packing.Ranges,
                     do_GQD, lse_GQ, delta_GQ, *, tile: int, block: int,
                     interpret):
  """See executors.Executor."""
  heads, _, dim = q_GQD.shape
  run = _Call('moc_dq', heads, keys, read, interpret)
  (dq,) = run(
      _dq_kernel,
      tiles=[_whole(tile, dim)] * 2 + [_row(tile)] * 2,
      blocks=[_whole(block, dim), _transposed(dim, block), _whole(block, dim)],
      outputs=[_whole(tile, dim)],
      shapes=[jax.ShapeDtypeStruct(q_GQD.shape, jnp.float32)],
      scratch=[(dim, tile)],
      operands=(q_GQD, do_GQD, lse_GQ[:, None], delta_GQ[:, None], keys.k,
                keys.k.swapaxes(1, 2), keys.v))
  return dq


def backward_keys(q_GQD, keys: executors.Keys, readers: packing.Ranges,
                  do_GQD, lse_GQ, delta_GQ, read=None, *, tile: int, block: int,
                  interpret):
  """See executors.Executor."""
  del read
  heads, _, dim = keys.k.shape
  run = _Call('moc_dkv', heads, keys, readers, interpret)
  dk, dv = run(
      _dkv_kernel,
      tiles=[_whole(block, dim)] * 2,
      blocks=[_whole(tile, dim)] * 2 + [_row(tile)] * 2,
      outputs=[_whole(block, dim)] * 2,
      shapes=[jax.ShapeDtypeStruct(keys.k.shape, jnp.float32)] * 2,
      scratch=[(block, dim)] * 2,
      operands=(keys.k, keys.v, q_GQD, do_GQD, lse_GQ[:, None],
                delta_GQ[:, None]))
  return dk, dv


def backward_keys_of_runs(q_GQD, keys: executors.Keys,
                          readers: packing.Ranges, do_GQD, lse_GQ, delta_GQ,
                          read: packing.Ranges, *, tile: int, block: int,
                          interpret):
  """See executors.Executor; for tiles of one range, same ones side by side.

  Grid: (head, jth block of a tile's range, tile). The tiles that read a block
  follow each other, and their sum stays in VMEM meanwhile; a tile without a
  jth block writes to a block behind the last one.
  """
  heads, _, dim = keys.k.shape
  tables, tiles, _ = read.start.shape
  blocks = keys.valid.shape[1]
  at = lambda g, t: executors.table_of(g, heads, tables) * tiles + t

  def nth(g, j, t, start_ref, count_ref):
    i = at(g, t)
    return jnp.where(j < count_ref[i], start_ref[i] + j, blocks)

  def kernel(start_ref, count_ref, *refs):
    g, j, t = (pl.program_id(axis) for axis in range(3))
    own = nth(g, j, t, start_ref, count_ref)
    before = nth(g, j, jnp.maximum(t - 1, 0), start_ref, count_ref)
    after = nth(g, j, jnp.minimum(t + 1, tiles - 1), start_ref, count_ref)
    _dkv_kernel(_Turn((t == 0) | (before != own), own < blocks,
                      (t == tiles - 1) | (after != own)), None, *refs)

  of_tile = lambda spec: pl.BlockSpec(spec[0], lambda g, j, t, *_: spec[1](
      g, t))
  keys_spec = pl.BlockSpec((1, block, dim), lambda g, j, t, *refs: (
      g, jnp.minimum(nth(g, j, t, *refs), blocks - 1), 0))
  sums = pl.BlockSpec((1, block, dim), lambda g, j, t, *refs: (
      g, nth(g, j, t, *refs), 0))
  found = pl.pallas_call(
      kernel,
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=2,
          grid=(heads, jnp.maximum(read.count.max(), 1), tiles),
          in_specs=[keys_spec, keys_spec, *map(of_tile, (
              _whole(tile, dim), _whole(tile, dim), _row(tile), _row(tile)))],
          out_specs=[sums, sums],
          scratch_shapes=[pltpu.VMEM((block, dim), jnp.float32)] * 2),
      out_shape=[jax.ShapeDtypeStruct(
          (heads, (blocks + 1) * block, dim), jnp.float32)] * 2,
      compiler_params=_compiler_params(q_GQD, tile, block),
      name='moc_dkv_of_runs', interpret=interpret,
  )(read.start.ravel(), read.count.ravel(), keys.k, keys.v, q_GQD, do_GQD,
    lse_GQ[:, None], delta_GQ[:, None])
  # A block that nobody reads has not been written.
  is_read = jnp.repeat(readers.count.sum(axis=-1) > 0, block, axis=1)
  is_read = jnp.repeat(is_read, heads // tables, axis=0)[..., None]
  return [jnp.where(is_read, x[:, :blocks * block], 0.) for x in found]


def _compiler_params(like, tile: int, block: int):
  """For tiles and blocks of rows of an array like this one."""
  # Where the default has room, a larger limit lengthens loops on tpu7x.
  is_large = tile * block * like.shape[-1] * like.dtype.itemsize > 2**28
  return pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel', 'arbitrary'),
      vmem_limit_bytes=_VMEM if is_large else None)


class _Call:
  """A pallas_call over (head, tile, nth block of the tile)."""

  def __init__(self, name: str, heads: int, keys: executors.Keys,
               ranges: packing.Ranges, interpret):
    self._name, self._heads, self._interpret = name, heads, interpret
    self._tables, self._n, self._ranges = ranges.start.shape
    self._valid_tables, self._blocks = keys.valid.shape
    self._scalars = (ranges.start.ravel(), ranges.count.ravel(),
                     keys.valid.ravel())
    # At least one turn, in which tiles that read nothing write their zeros.
    self._longest = jnp.maximum(ranges.count.sum(axis=-1).max(), 1)

  def __call__(self, kernel, *, tiles, blocks, outputs, shapes, scratch,
               operands):
    """Runs it.

    Args:
      kernel: f(Turn, references of inputs, outputs and scratch).
      tiles, blocks: of the inputs: (shape, place), where place(g, i) is the
        index of the ith part; first those of the tile, then of the block.
      outputs: likewise, of the tile.
      shapes: of the outputs.
      scratch: shapes of float32 sums.
      operands: the inputs.
    """
    of_tile = lambda spec: pl.BlockSpec(
        spec[0], lambda g, t, n, *_: spec[1](g, t))
    of_block = lambda spec: pl.BlockSpec(
        spec[0], lambda g, t, n, *refs: spec[1](g, self._nth(g, t, n, *refs)))
    return pl.pallas_call(
        functools.partial(self._run, kernel),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(self._heads, self._n, self._longest),
            in_specs=[*map(of_tile, tiles), *map(of_block, blocks)],
            out_specs=[*map(of_tile, outputs)],
            scratch_shapes=[pltpu.VMEM(s, jnp.float32) for s in scratch]),
        out_shape=shapes,
        compiler_params=_compiler_params(
            operands[0], tiles[0][0][1], blocks[0][0][1]),
        name=self._name, interpret=self._interpret,
    )(*self._scalars, *operands)

  def _lists(self, g, t, start_ref, count_ref):
    m = executors.table_of(g, self._heads, self._tables)
    first = (m * self._n + t) * self._ranges
    at = lambda ref: [ref[first + r] for r in range(self._ranges)]
    return at(start_ref), at(count_ref)

  def _nth(self, g, t, n, start_ref, count_ref, unused_valid_ref):
    start, count = self._lists(g, t, start_ref, count_ref)
    n = jnp.minimum(n, jnp.maximum(sum(count) - 1, 0))
    return packing.nth(start, count, n)

  def _run(self, kernel, *refs):
    scalars, refs = refs[:3], refs[3:]
    g, t, n = (pl.program_id(axis) for axis in range(3))
    _, count = self._lists(g, t, *scalars[:2])
    m = executors.table_of(g, self._heads, self._valid_tables)
    turn = _Turn(n == 0, n < sum(count), n == pl.num_programs(2) - 1)
    kernel(turn, lambda: scalars[2][
        m * self._blocks + self._nth(g, t, n, *scalars)], *refs)


class _Turn:
  """Whether a step begins a sum, adds to it, ends it."""

  def __init__(self, is_first, is_needed, is_last):
    self.is_needed = is_needed
    self.is_first, self.is_last = pl.when(is_first), pl.when(is_last)


def _forward_kernel(turn, valid, q_ref, k_ref, vt_ref, out_ref, lse_ref,
                    largest_ref, total_ref, sum_ref, *, part: int):
  @turn.is_first
  def _():
    largest_ref[...] = jnp.full_like(largest_ref, executors.NOTHING)
    total_ref[...] = jnp.zeros_like(total_ref)
    sum_ref[...] = jnp.zeros_like(sum_ref)

  def step(num_valid):
    s = _logits(q_ref, k_ref, num_valid)
    new = jnp.maximum(largest_ref[...], s.max(axis=0, keepdims=True))
    kept = jnp.exp2(largest_ref[...] - new)
    total, out = total_ref[...] * kept, sum_ref[...] * kept
    # In parts, the exponentials of one run beside the product of another.
    for first in range(0, s.shape[0], part):
      rows = slice(first, first + part)
      p = jnp.exp2(s[rows] - new)
      total += p.sum(axis=0, keepdims=True)
      out += _dot(vt_ref[0, :, rows], p.astype(vt_ref.dtype), _NN)
    largest_ref[...], total_ref[...], sum_ref[...] = new, total, out

  _whole_or_ragged(turn, valid(), k_ref.shape[1], step)

  @turn.is_last
  def _():
    total = total_ref[...]
    some = jnp.where(total > 0, total, 1.)
    out_ref[0] = (sum_ref[...] / some).T.astype(out_ref.dtype)
    lse_ref[0] = jnp.where(
        total > 0, largest_ref[...] + jnp.log2(some), executors.NOTHING)


def _dq_kernel(turn, valid, q_ref, do_ref, lse_ref, delta_ref, k_ref, kt_ref,
               v_ref, dq_ref, sum_ref):
  @turn.is_first
  def _():
    sum_ref[...] = jnp.zeros_like(sum_ref)

  def step(num_valid):
    _, ds = _probabilities(
        q_ref, do_ref, lse_ref, delta_ref, k_ref, v_ref, num_valid)
    sum_ref[...] += _dot(kt_ref[0], ds.astype(kt_ref.dtype), _NN)

  _whole_or_ragged(turn, valid(), k_ref.shape[1], step)

  @turn.is_last
  def _():
    dq_ref[0] = sum_ref[...].T


def _dkv_kernel(turn, unused_valid, k_ref, v_ref, q_ref, do_ref, lse_ref,
                delta_ref, dk_ref, dv_ref, dk_sum_ref, dv_sum_ref):
  @turn.is_first
  def _():
    dk_sum_ref[...] = jnp.zeros_like(dk_sum_ref)
    dv_sum_ref[...] = jnp.zeros_like(dv_sum_ref)

  @pl.when(turn.is_needed)
  def _():
    # Rows that are no tokens get gradients that nobody takes.
    p, ds = _probabilities(
        q_ref, do_ref, lse_ref, delta_ref, k_ref, v_ref, None)
    dv_sum_ref[...] += _dot(p.astype(do_ref.dtype), do_ref[0], _NN)
    dk_sum_ref[...] += _dot(ds.astype(q_ref.dtype), q_ref[0], _NN)

  @turn.is_last
  def _():
    dk_ref[0] = dk_sum_ref[...]
    dv_ref[0] = dv_sum_ref[...]


def _whole_or_ragged(turn, num_valid, block: int, step):
  """step(None) for a block full of tokens, step(num_valid) for another."""
  @pl.when(turn.is_needed & (num_valid == block))
  def _():
    step(None)

  @pl.when(turn.is_needed & (num_valid != block))
  def _():
    step(num_valid)


def _probabilities(q_ref, do_ref, lse_ref, delta_ref, k_ref, v_ref, num_valid):
  """p and ds, transposed, [block, tile]."""
  p = jnp.exp2(_logits(q_ref, k_ref, num_valid) - lse_ref[0])
  return p, p * (_dot(v_ref[0], do_ref[0], _NT) - delta_ref[0])


def _logits(q_ref, k_ref, num_valid):
  """sᵀ [block, tile]; NOTHING in rows that are no tokens."""
  s = _dot(k_ref[0], q_ref[0], _NT)
  if num_valid is None:
    return s
  row = lax.broadcasted_iota(jnp.int32, s.shape, 0)
  return jnp.where(row < num_valid, s, executors.NOTHING)


def _dot(a, b, dimensions):
  precision = 'highest' if a.dtype == jnp.float32 else None
  return lax.dot_general(a, b, dimensions, precision=precision,
                         preferred_element_type=jnp.float32)


def _whole(rows: int, dim: int):
  return (1, rows, dim), lambda g, i: (g, i, 0)


def _transposed(dim: int, rows: int):
  return (1, dim, rows), lambda g, i: (g, 0, i)


def _row(rows: int):
  return (1, 1, rows), lambda g, i: (g, 0, i)

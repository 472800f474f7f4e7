"""Attention of tiles of queries over ranges of blocks of keys, three ways.

An executor computes, for query i of tile t that reads the blocks J(t),

  s_ij = q_i · k_j,   lse_i = log2 Σ_j 2^s_ij,   o_i = Σ_j 2^(s_ij - lse_i) v_j

over the valid rows j of J(t): logits come in base 2, scaled. A tile that reads
nothing has o = 0 and lse = NOTHING. Backwards, with p_ij = 2^(s_ij - lse_i)
and δ_i = Σ o_i · do_i, where lse and o may be those of a larger softmax that
this one is a part of,

  ds_ij = p_ij (do_i · v_j - δ_i),                                         (1)
  dq_i = Σ_j ds_ij k_j,   dk_j = Σ_i ds_ij q_i,   dv_j = Σ_i p_ij do_i     (2)

with dq and dk still to be multiplied by ln 2, the derivative of 2^s.
"""

from typing import Callable, NamedTuple

import jax

from worldsim_jax.attention.moc import packing

NOTHING = -1e30  # The log of 0, but finite: differences of two are no NaN.


class Keys(NamedTuple):
  """Packed keys and values, and which of their rows are tokens.

  Attributes:
    k, v: [G, P, D]; rows that are no tokens are 0.
    valid: int32 [M, n], leading rows of each block that are tokens.
  """
  k: jax.Array
  v: jax.Array
  valid: jax.Array


class Executor(NamedTuple):
  """How a branch is computed. G heads of samples share M tables, M | G.

  Attributes:
    forward: (q [G, Q, D], Keys, Ranges of tiles) -> (o [G, Q, D] in the dtype
      of q, lse float32 [G, Q]).
    backward_queries: (q, Keys, Ranges of tiles, do, lse, delta) -> dq, float32.
    backward_keys: (q, Keys, Ranges of blocks, do, lse, delta, Ranges of tiles)
      -> (dk, dv), float32; an executor goes by the one or by the other.
    tile, block: rows of a tile of queries and of a block of keys.
  """
  forward: Callable
  backward_queries: Callable
  backward_keys: Callable
  tile: int
  block: int


def table_of(g, num_heads: int, num_tables: int):
  """The table of the gth head of samples."""
  return g // (num_heads // num_tables)


Ranges = packing.Ranges

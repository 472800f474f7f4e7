"""A mixture beside its definition: both run alike, and how far they differ."""

import functools

import jax
import numpy as np

from tests.attention.moc import drawn
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import routing
from worldsim_jax.attention.moc.executors.blocks import Blocks

SMALL = Blocks(8, 16, 16, 8)
OF_KERNELS = Blocks(128, 128, 128, 128)


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7, 8))
def run(q, k, v, table, rules, top_k, implementation='xla', blocks=SMALL,
        how=None, rng=None):
  plan = moc.plan(table, rules, q.shape[1], blocks)
  rngs = None if rng is None else jax.random.split(
      rng, (q.shape[0], q.shape[2]))
  return moc.attend(
      q, k, v, moc.Mixture(
          plan, rngs, how or routing.Routing(top_k), implementation),
      interpret=implementation == 'pallas')


def value_and_gradients(q, k, v, *args, cotangent=None, of=run):
  """out and the gradients of <out, cotangent>.

  Args:
    q, k, v, args: of `of`, which is `run` or like it.
    cotangent: a drawn one if None.
  """
  out, vjp = jax.vjp(lambda *qkv: of(*qkv, *args), q, k, v)
  if cotangent is None:
    cotangent = drawn.queries_keys_values(
        99, len(q), q.shape[2], q.shape[3], q.dtype, q.shape[1])[0]
  return out, vjp(cotangent)


def relative(found, expected):
  """The largest error beside the largest value."""
  found, expected = (np.asarray(x, np.float64) for x in (found, expected))
  return np.abs(found - expected).max() / np.abs(expected).max()

"""Model FLOPs of a program, counted from its jaxpr.

XLA's own cost analysis sees a loop body once and a kernel as zero; here loops
count by their trip counts. Only matrix products and convolutions count, two
FLOPs for each multiply-add, as 'model FLOPs' usually do. Those are without
recomputation, which is counted where the program has it: give the program
without remat (`train/loop.py` does).
"""

import math
from typing import NamedTuple

import jax
from jax.extend import core as jex_core
import jax.numpy as jnp
from jax.sharding import AbstractMesh


class Rates(NamedTuple):
  """How often a program does what only the run decides.

  Attributes:
    while_trips: iterations of a loop whose trip count is not static, for
      example the steps before a random exit step.
    cond: how often the costliest branch of a condition is taken.
  """
  while_trips: float = 1.
  cond: float = 1.


def count(fn, *args, rates: Rates = Rates()) -> float:
  """Model FLOPs of fn(*args), of all devices together.

  Arguments may be ShapeDtypeStructs. They are traced without a mesh: what
  `shard_map` shows is the work of one device.
  """
  shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), args)
  with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
    return _count(jax.make_jaxpr(fn)(*shapes).jaxpr, rates)


def _count(jaxpr, rates) -> float:
  return sum(_count_equation(e, rates) for e in jaxpr.eqns)


def _count_equation(equation, rates) -> float:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    return _dot_general(equation)
  if name == 'conv_general_dilated':
    return _convolution(equation)
  inner = [_count(j, rates) for j in _inner_jaxprs(params)]
  if name == 'scan':
    return params['length'] * sum(inner)
  if name == 'while':
    return rates.while_trips * sum(inner)
  if name == 'cond':
    return rates.cond * max(inner)
  return sum(inner)


def _inner_jaxprs(params):
  for value in params.values():
    for leaf in value if isinstance(value, (list, tuple)) else [value]:
      if isinstance(leaf, jex_core.ClosedJaxpr):
        yield leaf.jaxpr
      elif isinstance(leaf, jex_core.Jaxpr):
        yield leaf


def _dot_general(equation) -> float:
  (contracted, _), _ = equation.params['dimension_numbers']
  left = equation.invars[0].aval.shape
  depth = math.prod(left[axis] for axis in contracted)
  return 2. * depth * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation) -> float:
  kernel = equation.invars[1].aval.shape
  spec = equation.params['dimension_numbers'].rhs_spec
  # Each output value reads the kernel once, for its own output channel. The
  # strided gradient of a convolution multiplies by inserted zeros, which count.
  depth = math.prod(kernel) // kernel[spec[0]]
  return 2. * depth * math.prod(equation.outvars[0].aval.shape)

"""Where a tensor of a file lies in our parameters; the same for all models.

Files hold one tensor per layer, ours are stacked over the layers; PyTorch's
matrices are [out, in], ours [in, out]. A `Place` says both of one tensor. Each
module `*_keys` is a table of such places, one to one, of one model:

  MODEL                      what to call it
  FORMATS                    whose names it knows
  find_format(names)         one of them, or None
  own(tensors)               a file's tensors, by the names that `places` has
  module(tensors, **fields)  the linen module that they belong to
  shapes(module)             its parameters
  places(params, format)     {name: Place} of all tensors

All else is here: whether a file fits a model, and its tensors moved there and
back. Nothing is computed, so that there and back gives the same bits.
"""

from collections.abc import Callable
from collections.abc import Mapping
import functools
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.convert import tensors
from worldsim_jax.errors import UserError
from worldsim_jax.storage.arrays import Streamed

Path = tuple[str, ...]


class Layout(NamedTuple):
  """How the axes of one tensor are ordered there and here.

  Attributes:
    to_ours: of a file's tensor, ours (one layer of it).
    to_theirs: the inverse.
  """
  to_ours: Callable[[np.ndarray], np.ndarray]
  to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
ROW = Layout(lambda x: x[0], lambda x: x[None])  # [1, ...] there.
TRANSPOSED = Layout(np.transpose, np.transpose)
# [out, in, *kernel] there, [*kernel, in, out] here.
CONVOLUTION = Layout(lambda x: x.transpose(*range(2, x.ndim), 1, 0),
                     lambda x: x.transpose(-1, -2, *range(x.ndim - 2)))


@functools.cache
def unit_axes(count: int) -> Layout:
  """A vector, which has this many axes of one behind it there."""
  return Layout(lambda x: x.reshape(-1),
                lambda x: x.reshape(-1, *(1,) * count))


@functools.cache
def patches(height: int, width: int) -> Layout:
  """A convolution whose stride is its kernel, [out, in, 1, p, q] there; here a
  product with flattened patches, [p q in, out]."""
  return Layout(
      lambda x: x[:, :, 0].transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
      lambda x: x.reshape(height, width, -1, x.shape[1]).transpose(
          3, 2, 0, 1)[:, :, None])


class Place(NamedTuple):
  """Where a tensor belongs in our tree.

  Attributes:
    path: of the parameter.
    layer: its index on the parameter's first axis; None if that is no stack.
    layout: of its axes.
  """
  path: Path
  layer: int | None = None
  layout: Layout = SAME


def read(keys, given: Mapping[str, tensors.Readable], file: str = '',
         weights_dtype=None, **fields):
  """The model of a file.

  Args:
    keys: a module `*_keys`.
    given: tensors or arrays, by name.
    file: where they are from, for messages.
    weights_dtype: of the parameters; default: as in the file.
    **fields: of the module that no tensor tells.

  Returns:
    (module, tree of Streamed).

  Raises:
    UserError: if they are not exactly those of one such model.
  """
  try:
    found = keys.own(given)
    module = keys.module(found, **fields)
    params = keys.shapes(module)
  except (UserError, ValueError) as e:
    raise UserError(f'{file}: {e}' if file else str(e)) from e
  except (TypeError, ArithmeticError, LookupError) as e:  # No such sizes.
    raise UserError(f'{file}: the shapes of its tensors are those of no '
                    f'{keys.MODEL}: {e}') from e
  places = keys.places(params, keys.find_format(found))
  check(found, places, params, keys.MODEL, file)
  return module, to_tree(found, places, params, weights_dtype)


def shape_of(found, name: str, axes: int, model: str) -> tuple[int, ...]:
  """The shape of a tensor that sizes are read from.

  Raises:
    UserError: if it is missing, or has another number of axes, or no elements.
  """
  if name not in found:
    raise UserError(f'{name} is missing among the {len(found)} tensors of '
                    f'{model}.')
  shape = tuple(found[name].shape)
  if len(shape) != axes or 0 in shape:
    raise UserError(f'{name} has shape {shape}, {model} has {axes} axes there '
                    'and none of them empty.')
  return shape


def read_arrays(keys, given, **fields):
  """As `read`, in memory: (module, params)."""
  module, tree = read(keys, given, **fields)
  return module, jax.tree.map(
      lambda x: x.whole(), tree, is_leaf=lambda x: isinstance(x, Streamed))


def write_arrays(keys, params, format_: str) -> dict[str, np.ndarray]:
  """The tensors of a format, in memory."""
  params = jax.tree.map(np.asarray, params)
  return {name: x.read() for name, x in to_tensors(
      params, keys.places(params, format_)).items()}


def shape_there(shape, place: Place) -> tuple[int, ...]:
  """The shape of a file's tensor.

  Args:
    shape: of our parameter, with its stack of layers.
    place: of the tensor.
  """
  own = tuple(shape) if place.layer is None else tuple(shape)[1:]
  return place.layout.to_theirs(np.broadcast_to(np.int8(0), own)).shape


def check(found: Mapping[str, tensors.Readable], places: Mapping[str, Place],
          params, model: str, file: str = ''):
  """Whether a file's tensors are those of a model, all of them and no others.

  Args:
    found: what has a `shape`, by name.
    places: of all tensors of the model.
    params: of the model; arrays or shapes.
    model: what to call it.
    file: where they are from.

  Raises:
    UserError: for a tensor that is missing, too many or of another shape.
  """
  where, flat = f'{file}: ' * bool(file), flatten(params)
  for name, place in places.items():
    expected = shape_there(flat[place.path].shape, place)
    if name not in found:
      raise UserError(f'{where}{name} {expected} is missing; {model} of this '
                      'size has it.')
    if tuple(found[name].shape) != expected:
      raise UserError(f'{where}{name} has shape {tuple(found[name].shape)}, '
                      f'{model} of this size has {expected}.')
  for name in found:
    if name not in places:
      raise UserError(f'{where}{name} {tuple(found[name].shape)} is no tensor '
                      f'of {model}.')


def to_tree(found: Mapping[str, tensors.Readable], places: Mapping[str, Place],
            params, dtype=None):
  """Our parameters, made as they are written: `storage.arrays.Streamed`.

  Args:
    found: tensors or arrays, by name; `check` has passed them.
    places: of all of them.
    params: of the model; arrays or shapes.
    dtype: of the result; default: of each parameter's own tensors, or what
      holds all their values if they differ.
  """
  at = {}
  for name, place in places.items():
    at.setdefault(place.path, []).append((place, _lazy(found[name])))
  leaves = {}
  for path, x in flatten(params).items():
    own = dtype or widest(tensor.dtype for _, tensor in at[path])
    leaves[path] = _streamed(x.shape, own, at[path])
  return flax.traverse_util.unflatten_dict(leaves)


def to_tensors(params, places: Mapping[str, Place], dtypes=None
               ) -> dict[str, tensors.Computed]:
  """A file's tensors, made as they are written; the inverse of `to_tree`.

  Args:
    params: of the model: arrays, or what is read by its first index
      (`storage.arrays.Stored`).
    places: of all tensors, by name.
    dtypes: as `narrower` made them; default: of the parameters.
  """
  flat, dtypes, found = flatten(params), dtypes or {}, {}
  for name, place in places.items():
    x = flat[place.path]
    dtype = dtypes.get('/'.join(place.path), {}).get(
        str(place.layer or 0), x.dtype)
    dtype = jnp.dtype(dtype)
    found[name] = tensors.Computed(
        shape_there(x.shape, place), dtype,
        functools.partial(_part, x, place, dtype))
  return found


def narrower(found: Mapping[str, tensors.Readable],
             places: Mapping[str, Place], params):
  """Which tensors had fewer bits than their parameters have.

  Returns:
    {path, joined by slashes: {layer: name of the tensor's dtype}}.
  """
  dtypes, flat = {}, flatten(params)
  for name, place in places.items():
    dtype = flat[place.path].dtype
    if found[name].dtype != dtype == widest((found[name].dtype, dtype)):
      own = dtypes.setdefault('/'.join(place.path), {})
      own[str(place.layer or 0)] = found[name].dtype.name
  return dtypes


def widest(dtypes) -> np.dtype:
  """What holds all values of all of these."""
  return functools.reduce(jnp.promote_types, dtypes)


def flatten(params) -> dict[Path, jax.Array]:
  return flax.traverse_util.flatten_dict(
      params, is_leaf=lambda _, x: not isinstance(x, Mapping))


def _lazy(tensor):
  return (tensors.readable(tensor) if isinstance(tensor, np.ndarray)
          else tensor)


def _streamed(shape, dtype, parts) -> Streamed:
  """A parameter of its (place, tensor), one by one."""

  def pieces():
    for place, tensor in parts:
      own = place.layout.to_ours(tensor.read()).astype(dtype, copy=False)
      yield ((slice(place.layer, place.layer + 1), own[None])
             if place.layer is not None else (slice(0, len(own)), own))

  return Streamed(tuple(shape), jnp.dtype(dtype), pieces)


def _part(x, place, dtype):
  own = np.asarray(x[:] if place.layer is None else x[place.layer])
  return np.ascontiguousarray(
      place.layout.to_theirs(own).astype(dtype, copy=False))

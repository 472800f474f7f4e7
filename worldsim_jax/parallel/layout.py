"""How arrays lie on the mesh: the one table of rules.

Axes of the mesh, slowest network first:

  slice    slices of a TPU pod, joined by a data-centre network: the batch only
  data     the batch; parameters are copied
  fsdp     the batch; parameters, their averages and optimiser states are split
  context  the tokens of every frame (sequence parallelism); parameters are
           split over it, too, and gathered layer by layer
  tensor   heads and hidden channels (Megatron)

A parameter's layout follows from its path: `PARAMETERS` gives, for the last
dimensions, which of them is split over 'fsdp' (that is fsdp and context) and
which over 'tensor'. Optimiser states and averages have the paths of their
parameters in their own, and so the same layout. A dimension that an axis does
not divide is not split over it.
"""

import math
import re

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

AXES = ('slice', 'data', 'fsdp', 'context', 'tensor')
BATCH = ('slice', 'data', 'fsdp')

_COLUMN = ('fsdp', 'tensor')  # [in, out], outputs are split over 'tensor'.
_ROW = ('tensor', 'fsdp')  # [in, out], inputs are.
PARAMETERS = (
    (r'_attn/[qkv](_img)?/kernel$', _COLUMN),
    (r'_attn/[qkv](_img)?/bias$', ('tensor',)),
    (r'_attn/o/kernel$', _ROW),
    (r'ffn_0/kernel$', _COLUMN),
    (r'ffn_0/bias$', ('tensor',)),
    (r'ffn_2/kernel$', _ROW),
    (r'time_projection_1/kernel$', _COLUMN),  # The widest of the small ones.
    (r'(embedding|projection|head)\w*/kernel$', ('fsdp', None)),
    # Networks of convolutions are small, and where a kernel is split XLA splits
    # its channels and gathers the batch of pixels: 235 GiB instead of 31.
    (r'(encoder|decoder|transition)/.*kernel$', ()),
    (r'kernel$', (None, 'fsdp')),
)
_MESH_AXES = {'fsdp': ('fsdp', 'context'), 'tensor': ('tensor',), None: ()}


def parameter_spec(path: str, shape, sizes: dict[str, int]) -> PartitionSpec:
  """Where a parameter, or what belongs to it, lies.

  Args:
    path: its names, joined by '/'.
    shape: of the array; dimensions in front of the rule's are not split.
    sizes: of the mesh's axes.
  """
  for pattern, rule in PARAMETERS:
    if re.search(pattern, path) and len(shape) >= len(rule):
      break
  else:
    return PartitionSpec()
  front = len(shape) - len(rule)
  parts = [None] * front
  for size, axis in zip(shape[front:], rule):
    parts.append(dividing(size, _MESH_AXES[axis], sizes))
  return PartitionSpec(*parts)


def dividing(size: int, axes, sizes: dict[str, int]):
  """The longest run of leading axes whose product divides a dimension.

  Returns:
    Their names, as an entry of a PartitionSpec; None if there are none.
  """
  chosen = []
  for axis in axes:
    if sizes.get(axis, 1) == 1:
      continue
    if size % math.prod(sizes[a] for a in [*chosen, axis]):
      break
    chosen.append(axis)
  return tuple(chosen) if len(chosen) > 1 else chosen[0] if chosen else None


def shardings(mesh, tree, host=()):
  """A NamedSharding for every leaf of a tree of parameters and their states.

  Args:
    mesh: of devices.
    tree: of arrays or shapes.
    host: beginnings of the paths of what is kept in the host's memory.
  """
  sizes = dict(mesh.shape)

  def of_leaf(path, x):
    name = _join(path)
    kind = 'pinned_host' if _is_on_host(name, x, host) else None
    return NamedSharding(
        mesh, parameter_spec(name, x.shape, sizes), memory_kind=kind)

  return jax.tree_util.tree_map_with_path(of_leaf, tree)


def constrain(tree, host=()):
  """Keeps parameters, gradients or states where the rules say; for jit.

  What is in the host's memory is left as it is.
  """
  sizes = ambient_sizes()
  if math.prod(sizes.values()) == 1:
    return tree

  def of_leaf(path, x):
    name = _join(path)
    if _is_on_host(name, x, host):
      return x
    spec = parameter_spec(name, x.shape, sizes)
    return jax.lax.with_sharding_constraint(x, spec)

  return jax.tree_util.tree_map_with_path(of_leaf, tree)


def ambient_sizes() -> dict[str, int]:
  """Sizes of the axes of the mesh that `jax.set_mesh` made current, or {}."""
  mesh = jax.sharding.get_abstract_mesh()
  return {} if mesh.empty else dict(mesh.shape)


def platform() -> str:
  """'cpu', 'gpu' or 'tpu': of the current mesh, else of this process.

  A program may be compiled for a machine that is not here (train/fit.py).
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  found = device.platform if device else jax.default_backend()
  return 'gpu' if found in ('cuda', 'rocm') else found


def batch_axes(size: int):
  """The entry of a PartitionSpec for a batch of this size."""
  return dividing(size, BATCH, ambient_sizes())


def constrain_tokens(x_BFNC, channels: str | None = None):
  """Tokens split over batch and context; identity without a mesh.

  Args:
    x_BFNC: tokens.
    channels: the axis that splits C ('tensor' for hidden channels), or None.
  """
  sizes = ambient_sizes()
  if math.prod(sizes.values()) == 1:
    return x_BFNC
  batch, _, tokens, width = x_BFNC.shape
  split = lambda size, axes: dividing(size, axes, sizes)
  spec = PartitionSpec(
      split(batch, BATCH), None, split(tokens, ('context',)),
      split(width, (channels,) if channels else ()))
  return jax.lax.with_sharding_constraint(x_BFNC, spec)


def cache_spec(shape) -> PartitionSpec:
  """Where keys and values of a cache [L, B, S, N, H, D] lie.

  Like the tokens that they come from: split over batch, context (tokens within
  a frame) and tensor (heads).
  """
  sizes = ambient_sizes()
  _, batch, _, tokens, heads, _ = shape
  return PartitionSpec(
      None, dividing(batch, BATCH, sizes), None,
      dividing(tokens, ('context',), sizes),
      dividing(heads, ('tensor',), sizes), None)


def constrain_cache(x_LBSNHD):
  """Keys or values of a cache where they belong; identity without a mesh."""
  if math.prod(ambient_sizes().values()) == 1:
    return x_LBSNHD
  return jax.lax.with_sharding_constraint(x_LBSNHD, cache_spec(x_LBSNHD.shape))


def _is_on_host(name: str, x, host) -> bool:
  return bool(x.ndim and host and name.startswith(tuple(host)))


def _join(path) -> str:
  """'params/blocks/self_attn/q/kernel'."""
  names = (getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))
           for key in path)
  return '/'.join(map(str, names))

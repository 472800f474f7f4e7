"""`--mode=fit`: does a config fit a slice, and what would a step cost there?

The config's real programs are compiled for a named topology (see
`parallel/topologies.py`) on a machine that has none of it: TPUs by libtpu, GPUs
by the CUDA wheels. Of each program:

  memory       per chip as XLA allocates it, against what the chip has
  FLOPs        counted from the jaxpr, loops by their trip counts
  collectives  by kind, per chip and run, from the compiled text
  roofline     the longest of what the arithmetic, the memory and the network
               need at their peaks: no step is faster, and real ones are slower

A program that does not fit ends with exit code 1 and its largest buffers.
"""

import dataclasses
import math
import re
import time

import jax
from etils import epath

from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.parallel import chips
from worldsim_jax.parallel import hlo
from worldsim_jax.parallel import layout
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.parallel import topologies
from worldsim_jax.train import fit_report
from worldsim_jax.train import programs
from worldsim_jax.train import student_checks
from worldsim_jax.train import validation

GIB = 2**30
GIANT = 64 * 2**20  # bytes per chip, of an array that could have been split
PADDING = 0.05  # share of the arguments that is worth a warning
_BUFFERS = 5  # of those that do not fit, to name


@dataclasses.dataclass(frozen=True)
class Fit:
  """What the compiler says of one program, per chip.

  Attributes:
    program: its name.
    arguments, temporaries, total: bytes; the total has the code, too, and the
      networks of earlier stages; donated arguments count once.
    host: bytes of pinned host memory.
    limit: bytes that the chip has.
    flops: per chip, recomputation included; chips that repeat each other's
      work have all of it.
    costs: see `parallel/hlo.py`.
    chip: for the roofline.
    compile_seconds: how long it took here.
    frames: pixel frames that one run makes; 0 for a training step.
    buffers: what is largest, where it does not fit; lines of text.
    warnings: lines of text.
  """
  program: str
  limit: float
  chip: chips.Chip
  arguments: float = 0.
  temporaries: float = 0.
  total: float = 0.
  host: float = 0.
  flops: float = 0.
  costs: hlo.Costs = hlo.Costs(0., {}, 0.)
  compile_seconds: float = 0.
  frames: int = 0
  buffers: tuple[str, ...] = ()
  warnings: tuple[str, ...] = ()

  @property
  def fits(self) -> bool:
    return self.total <= self.limit

  @property
  def sent(self) -> float:
    """Bytes that the chip sends."""
    return sum(moved.bytes for moved in self.costs.collectives.values())

  def roofline(self) -> dict[str, float]:
    """Seconds at peak by what takes them; {} for a chip of unknown speed."""
    chip = self.chip
    if not chip.memory_bandwidth:
      return {}
    return {
        'arithmetic': self.flops / chip.flops,
        'memory': self.costs.memory_bytes / chip.memory_bandwidth,
        'network': ((self.sent - self.costs.dcn_bytes) / chip.link_bandwidth
                    + self.costs.dcn_bytes / chip.dcn_bandwidth)}


def fit(config, topology: str, names=(), workdir=None, search: bool = False):
  """Compiles programs for a topology and prints what they need.

  Args:
    config: of a run; config.mesh is laid over the topology.
    topology: see `parallel/topologies.py`; config.mesh.slice of them.
    names: of programs, see `train/programs.py`; default: all.
    workdir: where report.html and summary.json go; None for nowhere.
    search: whether to look for a mesh that fits, if this one does not.

  Returns:
    Whether everything fits.

  Raises:
    UserError: for a config, a topology or a program that there is not.
  """
  names = tuple(names) or programs.names(config)
  unknown = [name for name in names if name not in programs.names(config)]
  if unknown:
    raise UserError(f'--programs={unknown[0]} is not one of '
                    f'{", ".join(programs.names(config))}.')
  chip, devices = topologies.devices(topology, max(config.mesh.slice, 1))
  validation.check(config)
  try:
    fits = on_devices(config, chip, devices, names)
  except UserError as e:
    fits = search and _search(config, chip, devices, names)
    if not fits:
      raise
    print(f'the mesh of the config cannot be: {e}')
  if search and not all(f.fits for f in fits):
    fits = _search(config, chip, devices, names) or fits
  if workdir is not None:
    fit_report.write(epath.Path(workdir), config, topology, fits)
  return all(f.fits for f in fits)


def on_devices(config, chip, devices, names) -> list[Fit]:
  """A `Fit` per program; prints as it goes."""
  _check_mesh(config, devices, names)
  mesh = meshes.make_mesh(config.mesh, devices)
  print(f'{len(devices)} x {devices[0].device_kind}, mesh '
        f'{fit_report.describe(mesh.shape)}; {chip.memory / GIB:.2f} GiB per '
        'chip')
  print(fit_report.HEADER)
  fits = []
  for name in names:
    fits.append(compile_for(programs.make(name, config, mesh), config, mesh,
                            chip))
    print(fit_report.line(fits[-1]), flush=True)
  for warning in dict.fromkeys(w for f in fits for w in f.warnings):
    print(f'warning: {warning}')
  for f in fits:
    if not f.fits:
      print(f'{f.program} does not fit: {f.total / GIB:.2f} of '
            f'{f.limit / GIB:.2f} GiB. Its largest buffers:')
      print('\n'.join(f'  {buffer}' for buffer in f.buffers))
  return fits


def _check_mesh(config, devices, names):
  validation.check_mesh(config, devices)
  if set(names) & {'rollout', 'start', 'stream'}:  # They have a cache.
    mesh = meshes.make_mesh(config.mesh, devices)
    student_checks.check_stream_mesh(config, dict(mesh.shape))


def compile_for(program: programs.Program, config, mesh, chip) -> Fit:
  """Compiles a program for the mesh's devices."""
  counted = program.flops() / _sharing(program, mesh)
  warnings = tuple(_warnings(program, config, mesh))
  start = time.time()
  with jax.set_mesh(mesh):
    lowered = program.fn.lower(*program.args)
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
      if 'RESOURCE_EXHAUSTED' not in str(e):
        raise
      return dataclasses.replace(
          _too_large(str(e), program, chip), warnings=warnings, flops=counted,
          compile_seconds=time.time() - start)
  memory = compiled.memory_analysis()
  arguments = memory.argument_size_in_bytes
  per_slice = mesh.size // mesh.shape['slice']
  is_joined = mesh.shape['slice'] > 1
  if chip.kind.startswith('NVIDIA'):  # Beyond a host, the slower network.
    per_slice = topologies.GPUS_PER_HOST
    is_joined = mesh.size > per_slice
  others = _shard_bytes(program.others)
  result = Fit(
      program.name, chip.memory, chip, arguments=arguments,
      temporaries=memory.temp_size_in_bytes,
      total=(arguments + memory.output_size_in_bytes
             - memory.alias_size_in_bytes + memory.temp_size_in_bytes
             + memory.generated_code_size_in_bytes + others),
      host=(memory.host_argument_size_in_bytes
            + memory.host_temp_size_in_bytes),
      flops=counted, compile_seconds=time.time() - start,
      costs=hlo.costs(compiled.as_text(), program.rates,
                      per_slice if is_joined else None,
                      mesh.size // per_slice if is_joined else 1),
      frames=program.frames)
  if result.costs.unknown_loops and program.rates.while_trips <= 1:
    warnings += (
        f'{program.name}: the length of {result.costs.unknown_loops} loops is '
        'not in the compiled text; what is sent and read in them counts once',)
  padding = arguments - _shard_bytes(program.args)
  if padding > PADDING * arguments and padding > GIANT:
    warnings += (
        f'{program.name}: {padding / GIB:.2f} GiB of its arguments are padding '
        'to the tiles of the hardware (dimensions that are no multiple of 128)',
    )
  return dataclasses.replace(
      result, warnings=warnings,
      buffers=() if result.fits else tuple(_largest_arguments(program.args)))


def _sharing(program, mesh) -> int:
  """How many chips the arithmetic is divided among; others repeat it."""
  batch = layout.dividing(program.batch, layout.BATCH, dict(mesh.shape)) or ()
  axes = (batch,) if isinstance(batch, str) else batch
  axes = (*axes, 'context', 'tensor') if program.is_split else axes
  return math.prod(mesh.shape[axis] for axis in axes)


def _too_large(message, program, chip) -> Fit:
  """From the compiler's refusal: what it would have needed, and for what."""
  used = re.search(r'Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm', message)
  used = used or re.search(r'total memory required[^(]*\(([\d.]+)([KMG])'
                           r'[^(]*\(([\d.]+)([KMG])', message)
  size = lambda n, unit: float(n) * {'K': 2**10, 'M': 2**20, 'G': GIB}[unit]
  total = size(*used.groups()[:2]) if used else math.inf
  limit = size(*used.groups()[2:]) if used else chip.memory
  found = re.findall(r'Size: (\S+)\s+(?:Operator: op_name="([^"]*)"\s+)?'
                     r'(?:.*\n)*?\s+Shape: (\S+)', message)
  buffers = tuple(f'{size}  {shape.split("{")[0]}  {operator or "argument"}'
                  for size, operator, shape in found[:_BUFFERS])
  others = _shard_bytes(program.others)
  total = total + others if used else limit + 1  # Unknown, but too much.
  return Fit(program.name, limit, chip, arguments=_shard_bytes(program.args),
             total=max(total, limit + 1), frames=program.frames,
             buffers=buffers or (' '.join(message.split())[:400],
                                 *_largest_arguments(program.args)))


def _warnings(program, config, mesh):
  """What a look at shapes and layouts tells, before anything is compiled."""
  sizes = dict(mesh.shape)
  for path, x in jax.tree_util.tree_leaves_with_path(program.args):
    if x.sharding.is_fully_replicated and _bytes(x) >= GIANT and mesh.size > 1:
      yield (f'{program.name}: {jax.tree_util.keystr(path)} '
             f'{x.dtype}{list(x.shape)} is whole on every chip, '
             f'{_bytes(x) / GIB:.2f} GiB each')
  if mesh.size > _sharing(program, mesh):
    yield (f'{program.name}: {mesh.size // _sharing(program, mesh)} chips each '
           f'repeat the same work: a batch of {program.batch} is not split '
           'over mesh.data and mesh.fsdp, a tokenizer over mesh.context and '
           'mesh.tensor')
  for name in config.stages:
    if config[name].paradigm == 'tokenizer':
      continue
    own = build.for_network(config, name)
    heads = build.num_heads(own)
    tensor, context = sizes['tensor'], sizes['context']
    if build.is_recurrent(own):
      if tensor * context > 1:
        yield (f'{name} is recurrent: chips of mesh.tensor and mesh.context '
               'repeat the same work')
    elif heads % tensor:
      yield (f'{heads} heads of {name} do not divide by mesh.tensor={tensor}: '
             'every chip of that axis computes all of them')
    elif (heads // tensor) % context:
      yield (f'{heads // tensor} heads of {name} do not divide by '
             f'mesh.context={context}: attention goes by a ring, which stores '
             'its logits')


def _largest_arguments(args):
  leaves = jax.tree_util.tree_leaves_with_path(args)
  for path, x in sorted(leaves, key=lambda leaf: -_bytes(leaf[1]))[:_BUFFERS]:
    yield (f'{_bytes(x) / GIB:.2f}G  {x.dtype}{list(x.shape)}  '
           f'argument {jax.tree_util.keystr(path)}')


def _shard_bytes(tree) -> float:
  return sum(_bytes(x) for x in jax.tree.leaves(tree)
             if x.sharding.memory_kind != 'pinned_host')


def _bytes(x) -> float:
  """Of an array's part on one chip, without padding."""
  return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _search(config, chip, devices, names):
  """The first mesh that fits, of those that promise least communication."""
  for sizes in meshes_to_try(config, chip, devices, names):
    other = config.copy_and_resolve_references()
    other.mesh.update(sizes)
    fits = on_devices(other, chip, devices, names)
    if all(f.fits for f in fits):
      flags = ' '.join(f'--config.mesh.{k}={v}' for k, v in sizes.items())
      print(f'fits with: {flags}')
      return fits
  print('no mesh of these devices was found to fit: take more chips, a smaller '
        'batch, config.<stage>.accumulate, .offload or config.model.remat=full')
  return None


def meshes_to_try(config, chip, devices, names):
  """Meshes whose arguments alone leave room, by what they have to send.

  All of fsdp first; then tokens split, too; then heads.
  """
  count = len(devices) // max(config.mesh.slice, 1)
  divisors = [d for d in range(1, count + 1) if count % d == 0]
  grids = [(t, c) for t in divisors for c in divisors if count % (t * c) == 0]
  for tensor, context in sorted(grids, key=lambda g: (g[0] * g[1], g[0])):
    sizes = dict(data=1, fsdp=count // (tensor * context), context=context,
                 tensor=tensor)
    other = config.copy_and_resolve_references()
    other.mesh.update(sizes)
    if _shape(other, devices) == _shape(config, devices):
      continue  # It was tried.
    try:
      _check_mesh(other, devices, names)
    except UserError:
      continue
    heads = build.num_heads(build.student(other))
    if heads % tensor or heads // tensor % context:
      continue
    mesh = meshes.make_mesh(other.mesh, devices)
    args = [programs.make(name, other, mesh).args for name in names]
    if max(map(_shard_bytes, args)) < chip.memory:
      yield sizes


def _shape(config, devices):
  """Sizes of the axes, or None for a mesh that cannot be."""
  try:
    return meshes.make_mesh(config.mesh, devices).shape
  except UserError:
    return None

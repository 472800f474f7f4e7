"""Devices that are not here: compile for them all the same.

  v5p:4x4x4   a TPU slice by its shape (v4, v5e, v5p, v6e, tpu7x), for which
              libtpu is installed here (the extra [aot]); no TPU is needed
  h100:64     NVIDIA GPUs, eight to a host, with the CUDA wheels ([cuda])
  cpu:8       this machine's CPU, as eight virtual devices

Programs can be compiled for such devices, not run on them.
"""

import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from worldsim_jax.errors import UserError
from worldsim_jax.parallel import chips

# libtpu would otherwise look for the TPU of this machine, and lock it.
_TPU_ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0', 'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
_CUDA_PLUGINS = ('jax_cuda12_plugin', 'jax_cuda13_plugin')
GPUS_PER_HOST = 8
# What XLA must know of a GPU to compile for it: NVIDIA's figures for the H100.
_H100 = '''
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000
  l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 patch: 0 }
'''


def use_no_accelerator():
  """Keeps this process off the accelerators of its machine.

  To be called before JAX looks for devices: a program that only compiles must
  not take a TPU from the one that runs, nor fail for want of one.
  """
  os.environ['JAX_PLATFORMS'] = 'cpu'
  jax.config.update('jax_platforms', 'cpu')
  for name, value in _TPU_ENVIRONMENT.items():
    os.environ.setdefault(name, value)


def parse(name: str) -> tuple[chips.Chip, tuple[int, ...]]:
  """'v5p:4x4x4' -> (what is known of the chip, (4, 4, 4)).

  Raises:
    UserError: for anything else.
  """
  match = re.fullmatch(r'([a-z0-9]+):(\d+(?:x\d+){0,2})', name or '')
  chip = match and chips.of_name(match[1])
  shape = tuple(map(int, match[2].split('x'))) if match else ()
  if not chip or min(shape) < 1:
    names = sorted({c.name for c in chips.CHIPS
                    if c.kind.startswith('TPU') or c.name == 'h100'})
    raise UserError(
        f'--topology={name} is none: CHIP:SHAPE is expected, such as '
        f'v5p:4x4x4, v6e:2x2, h100:8, cpu:8 (chips: {", ".join(names)}, cpu).')
  largest = chip.largest
  if largest and (len(shape) != len(largest) and math.prod(shape) > 1
                  or math.prod(shape) > math.prod(largest)):
    raise UserError(
        f'--topology={name}: a slice of {chip.name} has {len(largest)} '
        f'dimensions and at most {math.prod(largest)} chips '
        f'({"x".join(map(str, largest))}); config.mesh.slice joins several.')
  return chip, shape


def devices(name: str, num_slices: int = 1) -> tuple[chips.Chip, list]:
  """The chip and the devices of a named topology.

  Args:
    name: see the module docstring; of one slice.
    num_slices: how many of them are joined by a data-centre network.

  Raises:
    UserError: if there is no such topology, or no compiler for it here.
  """
  chip, shape = parse(name)
  if chip.name == 'cpu':
    count = math.prod(shape)
    found = jax.devices('cpu')
    if len(found) < count:
      raise UserError(
          f'--topology={name}: there are {len(found)} CPU devices; set '
          f'XLA_FLAGS=--xla_force_host_platform_device_count={count}.')
    return chips.this_cpu(count), found[:count]
  if chip.kind.startswith('NVIDIA'):
    return chip, _gpus(name, chip, math.prod(shape))
  return chip, _tpus(name, shape, num_slices)


def _tpus(name, shape, num_slices):
  if importlib.util.find_spec('libtpu') is None:
    raise UserError(f'--topology={name} needs the TPU compiler: '
                    "pip install 'worldsim_jax[aot]'")
  options = {'num_slices': num_slices}
  if math.prod(shape) == 1:  # The default is a host of several chips.
    options['chips_per_host_bounds'] = (1, 1, 1)
  return _described(name, 'tpu', name, options)


def _gpus(name, chip, count):
  if chip.name != 'h100':
    raise UserError(f'--topology={name}: of GPUs, only h100 is described here.')
  if not any(map(importlib.util.find_spec, _CUDA_PLUGINS)):
    raise UserError(f'--topology={name} needs the CUDA compiler: '
                    "pip install 'worldsim_jax[cuda]'")
  hosts = -(-count // GPUS_PER_HOST)
  if count % hosts:
    raise UserError(f'--topology={name}: {count} GPUs are no whole number of '
                    f'hosts of {GPUS_PER_HOST}.')
  return _described(name, 'cuda', 'h100', {
      'target_config': _H100, 'topology': f'1x{hosts}x{count // hosts}'})


def _described(name, platform, topology, options):
  try:
    return list(topologies.get_topology_desc(
        platform=platform, topology_name=topology, **options).devices)
  except Exception as e:  # The plugins raise what they like.
    reason = ' '.join(str(e).split())[:200]
    raise UserError(f'--topology={name} cannot be compiled for here: '
                    f'{reason}') from e

"""Every test runs on eight virtual CPU devices, so that sharding is real.

JAX reads these variables once, when it is first imported: this file must come
before it. Set JAX_PLATFORMS to run the tests on an accelerator.

A test that starts a process hands it this environment. One that measures or
trains there as a user would, on one device, takes XLA_FLAGS out.

Programs are compiled with less optimisation, in half the time; they are too
small to need it.

There is no persistent compilation cache: tests kill processes at any moment,
which may leave half an entry, and they count compilations.
"""

import importlib.metadata
import logging
import os
import sys

from absl import flags

if 'jax' in sys.modules:
  raise RuntimeError('jax was imported before tests/conftest.py set XLA_FLAGS')

_DEVICES = '--xla_force_host_platform_device_count'
_FAST_COMPILES = ('--xla_backend_optimization_level=0',
                  '--xla_cpu_use_fusion_emitters=false')
# XLA's CPU devices may begin independent collectives in different orders, and
# then wait for each other for ever, unless programs are scheduled in sequence.
# The last of eight devices on two busy cores may also come late.
_COLLECTIVES = ('--xla_cpu_enable_concurrency_optimized_scheduler=false',
                '--xla_cpu_collective_call_terminate_timeout_seconds=120')
_xla_flags = os.environ.get('XLA_FLAGS', '').split()
if not any(flag.startswith(_DEVICES) for flag in _xla_flags):
  _xla_flags.append(f'{_DEVICES}=8')
  # XLA ends the process when it does not know a flag: only where we saw it.
  if importlib.metadata.version('jaxlib').startswith('0.10.'):
    _xla_flags.extend(_FAST_COMPILES + _COLLECTIVES)
os.environ['XLA_FLAGS'] = ' '.join(_xla_flags)
# A device that waits in two collectives takes two of the pool's threads; with
# one thread per device another then has none, and all wait for ever.
os.environ.setdefault('PJRT_NPROC', '32')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # XLA's C++ log.
logging.getLogger('jax').setLevel(logging.WARNING)

# absltest.create_tempdir reads flags, which pytest never parses.
flags.FLAGS.mark_as_parsed()

# Files that take minutes begin first, so that no process is left with one at
# the end (xdist would begin with those of many tests).
_LONGEST = ('train/run_test.py', 'distributed/smoke_test.py',
            'parallel/sharding_test.py', 'evaluate/faults_test.py',
            'distributed/train_test.py', 'evaluate/learned_metrics_test.py',
            'parallel/tpu_compiler_test.py', 'evaluate/suite_test.py',
            'train/fit_test.py', 'convert/convert_test.py')


def pytest_configure(config):
  config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
  def turn(item):
    name = item.nodeid.removeprefix('tests/').partition('::')[0]
    return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)

  items.sort(key=turn)  # Stable: the others stay as they are.

"""Every test runs on eight virtual CPU devices, so that sharding is real.

JAX reads these variables once, when it is first imported: this file must come
before it. Set JAX_PLATFORMS to run the tests on an accelerator.

A test that starts a process hands it this environment. One that measures or
trains there as a user would, on one device, takes XLA_FLAGS out.

There is no persistent compilation cache: tests kill processes at any moment,
which may leave half an entry, and they count compilations.
"""

import logging
import os
import sys

from absl import flags

if 'jax' in sys.modules:
  raise RuntimeError('jax was imported before tests/conftest.py set XLA_FLAGS')

_DEVICES = '--xla_force_host_platform_device_count'
_xla_flags = os.environ.get('XLA_FLAGS', '')
if _DEVICES not in _xla_flags:
  os.environ['XLA_FLAGS'] = f'{_xla_flags} {_DEVICES}=8'.strip()
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # XLA's C++ log.
logging.getLogger('jax').setLevel(logging.WARNING)

# absltest.create_tempdir reads flags, which pytest never parses.
flags.FLAGS.mark_as_parsed()

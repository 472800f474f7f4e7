"""Command line: flags in, one of the modes out.

  python -m worldsim_jax.main --config=configs/quickstart.py --workdir=runs/x
"""

import sys

from absl import app
from absl import flags
from ml_collections import config_flags

from worldsim_jax.errors import UserError

_MODE = flags.DEFINE_string('mode', 'train', 'What to do; see MODES.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Where results go: local or gs://')
_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Path of a config, with :argument; --config.key=value '
    'overrides.', lock_config=True)


def _train():
  from worldsim_jax.train import run
  run.train_and_evaluate(_CONFIG.value, _WORKDIR.value)


MODES = {'train': _train}


def main(argv):
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  if _MODE.value not in MODES:
    raise UserError(f'--mode={_MODE.value} is not one of {tuple(MODES)}.')
  MODES[_MODE.value]()


if __name__ == '__main__':
  app.run(main)

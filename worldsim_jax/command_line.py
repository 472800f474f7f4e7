"""Flags to values, and errors to one line and an exit code, for every program.

`worldsim_jax.main` and `benchmarks.run` define flags of their own; that a user
meets both in the same way is here.
"""

import re
import traceback

from absl import app
from absl import flags

from worldsim_jax.errors import BAD_INPUT
from worldsim_jax.errors import Preempted
from worldsim_jax.errors import PREEMPTED
from worldsim_jax.errors import UserError
from worldsim_jax.parallel import distributed
from worldsim_jax.parallel import host_memory
from worldsim_jax.parallel import mesh as meshes

FAILED = 1  # Exit code of a process with an error of ours, as Python's.


def parse(argv):
  """Flags to values; whatever a config file or override raises is one line."""
  try:
    return flags.FLAGS(argv)
  except (KeyError, AttributeError) as e:
    raise UserError(f'--config has no key {_key(e)}') from e
  except (flags.Error, IndexError, TypeError, ValueError, OSError) as e:
    # A config file that raises arrives as a traceback in text: its last line.
    raise UserError(f'cannot read the flags: {_last_line(e)}') from e


def value(flag):
  """A flag's value; None if it was not given."""
  try:
    if hasattr(flag.value, 'keys'):
      flag.value.keys()  # A config that could not be read raises when used.
    return flag.value
  except OSError as e:
    raise UserError(f'--{flag.name} cannot be read: {_last_line(e)}') from e


def run(main, flags_parser=parse):
  """Runs main(argv); what the user can mend is one line and exit code 2.

  A run that was told to stop ends with exit code 75 (`errors.PREEMPTED`).
  """
  host_memory.use_huge_pages()
  meshes.give_threads()
  try:
    app.run(main, flags_parser=flags_parser)
  except UserError as e:
    distributed.leave(BAD_INPUT, f'error: {_in_one_line(e)}')
  except Preempted as e:
    if e.agreed:
      distributed.stop()
    distributed.leave(PREEMPTED, f'preempted: {_in_one_line(e)}')
  except Exception as e:
    if not distributed.has_others():
      raise
    traceback.print_exc()  # The others wait for this process: tell them.
    distributed.leave(FAILED, f'error: {type(e).__name__}: {_in_one_line(e)}')


def _key(error) -> str:
  """What ml_collections could not find, and what it takes it for."""
  while isinstance(error, Exception):  # One may hold the other.
    error = error.args[0]
  key, _, hint = str(error).partition('\n')
  alike = re.search('"(.+?)"', hint)
  meant = f' (did you mean {alike[1]!r}?)' if alike else ''
  key = key.strip("'")
  return f'{key!r}; its file lists them{meant}'


def _in_one_line(error) -> str:
  return ' '.join(str(error).split())


def _last_line(error) -> str:
  return str(error).strip().splitlines()[-1]

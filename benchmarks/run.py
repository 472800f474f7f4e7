"""Runs one benchmark, prints its table and writes its results.

  python -m benchmarks.run NAME [--config=FILE --repeats=N --out=FOLDER]
  python -m benchmarks.run paradigms|revisits [--quick --workdir=FOLDER]
  python -m benchmarks.run --list
"""

import importlib
import pathlib
import re
import sys

from absl import flags
from absl import logging
from ml_collections import config_flags

import benchmarks
from benchmarks import results
from worldsim_jax import command_line
from worldsim_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
QUICK = ':tiny', 2  # config's variant, repeats

_LIST = flags.DEFINE_bool('list', False, 'Print the benchmarks and stop.')
_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'What gives the sizes, the quickstart by default; '
    '--config.key=value overrides a key.', lock_config=True)
_REPEATS = flags.DEFINE_integer(
    'repeats', None, 'Timed repeats after the warm-up (5); paradigms (3), '
    'revisits (1): seeds.', lower_bound=1)
_QUICK = flags.DEFINE_bool(
    'quick', False, 'The form of the results in minutes: the variant :tiny of '
    'the config, twice.')
_WORKDIR = flags.DEFINE_string(
    'workdir', '', 'paradigms, revisits: folder of the runs (runs/NAME).')
_FRAMES = flags.DEFINE_integer(
    'frames', 512, 'stream: pixel frames of a stream.', lower_bound=1)
_OUT = flags.DEFINE_string(
    'out', str(ROOT / 'benchmarks/results'), 'Folder of the results.')


def main(argv):
  if _LIST.value:
    width = max(map(len, benchmarks.REGISTRY))
    for name, measures in benchmarks.REGISTRY.items():
      print(f'{name:<{width}}  {measures}')
    return
  names = argv[1:]
  if len(names) != 1 or names[0] not in benchmarks.REGISTRY:
    raise UserError(f'{" ".join(names) or "no name"}: name one benchmark of '
                    f'{", ".join(benchmarks.REGISTRY)}')
  logging.set_verbosity(logging.WARNING)  # JAX tells what backends it lacks.
  run(names[0], command_line.value(_CONFIG))


def run(name: str, config):
  """Measures, prints and writes; see the module docstring."""
  from worldsim_jax.train import validation  # Imports the models.
  validation.check(config)
  module = importlib.import_module(f'benchmarks.{name}')
  repeats = _REPEATS.value or (
      QUICK[1] if _QUICK.value else defaults(name)[1])
  workdir = (_WORKDIR.value or str(ROOT / 'runs' / name)) + (
      '-quick' if _QUICK.value else '')
  options = benchmarks.Options(config, repeats, _FRAMES.value, workdir)
  rows = module.benchmark(options)
  more = module.details(options) if hasattr(module, 'details') else {}
  result = {
      'benchmark': name, 'command': command(), 'repeats': repeats,
      'environment': results.environment(), 'config': config.to_dict(),
      'rows': rows} | more
  print(f'{name}: {benchmarks.REGISTRY[name]}')
  print(results.describe(result['environment']))
  print(results.table(rows))
  print(f'written to {results.write(_OUT.value, file_name(name), result)}')


def file_name(name: str) -> str:
  """Results of another config than the default one get its name."""
  config = flags.FLAGS['config']
  path, _, arguments = config.config_filename.partition(':')
  parts = [name]
  if pathlib.Path(path).resolve() != ROOT / defaults(name)[0] or arguments:
    parts += [pathlib.Path(path).stem, *arguments.split(',')]
  if config.override_values:
    parts.append('custom')
  return '-'.join(filter(None, parts))


def defaults(name: str) -> tuple[str, int]:
  """A benchmark's config, below the root, and its repeats."""
  return benchmarks.DEFAULTS.get(name, benchmarks.DEFAULTS[''])


def command() -> str:
  return ' '.join(['python -m benchmarks.run', *sys.argv[1:]])


def parse_flags(argv):
  """As every program, with a config of our own where none is given."""
  if not any(re.match('--?config(=|$)', word) for word in argv):
    # A default in the flag would be read, and could fail, on import.
    named = [word for word in argv[1:] if word in benchmarks.REGISTRY]
    path, _ = defaults(named[0] if named else '')
    variant = QUICK[0] if '--quick' in argv else ''
    argv = [argv[0], f'--config={ROOT / path}{variant}', *argv[1:]]
  return command_line.parse(argv)


if __name__ == '__main__':
  command_line.run(main, parse_flags)

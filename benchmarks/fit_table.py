"""The README's table of what fits where, from the compilers themselves.

  python -m benchmarks.fit_table            compile what is missing, then write
  python -m benchmarks.fit_table --only=self_forcing/v5p
  python -m benchmarks.fit_table --write    the table only

A row is one run of `--mode=fit` in a process of its own, for TPUs in an
environment with the extra [aot], for GPUs in one with [cuda] (--cuda_python).
Its numbers go to benchmarks/results/fit/<config>/<topology>.json, with versions
and commit; a row that is there is not compiled again unless it is named.
Rows take one to fifteen minutes on two CPU cores.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

from absl import flags

from benchmarks import pages
from worldsim_jax import command_line
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import report

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks/results/fit'
COLUMNS = ('config', 'slice', 'program', 'GiB per chip, of', 'arguments, GiB',
           'TFLOP per chip', 'GB sent per chip', 'at peak, s', 'fits')

_ONLY = flags.DEFINE_string('only', '', 'Part of the names of rows to compile.')
_WRITE = flags.DEFINE_bool('write', False, 'Compile nothing.')
_CUDA = flags.DEFINE_string(
    'cuda_python', '', 'Python of an environment with [cuda], for GPU rows.')


class Row(NamedTuple):
  """One run of fit."""
  config: str
  topology: str
  programs: str = ''
  overrides: tuple[str, ...] = ()
  variant: str = ''  # of the config: 'sid' is configs/<config>.py:sid

  @property
  def name(self) -> str:
    folder = '-'.join(filter(None, (self.config, self.variant)))
    return f'{folder}/{self.topology.replace(":", "-")}'

  @property
  def config_name(self) -> str:
    return ':'.join(filter(None, (f'{self.config}.py', self.variant)))

  @property
  def path(self) -> pathlib.Path:
    return RESULTS / f'{self.name}.json'

  def command(self) -> list[str]:
    """As a user would type it, after `python`."""
    programs = [f'--programs={self.programs}'] if self.programs else []
    return ['-m', 'worldsim_jax.main', f'--config=configs/{self.config_name}',
            '--mode=fit', f'--topology={self.topology}', *programs,
            *(f'--config.{o}' for o in self.overrides)]


ROWS = (
    Row('self_forcing', 'v5p:4x4x4', 'self_forcing'),
    Row('self_forcing', 'v6e:8x8', 'self_forcing'),
    Row('self_forcing', 'v6e:8x8', 'self_forcing', variant='sid'),
    Row('self_forcing', 'v6e:8x8', 'self_forcing', variant='gan'),
    Row('self_forcing', 'v5p:4x4x4', 'self_forcing', variant='sid'),
    Row('self_forcing', 'v5p:4x4x4', 'self_forcing', variant='gan'),
    Row('self_forcing', 'v6e:8x8', 'self_forcing', variant='framewise'),
    Row('moc_minute', 'v5p:4x4x4'),
    Row('moc_minute', 'v6e:8x8', 'moc_1280'),
    Row('moc_minute', 'v6e:8x8', 'moc_frame,film', variant='wan'),
    Row('causvid', 'v6e:8x8', 'ode_regression,causvid'),
    Row('teacher_forcing', 'v6e:8x8', 'teacher_forcing'),
    Row('diffusion_forcing', 'v6e:8x8', 'diffusion_forcing'),
    Row('diffusion_forcing', 'v5e:1x1', 'diffusion_forcing,stream',
        variant='rnn'),
    Row('wan_1_3b', 'v6e:1x1', 'stream'),
    Row('wan_14b', 'v6e:2x2', 'stream', ('mesh.fsdp=1', 'mesh.tensor=4')),
    Row('wan_1_3b', 'v6e:8x8', 'teacher,teacher_forcing'),
    Row('wan_14b', 'v5p:4x4x4', 'teacher'),
    Row('wan_14b', 'v6e:8x8', 'teacher', ('model.remat=offload',)),
    Row('wan_1_3b', 'v5e:1x1', 'stream'),
    Row('quickstart', 'v5e:1x1'),
    Row('doom', 'v5e:2x2', 'teacher,stream', ('mesh.fsdp=4', 'mesh.data=1')),
    Row('self_forcing', 'h100:64', 'self_forcing'),
    Row('wan_1_3b', 'h100:1', 'stream'),
)


def run(row: Row):
  """Compiles a row and writes its numbers."""
  is_gpu = row.topology.startswith('h100')
  python = _CUDA.value if is_gpu else sys.executable
  if not python:
    print(f'{row.name}: left out, --cuda_python is not given')
    return
  with tempfile.TemporaryDirectory() as folder:
    done = subprocess.run(
        [python, *row.command(), f'--workdir={folder}/fit'], cwd=ROOT,
        check=False)
    summary = pathlib.Path(folder, 'fit/summary.json')
    if done.returncode not in (0, 1) or not summary.exists():
      raise UserError(f'{row.name}: --mode=fit ended with exit code '
                      f'{done.returncode}; see above.')
    result = {'command': ' '.join(['python', *row.command()]),
              'numbers': json.loads(summary.read_text()),
              'versions': _versions(python)}
  report.write_atomically(row.path, json.dumps(result, indent=2) + '\n')


def _versions(python) -> dict[str, str]:
  """Of what compiled: its environment may not be this one."""
  code = ('import importlib.metadata as m, json\n'
          'found = {}\n'
          'for name in ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin"):\n'
          '  try: found[name] = m.version(name)\n'
          '  except m.PackageNotFoundError: pass\n'
          'print(json.dumps(found))')
  found = subprocess.run([python, '-c', code], check=True, capture_output=True,
                         text=True)
  return json.loads(found.stdout) | {'commit': report.commit() or 'unknown'}


def table() -> str:
  """Markdown of all rows that have been compiled."""
  rows = []
  versions = set()
  for row in ROWS:
    if not row.path.exists():
      continue
    result = json.loads(row.path.read_text())
    used = {k: v for k, v in result['versions'].items() if k != 'commit'}
    versions.add(', '.join(f'{k} {v}' for k, v in used.items()))
    rows += [_cells(row, program, result['numbers'])
             for program in programs_of(result['numbers'])]
  return (pages.markdown(COLUMNS, rows) + '\nCompiled with '
          + '; '.join(sorted(versions))
          + '. Commits and commands: `benchmarks/results/fit/`.\n')


def programs_of(numbers) -> list[str]:
  return list(dict.fromkeys(name.split('/')[0] for name in numbers))


def _cells(row, program, numbers) -> list[str]:
  get = lambda name: numbers.get(f'{program}/{name}')
  number = lambda x, form: '-' if x is None else format(x, form)
  at_peak = number(get('roofline_(s)'), '.3g')
  limits = {what: get(f'roofline_{what}_s') or 0.
            for what in ('arithmetic', 'memory', 'network')}
  if get('roofline_(s)') is not None:
    at_peak += f' ({max(limits, key=limits.get)})'
  return [
      ' '.join([f'`{row.config_name}`', *row.overrides]), row.topology, program,
      f'{number(get("total_(GiB)"), ".2f")} of '
      f'{number(get("limit_(GiB)"), ".2f")}',
      number(get('arguments_(GiB)'), '.2f'),
      number(get('TFLOP'), '.4g'), f'{number(get("sent_(GB)"), ".3g")}',
      at_peak, str(get('fits'))]


def main(argv):
  del argv
  for row in ROWS:
    wanted = _ONLY.value in row.name if _ONLY.value else not row.path.exists()
    if wanted and not _WRITE.value:
      print(f'--- {row.name}', flush=True)
      run(row)
  pages.write(ROOT / 'README.md', 'fit_table', {'fit': table()})


if __name__ == '__main__':
  command_line.run(main)

"""docs/moc.md: tables of `benchmarks.run moc`, `moc_*_static`, `revisits`.

  python -m benchmarks.moc_page

They are of benchmarks/results/cpu-2; a benchmark that has not run has no table.
"""

import json
import pathlib

from benchmarks import pages
from benchmarks import results
from worldsim_jax import command_line

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / 'docs/moc.md', ROOT / 'benchmarks/results/cpu-2'
SCRIPT = 'moc_page'
MISSING = 'Not measured yet.\n'
PASTS = {
    'all': 'every frame', 'window': 'window and sink',
    'recall': 'window, sink, and 3 frames that each token chooses'}
UNITS = {'psnr': (1, ' dB'), 'lpips': (3, '')}  # decimals, unit


def tables() -> dict[str, str]:
  """The page's tables, by name."""
  return {name: _table(name, make) for name, make in (
      ('moc', _ratios), ('moc_tpu_static', _schedules),
      ('moc_gpu_static', _registers), ('revisits', _revisits))}


def _table(name: str, make) -> str:
  path = RESULTS / f'{name}.json'
  if not path.exists():
    return MISSING
  result = json.loads(path.read_text())
  return make(result['rows']) + (
      f'\n`{result["command"]}`; '
      f'{results.describe(result["environment"])}.\n')


def _ratios(rows) -> str:
  spread = lambda row, name: '{:.1f} ({:.1f} … {:.1f})'.format(
      *(row[f'ratio_dense_to_{name}_{part}'] for part in (
          'median', 'min', 'max')))
  return pages.markdown(
      ['tokens', '', 'keys read', 'dense / MoC', 'queries nearly alike',
       'dense, MiB', 'MoC, MiB'],
      [[f'{row["tokens"]:,}', row['direction'], f'{row["keys_read"]:.1%}',
        spread(row, 'moc'), spread(row, 'alike'),
        f'{row["dense_temporary_mib"]:.0f}', f'{row["moc_temporary_mib"]:.0f}']
       for row in rows])


def _schedules(rows) -> str:
  kernels = list(dict.fromkeys(row['kernel'] for row in rows))
  share = {(row['chip'], row['tile'], row['block'], row['kernel']): (
      row['mxu_share'],
      min(1, row['ideal_cycles'] / (row['cycles'] + row['loop'])))
           for row in rows}
  sizes = dict.fromkeys(key[:3] for key in share)
  return pages.markdown(
      ['chip', 'tile x block', *[f'`{k}`' for k in kernels]],
      [[chip, f'{tile} x {block}',
        *['{:.0%} ({:.0%})'.format(*share[chip, tile, block, k])
          for k in kernels]]
       for chip, tile, block in sizes])


def _registers(rows) -> str:
  kernels = list(dict.fromkeys(row['kernel'] for row in rows))
  size = lambda row: tuple(
      row[name] for name in ('tile', 'block', 'warps', 'stages', 'dtype'))
  cells = {(size(row), row['kernel']): '{}{}{}'.format(
      row['registers'], f', {row["spills"]} B spilt' * (row['spills'] > 0),
      ', serialised' * row['serialised']) for row in rows}
  return pages.markdown(
      ['tile x block', 'warps', 'stages', 'dtype',
       *[f'`{k}`' for k in kernels]],
      [[f'{tile} x {block}', str(warps), str(stages), dtype,
        *[cells[(tile, block, warps, stages, dtype), k] for k in kernels]]
       for tile, block, warps, stages, dtype in dict.fromkeys(
           map(size, rows))])


def _revisits(rows) -> str:
  names = [name for name in rows[0] if f'{name}_low' in rows[0]]
  names = [name for name in names if name.startswith('told_')]
  cells = []
  for name in names:
    decimals, unit = UNITS['lpips' if 'lpips' in name else 'psnr']
    cells.append([f'`{name}`', f'{rows[0][f"{name}_n"]:.0f}', *[
        f'{row[name]:.{decimals}f}{unit} ({row[f"{name}_low"]:.{decimals}f} … '
        f'{row[f"{name}_high"]:.{decimals}f})' for row in rows],
        f'{rows[0][f"{name}_real"]:.{decimals}f}{unit}',
        ', '.join(f'{row[f"{name}_spread"]:.{decimals}f}' for row in rows
                  if f'{name}_spread' in row) or 'one seed'])
  routed = next((r for r in rows if 'recall_precision' in r), None)
  spread = (routed or {}).get('recall_precision_spread')
  seeds = '' if spread is None else f'; seeds differ by {spread:.0%}'
  told = '' if routed is None else (
      f'\nOf the frames that tokens chose {routed["recall_precision"]:.0%} '
      f'({routed["recall_precision_low"]:.0%} … '
      f'{routed["recall_precision_high"]:.0%}{seeds}) show what the token '
      'shows; by '
      f'chance {routed["recall_precision_real"]:.0%} would, of the latest '
      f'{routed["recall_precision_latest"]:.0%}.\n')
  return pages.markdown(
      ['', 'n', *[PASTS[row['past']] for row in rows], 'tokenizer',
       'seeds differ by'],
      cells) + told


def main(argv):
  del argv
  pages.write(PAGE, SCRIPT, tables())


if __name__ == '__main__':
  command_line.run(main)

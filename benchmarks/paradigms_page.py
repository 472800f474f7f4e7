"""docs/paradigms.md: tables and plot of `benchmarks.run paradigms`.

  python -m benchmarks.paradigms_page [RESULT.json]

The result is benchmarks/results/cpu-2/paradigms.json unless another is named.
"""

import json
import pathlib

from benchmarks import hypotheses
from benchmarks import pages
from benchmarks import results
from worldsim_jax import command_line
from worldsim_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE, PLOT = ROOT / 'docs/paradigms.md', ROOT / 'docs/paradigms.png'
RESULT = ROOT / 'benchmarks/results/cpu-2/paradigms.json'
SCRIPT = 'paradigms_page'
# What a player is called, and how its line is drawn.
NAMES = {
    'teacher_50': 'bidirectional teacher, 50 steps',
    'tf_50': 'Teacher Forcing, 50 steps',
    'df_50': 'Diffusion Forcing, 50 steps',
    'df_pyramid': 'the same, pyramid',
    'df_full': 'the same, all frames at once',
    'tf': 'Teacher Forcing, 4 steps',
    'df': 'Diffusion Forcing, 4 steps',
    'tf_dmd': 'TF + DMD',
    'df_dmd': 'DF + DMD',
    'causvid': 'CausVid',
    'sf_dmd': 'Self Forcing, DMD',
    'sf_sid': 'Self Forcing, SiD',
    'sf_gan': 'Self Forcing, GAN',
    'sf_long': 'Self Forcing, DMD, long rollouts',
    'copy': 'last given frame for ever',
}
PLOTTED = {
    'teacher_50': 'k-', 'tf_50': 'C0-', 'df_50': 'C1-', 'tf_dmd': 'C0--',
    'df_dmd': 'C1--', 'causvid': 'C4--', 'sf_dmd': 'C3-', 'sf_sid': 'C2-',
    'sf_gan': 'C5-', 'sf_long': 'C6-', 'copy': 'k:'}
DECIMALS = {'psnr_within': 1, 'psnr_beyond': 1, 'lpips_within': 3,
            'lpips_beyond': 3, 'error_drift': 2, 'lpips_drift': 2}
LABELS = {'psnr': 'PSNR (dB)', 'lpips': 'LPIPS'}


def tables(result) -> dict[str, str]:
  """The page's tables, by name."""
  figures = [f for f in hypotheses.FIGURES if f in result['rows'][0]]
  rows = []
  for row in result['rows']:
    cells = [NAMES[row['player']]]
    cells += [_interval(row[f], row[f'{f}_low'], row[f'{f}_high'], DECIMALS[f])
              for f in figures]
    cells += [_number(row.get('training_seconds'), 0),
              _number(row.get('step_ratio_to_tf'), 2)]
    rows.append(cells)
  claims = [[v['text'], f'`{v["figure"]}`',
             _interval(v['difference'], v['low'], v['high'],
                       DECIMALS.get(v['figure'], 2)), v['verdict']]
            for v in result['hypotheses']]
  names = [f'`{f}`' for f in figures]
  made = (f'\n{result["seeds"]} seeds, {result["clips"]} clips of '
          f'{result["maps"]} maps; {results.describe(result["environment"])}; '
          f'{result["environment"]["processor"]}.\n')
  return {
      'figures': pages.markdown(
          ['', *names, 'training, s', 'step, of TF'], rows) + made,
      'hypotheses': pages.markdown(
          ['claim', 'figure', 'difference', ''], claims)}


def plot(result, path: pathlib.Path):
  """Both metrics by frame."""
  import matplotlib
  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  metrics = list(result['curves']['copy'])
  figure, panels = plt.subplots(
      1, len(metrics), figsize=(5.2 * len(metrics) + 2, 4.2), squeeze=False,
      layout='constrained')
  for axes, metric in zip(panels[0], metrics):
    for name, style in PLOTTED.items():
      mean = result['curves'][name][metric]['mean']
      axes.plot(range(1, len(mean) + 1), mean, style, label=NAMES[name],
                linewidth=1.4)
    axes.axvspan(0.5, result['trained_frames'] + 0.5, color='0.92')
    axes.set_xlabel('frame after the given ones (grey: as long as in training)')
    axes.set_ylabel(LABELS[metric])
    axes.set_xlim(left=0.5)
    axes.spines[['top', 'right']].set_visible(False)
  figure.legend(*panels[0][0].get_legend_handles_labels(), frameon=False,
                fontsize=7, loc='outside right')
  figure.savefig(path, dpi=120)


def _number(value, decimals: int) -> str:
  return '-' if value is None else f'{value:.{decimals}f}'


def _interval(mean, low, high, decimals: int) -> str:
  number = lambda x: f'{x:.{decimals}f}'
  return f'{number(mean)} ({number(low)}..{number(high)})'


def main(argv):
  path = pathlib.Path(argv[1]) if argv[1:] else RESULT
  if not path.exists():
    raise UserError(f'{path} is not there: python -m benchmarks.run paradigms')
  result = json.loads(path.read_text())
  pages.write(PAGE, SCRIPT, tables(result))
  plot(result, PLOT)


if __name__ == '__main__':
  command_line.run(main)

"""What a long past is worth, at equal compute.

The runs of configs/revisits.py, a process each, in <workdir>/<past>-<seed>,
which go on where they stopped; then the section `recall` of their evaluation:
what they make of the true past (PSNR by the time since a pixel was seen, PSNR
and LPIPS of revisits by gap), and for the student that recalls, whether what it
chose shows what it was to show. Figures, and the ends of their intervals over
mazes, are means over seeds; `_spread` is by how much several differ at most.

`--repeats` is the number of seeds (1), `--workdir` where runs are kept.
"""

import json
import pathlib

from benchmarks import apart
from configs import revisits
from worldsim_jax.errors import UserError

SUMMARY = 'evaluation/student/summary.json'
FIGURES = ('told_', 'recall_precision')  # How their names begin.


def benchmark(options):
  """A row per student: every figure, and the ends of its interval."""
  rows = []
  for past in revisits.PASTS:
    found = [_measured(options, past, seed) for seed in range(options.repeats)]
    row = {'past': past}
    for name in found[0]:
      if name.startswith(FIGURES) and all(name in f for f in found):
        of_seeds = [f[name] for f in found]
        row[name] = sum(of_seeds) / len(found)
        if f'{name}_low' in found[0] and len(found) > 1:
          row[f'{name}_spread'] = max(of_seeds) - min(of_seeds)
    rows.append(row)
  return rows


def _measured(options, past: str, seed: int) -> dict:
  """The figures of one run, which is made if it is not there."""
  config = options.config.copy_and_resolve_references()
  if 'past' not in config.stages:
    raise UserError('revisits needs configs/revisits.py, or a variant.')
  num_steps, config.seed = config.past.num_steps, seed
  of_default = num_steps == revisits.PASTS['recall']
  revisits.read(config, past)
  if not of_default:  # Of :tiny, or the user's.
    config.past.num_steps = num_steps
  folder = pathlib.Path(options.workdir).absolute()
  config.data.dir = str(folder / 'data')
  workdir = folder / f'{past}-{seed}'
  if not (workdir / SUMMARY).exists():
    apart.run('benchmarks.revisits', config, workdir)
  return json.loads((workdir / SUMMARY).read_text())


def main(argv):
  """One run: run.json, workdir."""
  from absl import logging
  from worldsim_jax.train import evaluation
  from worldsim_jax.train import run
  logging.set_verbosity(logging.WARNING)  # JAX tells what backends it lacks.
  config = apart.config(argv[1])
  run.train_and_evaluate(config, argv[2])
  evaluation.evaluate(config, argv[2])


if __name__ == '__main__':
  from worldsim_jax import command_line
  command_line.run(main)

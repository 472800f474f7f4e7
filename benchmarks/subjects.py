"""docs/evaluation.md's table of subjects: what each metric says of each fault.

  python -m benchmarks.subjects runs/quickstart         all subjects, the table
  python -m benchmarks.subjects runs/quickstart gain    one of them, the table
  python -m benchmarks.subjects                         the table only

A column is one `--mode=evaluate` of the quickstart's config in a process of its
own, two to four minutes on two CPU cores; `student` needs a trained run in the
workdir. Its summary.json goes to benchmarks/results/<device>/evaluation/, with
versions and commit.
"""

import json
import pathlib
import subprocess
import sys

from benchmarks import pages
from benchmarks import results
from worldsim_jax import command_line
from worldsim_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs/evaluation.md'
RESULTS = ROOT / 'benchmarks/results'
MEASURED = RESULTS / 'cpu-2/evaluation'  # what the page shows
SUBJECTS = ('student', 'truth', 'copy', 'shuffled', 'noise', 'wrong_actions',
            'gain', 'forgetful')
FIGURES = {  # name: decimals
    'psnr_1': 1, 'psnr_16': 1, 'psnr_256': 1, 'ssim_1': 2, 'lpips_1': 3,
    'lpips_16': 3, 'action_discrimination': 2, 'turn_error_1': 1,
    'odometry_accepted_1': 2, 'camera_rpe_rotation': 1,
    'track_end_point_error': 1, 'track_visibility_f1': 2,
    'drift_brightness': 2, 'drift_detail': 2, 'fvd_late': 0, 'kvd_late': 1,
    'revisit_consistency_5s': 1, 'revisit_correctness_5s': 1,
    'revisit_correctness_20s': 1, 'physics_iq': 0, 'wall_accuracy': 2,
    'floor_accuracy': 2}


def evaluate(subject: str, workdir: str):
  """Evaluates a subject and keeps its figures."""
  command = ['-m', 'worldsim_jax.main', '--mode=evaluate',
             '--config=configs/quickstart.py', f'--workdir={workdir}',
             f'--config.evaluate.subject={subject}']
  done = subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
  if done.returncode:
    raise UserError(f'{subject}: --mode=evaluate failed, see above.')
  summary = pathlib.Path(workdir, 'evaluation', subject, 'summary.json')
  results.write(RESULTS, f'evaluation/{subject}', {
      'command': ' '.join(['python', *command]),
      'environment': results.environment(),
      'summary': json.loads(summary.read_text())})


def table() -> str:
  """Markdown: a row for each figure, a column for each subject."""
  found = {}
  for subject in SUBJECTS:
    path = MEASURED / f'{subject}.json'
    if path.exists():
      found[subject] = json.loads(path.read_text())
  rows = []
  for name, decimals in FIGURES.items():
    ceiling = [f['summary'].get(f'{name}_real') for f in found.values()]
    rows.append([f'`{name}`', *(
        _number(f['summary'].get(name), decimals) for f in found.values()),
                 _number(ceiling[0] if ceiling else None, decimals)])
  commits = sorted({f['environment']['commit'] for f in found.values()})
  return (pages.markdown(['', *found, 'real'], rows)
          + f'\nMeasured at {", ".join(commits)}.\n')


def _number(value, decimals) -> str:
  return '-' if value is None else f'{value:.{decimals}f}'


def main(argv):
  workdir, chosen = argv[1:2], argv[2:]
  unknown = sorted(set(chosen) - set(SUBJECTS))
  if unknown:
    raise UserError(f'{unknown[0]!r} is not one of {", ".join(SUBJECTS)}.')
  for subject in chosen or (SUBJECTS if workdir else ()):
    evaluate(subject, workdir[0])
  pages.write(PAGE, 'subjects', {'subjects': table()})


if __name__ == '__main__':
  command_line.run(main)

"""`--mode=evaluate`: one report on one subject, whatever can be measured.

A section that cannot be measured (too few films, a package that is not
installed, a map that does not exist) says so in one line, in the report and in
summary.json, and the others are measured all the same.
"""

from collections.abc import Callable
from collections.abc import Mapping
import time

from etils import epath

from worldsim_jax.data import navigator
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import exports
from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate import films as film_files
from worldsim_jax.evaluate import report
from worldsim_jax.evaluate.figures import Section
from worldsim_jax.evaluate.sections import attributes
from worldsim_jax.evaluate.sections import drift
from worldsim_jax.evaluate.sections import exposure
from worldsim_jax.evaluate.sections import fidelity
from worldsim_jax.evaluate.sections import following
from worldsim_jax.evaluate.sections import memory
from worldsim_jax.evaluate.sections import motion
from worldsim_jax.evaluate.sections import physics
from worldsim_jax.evaluate.sections import shape
from worldsim_jax.evaluate.sections import speed
from worldsim_jax.evaluate.trial import Trial

# In the order of the report; config.evaluate.sections picks some.
SECTIONS: Mapping[str, Callable[[Trial], Section]] = {
    'fidelity': fidelity.measure,
    'following': following.measure,
    'motion': motion.measure,
    'drift': drift.measure,
    'memory': memory.measure,
    'shape': shape.measure,
    'physics': physics.measure,
    'attributes': attributes.measure,
    'exposure': exposure.measure,
    'speed': speed.measure,
}
_COUNTS = ('walks', 'walk_frames')


def check_config(evaluate):
  """Raises UserError for a config.evaluate that names what there is not."""
  for key, known in (('sections', SECTIONS), ('exports', exports.BENCHMARKS)):
    for name in evaluate[key]:
      if name not in known:
        raise UserError(
            f'config.evaluate.{key}: {name!r} is not one of {tuple(known)}.'
        )
  if evaluate.walk_policy not in navigator.PLAYERS:
    raise UserError(
        f'config.evaluate.walk_policy={evaluate.walk_policy!r} is not one of '
        f'{tuple(navigator.PLAYERS)}.'
    )
  for key in _COUNTS:
    if evaluate[key] < 1:
      raise UserError(
          f'config.evaluate.{key}={evaluate[key]} must be at least 1.'
      )


def evaluate(trial: Trial, folder, config) -> dict:
  """Measures a subject; writes report.html, summary.json and films/*.mp4.

  Args:
    trial: the subject and its films.
    folder: for the results.
    config: of the run, for the report.

  Returns:
    The figures of summary.json: every number by name, with its ends `_low` and
    `_high`, its sample size `_n`, and `_real`, what the true future scores.
  """
  folder = epath.Path(folder)
  page = report.Report(f'Evaluation of {trial.name}', folder=folder)
  summary = {'subject': trial.name}
  measured = measure(trial)
  page.section('Overview')
  page.text(
      'Every number has a bootstrap interval of 95 % that resamples maps, its '
      'sample size, and what the true future scores in the same measurement.'
  )
  page.table(
      'Sections',
      ['section', 'figures', 'seconds', 'not measured'],
      [
          [name, len(section.figures), seconds, section.missing]
          for name, (section, seconds) in measured.items()
      ],
  )
  for name, (section, _) in measured.items():
    _add(page, section, folder, config.data.frames_per_second)
    for figure in section.figures:
      summary |= figure.summary()
    if section.missing:
      summary[f'{name}_not_measured'] = section.missing
  summary |= _export(trial, folder, page)
  page.section('Configuration')
  page.config(config)
  page.section('Versions')
  page.versions()
  page.write(folder / 'report.html')
  report.write_summary(folder / 'summary.json', summary)
  return summary


def measure(trial: Trial) -> dict[str, tuple[Section, float]]:
  """The sections of config.evaluate.sections, with the seconds of each."""
  chosen = tuple(trial.config.evaluate.sections) or tuple(SECTIONS)
  measured = {}
  for name in chosen:
    begin = time.perf_counter()
    try:
      section = SECTIONS[name](trial)
    except UserError as e:
      section = Section(name.capitalize(), missing=str(e))
    measured[name] = section, time.perf_counter() - begin
    print(
        f'  {name:<12} {measured[name][1]:6.1f} s  '
        f'{section.missing or f"{len(section.figures)} figures"}'
    )
  return measured


def by_name(measured) -> dict[str, figures.Figure]:
  """All figures of `measure` by name."""
  return {
      figure.name: figure
      for section, _ in measured.values()
      for figure in section.figures
  }


def _export(trial, folder, page) -> dict[str, str]:
  """Films for other benchmarks; lines for summary.json on what is not there."""
  failed = {}
  if trial.config.evaluate.exports:
    page.section('Films in the layout of other benchmarks')
  for name in trial.config.evaluate.exports:
    try:
      path = exports.write(trial, folder, name)
      page.text(f'{name}: {path}')
    except UserError as e:
      failed[f'{name}_not_written'] = str(e)
      page.text(f'{name}: not written: {e}')
  return failed


def _add(page, section, folder, frames_per_second):
  page.section(section.heading)
  if section.missing:
    page.text(f'Not measured: {section.missing}')
  if section.figures:
    page.table(
        section.heading,
        ['figure', 'value', 'low', 'high', 'n', 'true future', 'unit'],
        [
            [f.name, f.value, f.low, f.high, f.count, f.real, f.unit]
            for f in section.figures
        ],
    )
  for title, columns, rows in section.tables:
    page.table(title, columns, rows)
  for plot in section.plots:
    page.plot(**plot)
  for note in section.notes:
    page.text(note)
  paths = film_files.write_films(
      folder / 'films', section.films, frames_per_second
  )
  for title, path in paths.items():
    page.film(title, path)

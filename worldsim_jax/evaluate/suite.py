"""`--mode=evaluate`: one report on one subject, whatever can be measured.

A section that cannot be measured (too few films, a package that is not
installed, a map that does not exist) says so in one line, in the report and in
summary.json, and the others are measured all the same.
"""

from collections.abc import Callable
from collections.abc import Mapping
import time
import traceback

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
from worldsim_jax.evaluate.sections import recall
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
    'recall': recall.measure,
    'shape': shape.measure,
    'physics': physics.measure,
    'attributes': attributes.measure,
    'exposure': exposure.measure,
    'speed': speed.measure,
}
_LEAST = {'walks': 1, 'walk_frames': 1, 'seed': 0}


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
  for key, least in _LEAST.items():
    if evaluate[key] < least:
      raise UserError(
          f'config.evaluate.{key}={evaluate[key]} must be at least {least}.'
      )


def evaluate(trial: Trial, folder, config) -> dict:
  """Measures a subject; writes report.html, summary.json and films/*.mp4.

  Args:
    trial: the subject and its films.
    folder: for the results.
    config: of the run, for the report.

  Returns:
    The figures of summary.json: every number by name, with the ends of its
    interval `_low` and `_high`, its sample size `_n` and that of independent
    maps `_maps`, and `_real`, what the true future scores.

  Raises:
    Exception: whatever a section raised but UserError, once all is written.
  """
  folder = epath.Path(folder)
  page = report.Report(f'Evaluation of {trial.name}', folder=folder)
  summary = {'subject': trial.name}
  measured = measure(trial)
  page.section('Overview')
  page.text(
      'Low and high are a bootstrap interval of 95 % that resamples maps, '
      'where a number has one; n is its sample size. True future: what that '
      'scores in the same measurement, where it can be put to it.'
  )
  page.table(
      'Sections',
      ['section', 'figures', 'seconds', 'not measured'],
      [
          [name, len(section.figures), seconds, section.not_measured]
          for name, (section, seconds) in measured.items()
      ],
  )
  if (folder / 'films').exists():  # Of an earlier evaluation.
    (folder / 'films').rmtree()
  for name, (section, _) in measured.items():
    _add(page, section, folder, config.data.frames_per_second)
    for figure in section.figures:
      summary |= figure.summary()
    if section.not_measured:
      summary[f'{name}_not_measured'] = section.not_measured
  summary |= _export(trial, folder, page)
  page.section('Configuration')
  page.config(config)
  page.section('Versions')
  page.versions()
  page.write(folder / 'report.html')
  report.write_summary(folder / 'summary.json', summary)
  for section, _ in measured.values():
    if section.error:
      raise section.error
  return summary


def measure(trial: Trial) -> dict[str, tuple[Section, float]]:
  """The sections of config.evaluate.sections, with the seconds of each."""
  measured = {}
  for name in trial.config.evaluate.sections or SECTIONS:
    begin = time.perf_counter()
    measured[name] = (_measured(name, trial), time.perf_counter() - begin)
    section, seconds = measured[name]
    told = section.missing or f'{len(section.figures)} figures'
    print(f'  {name:<12} {seconds:6.1f} s  {told}')
  return measured


def _measured(name, trial) -> Section:
  """A section; one that fails must not cost the others."""
  try:
    return SECTIONS[name](trial)
  except UserError as e:
    return Section(name.capitalize(), missing=str(e))
  except Exception as e:  # Told now, and raised when the rest is written.
    traceback.print_exc()
    line = f'{type(e).__name__}: {e}'.partition('\n')[0]
    return Section(name.capitalize(), missing=f'failed: {line}', error=e)


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
        ['figure', 'value', 'low', 'high', 'n', 'maps', 'true future', 'unit'],
        [
            [f.name, f.value, f.low, f.high, f.count, f.maps, f.real, f.unit]
            for f in section.figures
        ],
    )
  for title, columns, rows in section.tables:
    page.table(title, columns, rows)
  for plot in section.plots:
    page.plot(**plot)
  for note in section.notes:
    page.text(note)
  for line in section.lacks:
    page.text(f'Not measured: {line}')
  paths = film_files.write_films(
      folder / 'films', section.films, frames_per_second
  )
  for title, path in paths.items():
    page.film(title, path)

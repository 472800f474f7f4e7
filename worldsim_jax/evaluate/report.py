"""The report of a run: one HTML file that needs nothing else, and summary.json.

  report = Report('Quickstart')
  report.section('Results')
  report.table('Held-out maps', ['clip', 'PSNR (dB)'], [['map 1', 24.1]])
  report.plot('Drift', {'student': (seconds, psnr, low, high)},
              x_label='seconds', y_label='PSNR (dB)')
  report.film('Truth and student', 'films/student.mp4')
  report.write('report.html')

Plots are inline SVG by matplotlib, which saves us from writing axes and ticks;
their colours are CSS variables, so that they follow light and dark mode.
"""

import base64
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import html
import importlib.metadata
import json
import math
import os
import platform
import subprocess

from etils import epath
import jax
import numpy as np

from worldsim_jax import errors
from worldsim_jax.evaluate import report_style
from worldsim_jax.storage import paths

_PACKAGES = (
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'worldsim_jax',
)
_MAX_EMBEDDED_BYTES = 32 * 2**20  # A page of more opens slowly.
_OPEN_CONFIG_LINES = 20
_NARROW_COLUMNS = 4  # A table of more takes the page's width.

# Of the table of stages: (name in metrics.jsonl, heading, what 1 unit is).
_STAGE_COLUMNS = (
    ('seconds_per_step', 's/step', 1.0),
    ('tokens_per_second', 'tokens/s', 1.0),
    ('flops_per_second', 'TFLOP/s', 1e12),
    ('mfu', 'MFU (%)', 0.01),
    ('memory_gib', 'memory (GiB)', 1.0),
)


class Report:
  """A page of sections; tables, plots and films go to the newest one.

  A film that is too big to embed is linked, relative to `folder`.
  """

  def __init__(self, title: str, folder=None):
    self._title = title
    self._folder = folder
    self._sections = []  # (heading, [html])
    self._num_plots = 0

  def section(self, heading: str):
    self._sections.append((heading, []))

  def text(self, paragraph: str):
    self._add(f'<p>{html.escape(paragraph)}</p>')

  def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence]):
    """Numbers get four significant digits, None and NaN a dash."""
    for row in rows:
      if len(row) != len(columns):
        raise ValueError(
            f'table {title!r}: a row of {len(row)} under {len(columns)} columns'
        )
    is_number = [
        bool(rows)
        and all(
            report_style.is_number(row[i]) or row[i] is None for row in rows
        )
        for i in range(len(columns))
    ]
    style = [' class="number"' if number else '' for number in is_number]
    head = ''.join(
        f'<th scope="col"{s}>{html.escape(str(column))}</th>'
        for s, column in zip(style, columns)
    )
    body = ''.join(
        '<tr>'
        + ''.join(
            f'<td{s}>{html.escape(report_style.format_value(cell))}</td>'
            for s, cell in zip(style, row)
        )
        + '</tr>'
        for row in rows
    )
    wide = ' wide' if len(columns) > _NARROW_COLUMNS else ''
    # A region that scrolls must be reachable by keyboard.
    self._add(
        f'<div class="scroll{wide}" tabindex="0" role="region" '
        f'aria-label="{html.escape(title)}"><table>'
        f'<caption>{html.escape(title)}</caption>'
        f'<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )

  def plot(
      self,
      title: str,
      series: Mapping[str, tuple],
      x_label: str,
      y_label: str,
      log_x: bool = False,
      log_y: bool = False,
  ):
    """Curves by name: (x, y) or, with a confidence band, (x, y, low, high)."""
    self._num_plots += 1
    svg = report_style.plot_svg(
        series, x_label, y_label, log_x, log_y, prefix=f'plot{self._num_plots}'
    )
    label = f'{title}: {y_label} over {x_label} for {", ".join(series)}'
    self._add(
        f'<figure><figcaption>{html.escape(title)}</figcaption>'
        f'<div role="img" aria-label="{html.escape(label)}">{svg}</div>'
        '</figure>'
    )

  def film(self, title: str, mp4_path):
    """Embeds an mp4, or links it where it would make the page too heavy."""
    path = epath.Path(mp4_path)
    label = html.escape(title)
    data = path.read_bytes()
    if len(data) > _MAX_EMBEDDED_BYTES:
      source = os.fspath(path)
      if self._folder is not None:
        source = os.path.relpath(source, os.fspath(self._folder))
    else:
      source = f'data:video/mp4;base64,{base64.b64encode(data).decode()}'
    self._add(
        f'<figure class="film"><figcaption>{label}</figcaption>'
        '<video controls loop muted autoplay playsinline '
        f'aria-label="{label}" src="{html.escape(source)}"></video></figure>'
    )

  def config(self, config_dict: Mapping):
    """Every key of a (nested) configuration, folded away if there are many."""
    lines = [f'{key} = {value!r}' for key, value in _flatten(config_dict)]
    opened = ' open' if len(lines) <= _OPEN_CONFIG_LINES else ''
    self._add(
        f'<details{opened}><summary>{len(lines)} keys</summary>'
        f'<pre tabindex="0">{html.escape(chr(10).join(lines))}</pre></details>'
    )

  def versions(self):
    self.table(
        'Software and device', ['what', 'version'], list(versions().items())
    )

  def html(self) -> str:
    """The whole page."""
    title = html.escape(self._title)
    links = ''.join(
        f'<li><a href="#section{i}">{html.escape(heading)}</a></li>'
        for i, (heading, _) in enumerate(self._sections)
    )
    sections = ''.join(
        f'<section id="section{i}"><h2>{html.escape(heading)}</h2>'
        f'<div class="items">{"".join(items)}</div></section>'
        for i, (heading, items) in enumerate(self._sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        # Without it browsers ask the folder's server for an icon.
        '<link rel="icon" href="data:,">'
        f'<title>{title}</title><style>{report_style.CSS}</style></head>'
        f'<body><header><h1>{title}</h1><nav aria-label="Contents"><ul>{links}'
        f'</ul></nav></header><main>{sections}</main></body></html>\n'
    )

  def write(self, path):
    write_atomically(path, self.html())

  def _add(self, item):
    if not self._sections:
      self.section('Overview')
    self._sections[-1][1].append(item)


def training_report(
    workdir,
    summary: Mapping,
    films: Mapping,
    config: Mapping,
    drift: Mapping[str, Mapping[str, tuple]] | None = None,
    x_label: str = 'frame',
):
  """Writes <workdir>/report.html and summary.json of a finished run.

  Args:
    workdir: holds metrics.jsonl; a missing one leaves the curves out.
    summary: the final numbers by name, flat.
    films: mp4 paths by title.
    config: the run's configuration, a ConfigDict or a dict.
    drift: by metric ('PSNR (dB)'), the curves by model: (x, y) or
      (x, y, low, high) over the horizon.
    x_label: the horizon's unit.
  """
  workdir = epath.Path(workdir)
  report = Report(f'{workdir.name}: training report', folder=workdir)
  report.section('Results')
  report.table('Final numbers', ['name', 'value'], list(summary.items()))
  if drift:
    report.section('Drift over the horizon')
    for metric, curves in drift.items():
      report.plot(metric, curves, x_label, metric)
  if films:
    report.section('Films')
    for title, path in films.items():
      report.film(title, path)
  stages = read_metrics(workdir)
  if stages:
    report.section('Training')
    _add_training(report, stages)
  report.section('Configuration')
  report.config(config)
  report.section('Versions')
  report.versions()
  report.write(workdir / 'report.html')
  write_summary(workdir / 'summary.json', summary)


def _add_training(report, stages):
  table = {
      'stage': list(stages),
      'steps': [r[-1]['step'] + 1 for r in stages.values()],
  }
  for name, heading, unit in _STAGE_COLUMNS:
    # A median, because other programs interrupt.
    values = [
        [r[name] / unit for r in records if r.get(name) is not None]
        for records in stages.values()
    ]
    if any(values):
      table[heading] = [np.median(v) if v else None for v in values]
  report.table(
      'Stages (medians over logged steps)',
      list(table),
      list(zip(*table.values())),
  )
  for stage, records in stages.items():
    losses = sorted({name for r in records for name in r if 'loss' in name})
    series = {}
    for name in losses:
      points = [
          (r['step'], r[name])
          for r in records
          if report_style.is_finite(r.get(name))
      ]
      if points:
        series[name] = tuple(np.array(points).T)
    if series:
      values = np.concatenate([y for _, y in series.values()])
      spread = values.min() > 0 and values.max() > 20 * values.min()
      report.plot(stage, series, 'step', 'loss', log_y=bool(spread))


def write_summary(path, summary: Mapping):
  """Flat JSON: six significant digits; NaN and infinity become null."""
  plain = {}
  for name, value in summary.items():
    if np.ndim(value) or isinstance(value, Mapping):
      raise ValueError(f'summary must be flat, but {name} is {value!r}')
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
      value = value.item()
    if isinstance(value, float):
      value = float(f'{value:.6g}') if math.isfinite(value) else None
    plain[name] = value
  write_atomically(path, json.dumps(plain, indent=2) + '\n')


def versions() -> dict[str, str]:
  """What ran: Python, the packages, the devices and our own commit."""
  found = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = 'not installed'
  devices = jax.devices()
  found['device'] = f'{len(devices)} x {devices[0].device_kind}'
  revision = commit()
  if revision:
    found['commit'] = revision
  return found


def commit() -> str | None:
  """Of the checkout that the package is in, and whether its code was changed.

  Results of benchmarks are no change. $COMMIT tells a machine that has the
  files without the repository. None where nobody knows.
  """
  if 'COMMIT' in os.environ:
    return os.environ['COMMIT']
  root = os.path.dirname(os.path.dirname(os.path.abspath(errors.__file__)))
  if not os.path.exists(os.path.join(root, '.git')):
    return None  # Installed; a repository further up is somebody else's.
  try:
    revision = _git(root, 'rev-parse', '--short=12', 'HEAD')
    changes = _git(
        root, 'status', '--porcelain', '--', '.', ':!benchmarks/results'
    )
  except (OSError, subprocess.SubprocessError):  # No git, or a slow disk.
    return None
  return revision + (' with changes' if changes else '')


def _git(root: str, *arguments: str) -> str:
  done = subprocess.run(
      ['git', '-C', root, *arguments],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
  )
  return done.stdout.strip()


def _flatten(config, prefix=''):
  items = config.to_dict() if hasattr(config, 'to_dict') else config
  for key, value in items.items():
    if isinstance(value, Mapping) and value:
      yield from _flatten(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


def read_metrics(workdir) -> dict[str, list[dict]]:
  """The records of metrics.jsonl by stage, in the order that they ran."""
  path = epath.Path(workdir) / 'metrics.jsonl'
  stages = {}
  for line in path.read_text().splitlines() if path.exists() else ():
    record = parse_record(line)
    if record is not None:
      stages.setdefault(record['stage'], []).append(record)
  return stages


def write_atomically(path, text: str):
  """Replaces a file in one go: a reader sees the old text or the new."""
  with named_write_errors(path):
    paths.write_text(path, text)


@contextlib.contextmanager
def named_write_errors(path):
  try:
    yield
  except (OSError, *paths.remote_errors()) as error:
    reason = getattr(error, 'strerror', None) or error
    raise errors.UserError(
        f'cannot write {path}: {reason}. Make room or choose '
        'another --workdir, then run the same command to resume.'
    ) from error


def parse_record(line):
  """A record, or None for the half line that kill -9 leaves behind."""
  try:
    record = json.loads(line)
  except json.JSONDecodeError:
    return None
  is_record = isinstance(record, dict) and {'stage', 'step'} <= record.keys()
  return record if is_record else None

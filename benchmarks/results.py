"""Where a benchmark's figures go: a table, and a JSON file per device.

  <out>/<device>/<name>.json, device as in 'cpu-2', 'nvidia-h100-80gb-hbm3'
"""

import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import sys

import jax

from worldsim_jax.evaluate import report
from worldsim_jax.train import metrics

TABLE_COLUMNS = 120  # A wider table is turned on its side.
GIB = 2**30
PYTORCH = ('torch', 'diffusers')  # Named where a benchmark imported them.


def device_slug() -> str:
  """The folder of this machine's results."""
  device, count = jax.devices()[0], jax.device_count()
  if device.platform == 'cpu':
    return f'cpu-{_cores()}'
  slug = re.sub('[^a-z0-9]+', '-', device.device_kind.lower()).strip('-')
  return slug if count == 1 else f'{slug}-x{count}'


def environment() -> dict:
  """What the figures depend on besides the code's arguments."""
  used, total = metrics.memory()
  now = datetime.datetime.now(datetime.timezone.utc)
  found = {'commit': 'unknown'} | report.versions()
  found.pop('device')
  for package in PYTORCH:
    if package in sys.modules:
      found[package] = importlib.metadata.version(package)
  return {
      'device': device_slug(), 'device_kind': jax.devices()[0].device_kind,
      'device_count': jax.device_count(), 'processor': _processor(),
      'date': now.isoformat(timespec='seconds'), **found,
      # Of the device, its peak; of a CPU, the process's memory now.
      'memory_gib': round(used / GIB, 3),
      'memory_available_gib': round(total / GIB, 3),
      'load_average_1_minute': round(os.getloadavg()[0], 2)}


def _processor() -> str:
  """What the host computes with: its model, and how many cores are ours."""
  cpuinfo = pathlib.Path('/proc/cpuinfo')  # Linux only.
  text = cpuinfo.read_text() if cpuinfo.exists() else ''
  names = re.findall(r'model name\s*: (.*)', text)
  return f'{names[0] if names else platform.processor()}, {_cores()} cores'


def _cores() -> int:
  """Those that this process may use."""
  # macOS cannot pin a process to cores.
  own = getattr(os, 'sched_getaffinity', lambda _: range(os.cpu_count()))
  return len(own(0))


def write(out, name: str, result: dict) -> pathlib.Path:
  """Writes <out>/<device>/<name>.json in one go; returns its path."""
  path = pathlib.Path(out) / result['environment']['device'] / f'{name}.json'
  report.write_atomically(path, json.dumps(result, indent=2) + '\n')
  return path


def describe(environment) -> str:
  """One line about where the figures come from."""
  kind, count = environment['device_kind'], environment['device_count']
  versions = ', '.join(
      f'{name} {environment[name]}'
      for name in ('jax', 'jaxlib', 'flax', *PYTORCH, 'python', 'commit')
      if name in environment)
  return (f'{environment["device"]} ({count} x {kind}), {versions}, '
          f'{environment["date"]}')


def table(rows) -> str:
  """Aligned text: a line per row, or where that is too wide, a column."""
  names = list(dict.fromkeys(name for row in rows for name in row))
  lines = [names] + [[_text(row.get(name)) for name in names] for row in rows]
  text = _align(lines)
  if len(text.splitlines()[0]) > TABLE_COLUMNS:
    text = _align([list(column) for column in zip(*lines)])
  return text


def _align(lines) -> str:
  widths = [max(map(len, column)) for column in zip(*lines)]
  return '\n'.join(
      '  '.join([line[0].ljust(widths[0])] + [
          cell.rjust(width) for cell, width in zip(line[1:], widths[1:])])
      for line in lines)


def _text(value) -> str:
  if value is None:
    return '-'
  if isinstance(value, float) and math.isfinite(value):
    return f'{value:.4g}'
  return str(value)

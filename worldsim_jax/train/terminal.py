"""One aligned line per logged step, in plain ASCII.

  teacher      [##........]  120/600  loss 0.0431  0.21 s/step  left 01:40

On a terminal the same line is also redrawn in place between logged steps; in
a pipe or a log file only the logged lines appear.
"""

import shutil
import sys
import time

_SECONDS_BETWEEN_LINES = 2.0
_SECONDS_BETWEEN_REDRAWS = 0.1
_PREFIXES = ((1e15, 'P'), (1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k'))


def number(value: float) -> str:
  """Three significant digits: 0.0431, 1.23, 152, 1.0e-05."""
  if value == 0:
    return '0'
  if not 1e-3 <= abs(value) < 1e5:  # Also NaN, for which this is true.
    return f'{value:.1e}'
  if abs(value) >= 99.95:
    return f'{value:.0f}'
  return f'{value:#.3g}'


def si(value: float) -> tuple[str, str]:
  """Three significant digits and an SI prefix: 6900 -> ('6.90', 'k')."""
  for size, prefix in _PREFIXES:
    if abs(value) >= size:
      return number(value / size), prefix
  return number(value), ''


def duration(seconds: float) -> str:
  """01:40, 2:01:40 or 3d 04:10, whichever fits."""
  minutes, seconds = divmod(max(0, round(seconds)), 60)
  hours, minutes = divmod(minutes, 60)
  days, hours = divmod(hours, 24)
  if days:
    return f'{days}d {hours:02d}:{minutes:02d}'
  if hours:
    return f'{hours}:{minutes:02d}:{seconds:02d}'
  return f'{minutes:02d}:{seconds:02d}'


def progress_bar(done: int, total: int, width: int = 10) -> str:
  filled = min(width, width * done // max(1, total))
  return f'[{"#" * filled}{"." * (width - filled)}]'


class ProgressLine:
  """Writes the lines of one stage; `fields` are texts by name, in order."""

  def __init__(self, stage: str, num_steps: int, stream=None):
    self._stage = stage
    self._num_steps = num_steps
    self._stream = sys.stdout if stream is None else stream
    self._redraws = self._stream.isatty()
    self._widths = {}
    self._open_columns = 0  # Of the line that the next write replaces.
    self._last_line = self._last_redraw = -float('inf')

  def log(self, done: int, fields: dict[str, str], force: bool = False):
    """Writes a line that stays, unless one was written moments ago."""
    now = time.monotonic()
    if force or now - self._last_line >= _SECONDS_BETWEEN_LINES:
      self._last_line = now
      self._write(self._format(done, fields))
    else:
      self.redraw(done, fields)

  def redraw(self, done: int, fields: dict[str, str]):
    """Refreshes the line in place; does nothing when not on a terminal."""
    now = time.monotonic()
    if not self._redraws or now - self._last_redraw < _SECONDS_BETWEEN_REDRAWS:
      return
    self._last_redraw = now
    # A line that wraps cannot be replaced by a carriage return.
    columns = shutil.get_terminal_size().columns - 1
    self._write(self._format(done, fields)[:columns], end='')

  def note(self, text: str):
    """Writes a sentence between the lines, such as where a film was saved."""
    self._write(f'{self._stage:<12} {text}')

  def close(self):
    if self._open_columns:
      self._write('', end='')

  def _format(self, done, fields):
    total = str(self._num_steps)
    parts = [
        f'{self._stage:<12} {progress_bar(done, self._num_steps)}',
        f'{done:>{len(total)}}/{total}',
    ]
    for name, text in fields.items():
      # Columns only ever grow, so that successive lines stay aligned.
      self._widths[name] = max(self._widths.get(name, 0), len(text))
      parts.append(f'{text:<{self._widths[name]}}')
    return '  '.join(parts).rstrip()

  def _write(self, text, end='\n'):
    start = ''
    if self._open_columns:
      start = '\r' + ' ' * self._open_columns + '\r'
    self._open_columns = 0 if end else len(text)
    self._stream.write(start + text + end)
    self._stream.flush()

"""A number with all that it takes to judge it, and what a section reports.

Every figure carries its sample size, an interval, and what real frames score in
the same measurement: for an error the floor, for an accuracy the ceiling.
"""

import dataclasses

import numpy as np

from worldsim_jax.evaluate import image_metrics


@dataclasses.dataclass(frozen=True)
class Figure:
  """One number of a report.

  Attributes:
    name: of summary.json.
    value: NaN where nothing could be measured.
    low, high: the ends of its interval of 95 %; NaN where there is none.
    count: of what was averaged: clips, pairs, films.
    real: what the true future scores in its place; None if that is not defined.
    unit: 'dB', '%', 'map units' and so on; '' for none.
    maps: how many independent groups the interval resamples; 0 if it is none.
  """

  name: str
  value: float
  low: float
  high: float
  count: int
  real: float | None = None
  unit: str = ''
  maps: int = 0

  def summary(self) -> dict[str, float | int]:
    """Flat, for summary.json."""
    flat = {
        self.name: self.value,
        f'{self.name}_low': self.low,
        f'{self.name}_high': self.high,
        f'{self.name}_n': self.count,
        f'{self.name}_maps': self.maps,
    }
    return (
        flat if self.real is None else flat | {f'{self.name}_real': self.real}
    )


@dataclasses.dataclass
class Section:
  """A part of the report.

  Attributes:
    heading: of the part.
    figures: its numbers.
    plots: keyword arguments of `Report.plot`.
    films: uint8 [T, H, W, 3] by title.
    notes: sentences on how it was measured, and on what was not.
    tables: (title, columns, rows).
    lacks: a line for each part that could not be measured, and why.
    missing: why nothing could be measured; '' if something was.
    error: what went wrong where nobody expected it.
  """

  heading: str
  figures: list[Figure] = dataclasses.field(default_factory=list)
  plots: list[dict] = dataclasses.field(default_factory=list)
  films: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)
  tables: list[tuple] = dataclasses.field(default_factory=list)
  lacks: list[str] = dataclasses.field(default_factory=list)
  missing: str = ''
  error: Exception | None = None

  @property
  def not_measured(self) -> str:
    """One line, '' if nothing is lacking."""
    return self.missing or '; '.join(self.lacks)


def single(name: str, value, real=None, unit: str = '', count: int = 1):
  """A number without an interval."""
  real = None if real is None else float(real)
  return Figure(name, float(value), np.nan, np.nan, count, real, unit)


def mean(name: str, values, groups, real=None, unit: str = '') -> Figure:
  """The mean of [n] values, NaN left out; intervals resample whole groups.

  Args:
    name: of the figure.
    values: one per clip or pair; NaN where there was nothing to measure.
    groups: [n], the map of each.
    real: [n], the same of the true future; its mean is the figure's `real`.
    unit: see `Figure`.
  """
  return _reduced(
      image_metrics.bootstrap_mean, name, values, groups, real, unit
  )


def median(name: str, values, groups, real=None, unit: str = '') -> Figure:
  """The median, for errors with heavy tails; otherwise as `mean`."""
  return _reduced(
      image_metrics.bootstrap_median, name, values, groups, real, unit
  )


def _reduced(bootstrap, name, values, groups, real, unit):
  values, groups = np.asarray(values, np.float64), np.asarray(groups)
  known = np.isfinite(values)
  if real is not None:
    real = np.asarray(real, np.float64)
    real = real[np.isfinite(real)]
    real = float(bootstrap(real)[0]) if len(real) else np.nan
  if not known.any():
    return Figure(name, np.nan, np.nan, np.nan, 0, real, unit)
  value, low, high = map(float, bootstrap(values[known], groups[known]))
  maps = len(set(map(str, groups[known])))
  if maps < 2:  # One map says nothing of others.
    low = high = np.nan
  return Figure(name, value, low, high, int(known.sum()), real, unit, maps)


def band(values, groups) -> tuple:
  """(mean, low, high), each [T], of curves [n, T]: a plot's band."""
  return image_metrics.bootstrap_mean(values, groups)


def curve(x, values, groups) -> tuple:
  """(x, mean, low, high) for `Report.plot`."""
  return (np.asarray(x), *band(values, groups))

"""How reports look: the page's CSS and the plots' colours.

Plots are drawn in stand-in colours, which `_themed_svg` replaces by CSS
variables, so that one drawing serves light and dark pages. The series colours
keep a contrast of at least 3:1 on their page.
"""

import io
import math
import numbers
import re

import jax
import numpy as np

# Stand-ins that matplotlib draws with, and the variable that replaces each.
_INK, _RULE = '#010203', '#010204'
_SERIES = ('#010211', '#010212', '#010213', '#010214', '#010215', '#010216')
# Shapes of line too: colour alone does not reach every reader.
_DASHES = ('solid', (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))
_MAX_POINTS = 800  # More than the pixels of a curve.

CSS = """
:root{color-scheme:light dark;--page:#fbfbfa;--card:#fff;--ink:#1c1e21;
--faint:#5c6370;--rule:#dcdee2;--link:#0b5cad;--s0:#0b62b0;--s1:#b84a00;
--s2:#0a7d55;--s3:#a0307f;--s4:#7a5c00;--s5:#5a4fcf;
--sans:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,
sans-serif}
@media(prefers-color-scheme:dark){:root{--page:#14161a;--card:#1b1e23;
--ink:#e6e7e9;--faint:#a0a7b2;--rule:#343941;--link:#7db8ff;--s0:#6fb1ff;
--s1:#ff9a57;--s2:#4fcf9d;--s3:#f08cd0;--s4:#e0bf4a;--s5:#aea5ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1.5rem clamp(.75rem,3vw,2rem) 4rem;
background:var(--page);color:var(--ink);font:1rem/1.5 var(--sans)}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.25rem 0 .75rem;padding-top:.75rem;
border-top:1px solid var(--rule)}
a{color:var(--link)}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:0;padding:0;
list-style:none}
.items{display:grid;gap:1rem;align-items:start;
grid-template-columns:repeat(auto-fill,minmax(min(100%,28rem),1fr))}
.items>*{min-width:0;margin:0}
.items>p,.items>details{grid-column:1/-1;max-width:48rem}
figure,.scroll,details{background:var(--card);border:1px solid var(--rule);
border-radius:.5rem;padding:.75rem}
.scroll{overflow-x:auto}
.wide,.film{grid-column:1/-1}
figcaption,caption,summary{font-weight:600;text-align:left;padding:0 0 .5rem}
svg{display:block;width:100%;height:auto;overflow:visible}
video{display:block;max-width:100%;height:auto;margin:auto;
border-radius:.25rem}
table{border-collapse:collapse;width:100%;font-size:.925rem}
th,td{padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--rule);
text-align:left;vertical-align:top}
td{overflow-wrap:break-word;max-width:32rem}
caption{position:sticky;left:0;max-width:calc(100vw - 4.5rem)}
th{color:var(--faint);font-weight:500;white-space:nowrap}
th:last-child,td:last-child{padding-right:0}
tbody tr:last-child td{border-bottom:0}
.number{text-align:right;font-variant-numeric:tabular-nums;
white-space:nowrap}
pre{margin:.25rem 0 0;overflow-x:auto;font-size:.85rem;line-height:1.45}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
@media print{body{max-width:none}figure,.scroll{break-inside:avoid}}
"""


def plot_svg(
    series,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    prefix: str = 'plot',
) -> str:
  """An <svg> without size, script or font; ids start with `prefix`."""
  try:
    import matplotlib
    from matplotlib import figure
  except ImportError as error:
    raise ImportError(
        'Reports need matplotlib: pip install matplotlib'
    ) from error
  with matplotlib.rc_context(_plot_settings(prefix)):
    page = figure.Figure(figsize=(5.2, 3.2), layout='constrained')
    axes = page.add_subplot()
    for i, (name, curve) in enumerate(series.items()):
      x, y, *band = _thin(curve)
      style = _line(i)
      # A single point has no line to see.
      axes.plot(x, y, label=name, marker='o' if len(x) == 1 else None, **style)
      if band:
        axes.fill_between(
            x, *band, alpha=0.18, linewidth=0, color=style['color']
        )
    axes.set(
        xlabel=x_label,
        ylabel=y_label,
        xscale='log' if log_x else 'linear',
        yscale='log' if log_y else 'linear',
    )
    if len(series) > 1:
      longest = max(len(name) for name in series)
      page.legend(
          loc='outside upper left', ncols=min(3, max(1, 66 // (longest + 8)))
      )
    buffer = io.StringIO()
    page.savefig(
        buffer,
        format='svg',
        transparent=True,
        metadata={'Date': None, 'Creator': None},
    )
  return _themed_svg(buffer.getvalue(), prefix)


def format_value(value) -> str:
  """As a reader wants it in a table."""
  if value is None or (is_number(value) and not is_finite(value)):
    return '–'
  if isinstance(value, bool) or not is_number(value):
    return str(value)
  if isinstance(value, numbers.Integral):
    return f'{value:,}'
  value = float(value)
  if value and not 1e-4 <= abs(value) < 1e7:
    return f'{value:.3e}'
  digits = 3 - math.floor(math.log10(abs(value))) if value else 0
  return f'{value:,.{max(0, digits)}f}'


def is_number(value):
  return isinstance(value, numbers.Real) or (
      isinstance(value, (np.ndarray, jax.Array)) and value.ndim == 0
  )


def is_finite(value):
  return value is not None and math.isfinite(value)


def _plot_settings(salt: str) -> dict:
  """Matplotlib's rc parameters; `salt` makes the ids repeatable."""
  return {
      'svg.fonttype': 'none',
      'svg.hashsalt': salt,
      'path.simplify': True,
      'font.size': 11,
      'text.color': _INK,
      'axes.labelcolor': _INK,
      'axes.edgecolor': _RULE,
      'axes.grid': True,
      'grid.color': _RULE,
      'grid.linewidth': 0.8,
      'axes.spines.top': False,
      'axes.spines.right': False,
      'axes.axisbelow': True,
      'xtick.color': _RULE,
      'ytick.color': _RULE,
      'xtick.labelcolor': _INK,
      'ytick.labelcolor': _INK,
      'legend.frameon': False,
      'lines.linewidth': 1.8,
      'lines.solid_capstyle': 'round',
  }


def _line(index: int) -> dict:
  """Colour and dashes of the series at `index`."""
  return {
      'color': _SERIES[index % len(_SERIES)],
      'linestyle': _DASHES[index % len(_DASHES)],
  }


def _themed_svg(svg: str, prefix: str) -> str:
  """Makes matplotlib's SVG file a part of a page."""
  svg = svg[svg.index('<svg') :]  # Drops the XML head and the DTD's address.
  svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
  svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1', svg, count=1)
  svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1', svg, count=1)
  # Ids are global in a page; matplotlib calls every figure figure_1.
  svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
  svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
  svg = re.sub(r'url\(#', f'url(#{prefix}-', svg)
  svg = re.sub(r'font: (\d+)px [^;\"]*', r'font: \1px var(--sans)', svg)
  svg = svg.replace(_INK, 'var(--ink)').replace(_RULE, 'var(--rule)')
  for i, colour in enumerate(_SERIES):
    svg = svg.replace(colour, f'var(--s{i})')
  return svg.strip()


def _thin(curve):
  """Averages neighbours until there are few enough points to draw."""
  arrays = [np.asarray(a, np.float64) for a in curve]
  if len(arrays) not in (2, 4) or len({a.shape for a in arrays}) != 1:
    raise ValueError(
        'a curve is (x, y) or (x, y, low, high) of one length, not '
        f'{[a.shape for a in arrays]}'
    )
  if len(arrays[0]) <= _MAX_POINTS:
    return arrays
  edges = np.linspace(0, len(arrays[0]), _MAX_POINTS + 1).astype(int)[:-1]
  widths = np.diff([*edges, len(arrays[0])])
  return [np.add.reduceat(a, edges) / widths for a in arrays]

"""What `--mode=fit` prints and leaves: lines, a page, flat numbers."""

from worldsim_jax.evaluate import report as reports

GIB, TERA, GIGA = 2**30, 1e12, 1e9
HEADER = (f'{"program":<16} {"args":>7} {"temp":>7} {"total":>7} GiB  '
          f'{"TFLOP":>9}  {"sent":>7} GB  roofline')


def line(f) -> str:
  """One program, as the terminal and the README's table show it."""
  text = (f'{f.program:<16} {f.arguments / GIB:7.2f} '
          f'{f.temporaries / GIB:7.2f} {f.total / GIB:7.2f}      '
          f'{f.flops / TERA:9.2f}  {_sent(f):>7}     '
          f'{describe_roofline(f)}')
  if f.host:
    text += f'  ({f.host / GIB:.2f} GiB on the host)'
  return text + ('' if f.fits else '  DOES NOT FIT')


def _sent(f) -> str:
  return f'{f.sent / GIGA:.2f}' if f.fits else '-'


def describe_roofline(f) -> str:
  """'12.3 s (arithmetic)', with frames/s for what makes frames."""
  times = f.roofline()
  if not times or not f.fits:
    return '-'
  what = max(times, key=times.get)
  rate = f', {f.frames / times[what]:.0f} frames/s' if f.frames else ''
  return f'{times[what]:.3g} s ({what}){rate}'


def describe(sizes) -> str:
  """'fsdp=64', of the axes that are not 1."""
  return ' '.join(f'{k}={v}' for k, v in sizes.items() if v > 1) or 'one chip'


def write(workdir, config, topology: str, fits):
  """The page and the flat numbers, as a run leaves them."""
  workdir.mkdir(parents=True, exist_ok=True)
  page = reports.Report(f'{workdir.name}: fit on {topology}', folder=workdir)
  page.section('Programs, per chip')
  page.table('Memory, work and time at peak', COLUMNS, list(map(row, fits)))
  kinds = [(f.program, kind, *moved[:1], moved.bytes / GIGA, moved.widest)
           for f in fits for kind, moved in f.costs.collectives.items()]
  page.table('Collectives', ['program', 'kind', 'count', 'GB', 'devices'],
             kinds)
  for warning in dict.fromkeys(w for f in fits for w in f.warnings):
    page.text(f'Warning: {warning}')
  page.section('Configuration')
  page.config(config)
  page.section('Versions')
  page.versions()
  page.write(workdir / 'report.html')
  reports.write_summary(workdir / 'summary.json', summary(fits))


COLUMNS = ['program', 'arguments (GiB)', 'temporaries (GiB)', 'total (GiB)',
           'limit (GiB)', 'host (GiB)', 'TFLOP', 'memory (GB)', 'sent (GB)',
           'roofline (s)', 'fits']


def row(f) -> list:
  return [f.program, f.arguments / GIB, f.temporaries / GIB, f.total / GIB,
          f.limit / GIB, f.host / GIB, f.flops / TERA,
          f.costs.memory_bytes / GIGA if f.fits else None,
          f.sent / GIGA if f.fits else None,
          max(f.roofline().values(), default=None) if f.fits else None,
          'yes' if f.fits else 'no']


def summary(fits) -> dict:
  """Flat: '<program>/<what>'."""
  flat = {}
  for f in fits:
    names = [column.replace(' ', '_') for column in COLUMNS[1:]]
    flat |= {f'{f.program}/{name}': value
             for name, value in zip(names, row(f)[1:])}
    for kind, moved in f.costs.collectives.items():
      flat |= {f'{f.program}/{kind}_count': moved.count,
               f'{f.program}/{kind}_bytes': moved.bytes}
    flat |= {f'{f.program}/roofline_{what}_s': seconds
             for what, seconds in f.roofline().items()}
    flat[f'{f.program}/compile_seconds'] = f.compile_seconds
  return flat

"""Tables that scripts put into pages, between two lines:

  <!-- NAME: python -m benchmarks.SCRIPT -->
  <!-- end -->
"""

from collections.abc import Mapping
import pathlib

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import report

END = '<!-- end -->'


def begin(name: str, script: str) -> str:
  """The line above a table."""
  return f'<!-- {name}: python -m benchmarks.{script} -->'


def markdown(names, rows) -> str:
  """A table of columns of these names; cells are texts."""
  line = lambda cells: '| ' + ' | '.join(cells) + ' |\n'
  return line(names) + line(['---'] * len(names)) + ''.join(map(line, rows))


def filled(page: str, script: str, tables: Mapping[str, str]) -> str:
  """The page's text with these tables in their places.

  Raises:
    UserError: if a table has no place.
  """
  for name, table in tables.items():
    above = begin(name, script)
    before, found, rest = page.partition(above)
    _, end, after = rest.partition(END)
    if not found or not end:
      raise UserError(f'the page has no {above} and {END} below it.')
    page = f'{before}{above}\n{table}{end}{after}'
  return page


def write(path: pathlib.Path, script: str, tables: Mapping[str, str]):
  """Puts tables into a page, in one go."""
  report.write_atomically(path, filled(path.read_text(), script, tables))

"""What the TPU compiler schedules: kernels by the bundle, without a TPU.

libtpu writes the final program of a kernel as a list of bundles, instructions
that issue in one cycle, and which units each of them uses. A stretch of bundles
between two labels or loop levels is a *segment*; its length is the number of
cycles that it takes if nothing stalls. Stalls of the matrix unit are not in it:
a segment takes no less than its products do.

`dumping(folder)` is what LIBTPU_INIT_ARGS must be before libtpu is loaded.
"""

import pathlib
import re
from typing import NamedTuple

LEAST = 24  # bundles; shorter segments are glue
_BUNDLE = re.compile(
    r'^\s*(?P<at>0x[0-9a-f]+|0)\s+(?P<label>LH|LB|LE|PB|PF|CT)?\s*:'
    r'\s*(?P<depth>>*)\s*\{')


class Segment(NamedTuple):
  """Bundles that run one after the other.

  Attributes:
    label: of the compiler, such as LB for the head of a loop.
    bundles: how many.
    used: instructions by unit: MXU, VALU, EUP, VLOAD, VSTORE, VSTORE:SPILL...
  """
  label: str
  bundles: int
  used: dict[str, int]


def dumping(folder) -> str:
  """The value of LIBTPU_INIT_ARGS."""
  return f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'


def segments(folder, kernel: str) -> list[Segment]:
  """Those of a kernel that was compiled last, by its name.

  Raises:
    FileNotFoundError: if there is none of that name.
  """
  folder = pathlib.Path(folder)
  program = _newest(folder, rf'-{kernel}\.\d+-\d+-final_bundles')
  usage = _newest(
      folder, rf'-{kernel}\.\d+-\d+-final_hlo-static-per-bundle-utilization')
  lines = usage.read_text().splitlines()
  units = [name.strip() for name in lines[1].split(',')]
  rows = [[int(n) for n in line.split()] for line in lines[4:] if line.strip()]
  found, begin, before = [], 0, None
  for at, label, depth in [*_bundles(program), (len(rows), 'end', -1)]:
    if before is not None and (label or depth != before[1]):
      part = rows[begin:at]
      if len(part) >= LEAST:
        found.append(Segment(before[0], len(part), {
            unit: sum(column) for unit, column in zip(units, zip(*part))}))
      begin, before = at, (label, depth)
    before = before or (label, depth)
  return found


def _bundles(program: pathlib.Path):
  """(number, label, loop depth) of each."""
  with open(program, errors='replace') as file:
    for line in file:
      match = _BUNDLE.match(line)
      if match:
        yield int(match['at'], 16), match['label'] or '', len(match['depth'])


def _newest(folder: pathlib.Path, pattern: str) -> pathlib.Path:
  found = [path for path in folder.iterdir() if re.search(pattern, path.name)]
  if not found:
    raise FileNotFoundError(f'{folder}: no file matches {pattern}')
  return max(found, key=lambda path: path.name)

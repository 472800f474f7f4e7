"""XLA's text of a compiled program, taken apart.

  %name = type opcode(%operand, ...), attributes

in computations `%name (...) -> ... { ... }`, of which one is the entry. A type
is 'bf16[8,128]{1,0:T(8,128)}', or a tuple of them.
"""

import math
import re
from typing import NamedTuple

import numpy as np

_SIZES = {'pred': 1, 's4': 0.5, 'u4': 0.5, 's8': 1, 'u8': 1, 'f8e4m3fn': 1,
          'f8e5m2': 1, 's16': 2, 'u16': 2, 'f16': 2, 'bf16': 2, 's32': 4,
          'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8, 'c64': 8,
          'c128': 16}
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^}]*\})?')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_ASSIGNED = re.compile(r'^\s+(?:ROOT )?%?[\w.\-]+ = ')
_OPCODE = re.compile(r'\s*([\w\-]+)\(')
_NAME = re.compile(r'%([\w.\-]+)')


class Instruction(NamedTuple):
  """A line of a computation."""
  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  is_root: bool


def parse(text):
  """{name: instructions} and the name of the entry."""
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header and ' = ' not in line.split('(', 1)[0]:
      current = computations.setdefault(header[2], [])
      entry = header[2] if header[1] else entry
    elif line.rstrip() == '}':  # A kernel's metadata may begin lines with it.
      current = None
    elif current is not None and _ASSIGNED.match(line):
      instruction = _instruction(line)
      if instruction:
        current.append(instruction)
  return computations, entry


def _instruction(line) -> Instruction | None:
  left, right = line.split(' = ', 1)
  end = _end_of_type(right)
  match = _OPCODE.match(right, end)
  if not match:
    return None
  close = _closing(right, match.end() - 1)
  inside, rest = right[match.end():close], right[close + 1:]
  if match[1] in ('parameter', 'constant'):
    operands, rest = (), inside + ')' + rest
  else:
    operands = tuple(_NAME.findall(inside))
  return Instruction(left.replace('ROOT', '').strip(' %'), right[:end],
                      match[1], operands, rest, 'ROOT' in left)


def _end_of_type(text) -> int:
  return _closing(text, 0) + 1 if text.startswith('(') else text.index(' ')


def _closing(text, start) -> int:
  """Where the parenthesis that opens at `start` closes."""
  depth = 0
  for i in range(start, len(text)):
    depth += (text[i] == '(') - (text[i] == ')')
    if not depth:
      return i
  return len(text)


def _arrays(type_text):
  """(bytes, whether in device memory) of every array of a type."""
  for dtype, shape, layout in _ARRAY.findall(type_text):
    size = _SIZES.get(dtype, 0)
    for dimension in filter(None, shape.split(',')):
      size *= int(dimension)
    yield float(size), 'S(' not in layout


def device_bytes(type_text) -> float:
  """Of a type, what lies in the device's memory."""
  return sum(size for size, in_memory in _arrays(type_text) if in_memory)


def plain_bytes(type_text) -> float:
  """Of a type, wherever it lies."""
  return sum(size for size, _ in _arrays(type_text))


def groups(attributes) -> list[list[int]]:
  """The devices of each replica group, from any of XLA's three notations."""
  text = attributes[attributes.find('replica_groups='):]
  match = re.match(r'replica_groups=\{(\{[\d,{} ]*\})\}', text)
  if match:
    return [[int(d) for d in g.split(',') if d.strip()]
            for g in re.findall(r'\{([\d, ]*)\}', match[1])]
  match = re.match(r'replica_groups=\[(\d+),(\d+)\]<='
                   r'(\[[\d,]+\](?:T\([\d,]+\))?)', text)
  if match:
    return _iota(match[3]).reshape(int(match[1]), int(match[2])).tolist()
  match = re.match(r"replica_groups=mesh\[([^\]]*)\]"
                   r'(?:, device_ids=\(([^ ]*)\))? \{([^}]*)\}', text)
  return _mesh_groups(*match.groups()) if match else []


def _iota(text: str) -> np.ndarray:
  """'[4,2]T(1,0)': device numbers in this shape, then transposed; flat."""
  match = re.fullmatch(r'\[([\d,]+)\](?:T\(([\d,]+)\))?', text)
  dims = [int(d) for d in match[1].split(',')]
  order = range(len(dims))
  if match[2]:
    order = [int(d) for d in match[2].split(',')]
  return np.arange(math.prod(dims)).reshape(dims).transpose(*order).ravel()


def _mesh_groups(mesh: str, device_ids: str | None, joined: str):
  """mesh['a'=2,'b'=4] {'b'}: devices that differ in b only; {'b':(2)2}: in the
  part of b that is two wide, inside of one that is two wide."""
  sizes, names = [], []
  parts = {name: (int(before), int(size)) for name, before, size in re.findall(
      r"'([^']*)':\((\d+)\)(\d+)", joined)}
  wanted = set(re.findall(r"'([^']*)'", joined))
  for name, size in re.findall(r"'([^']*)'=(\d+)", mesh):
    before, own = parts.get(name, (1, int(size)))
    sizes += [before, own, int(size) // (before * own)]
    names += ['', name, '']
  total = math.prod(sizes)
  ids = _iota(device_ids) if device_ids else np.arange(total)
  inner = [i for i, name in enumerate(names) if name in wanted]
  outer = [i for i in range(len(names)) if i not in inner]
  grid = ids.reshape(sizes).transpose(*outer, *inner)
  return grid.reshape(-1, math.prod(sizes[i] for i in inner)).tolist()


def pairs(attributes) -> list[list[int]]:
  """(From, to) of a permutation."""
  match = re.search(r'source_target_pairs=\{(\{[\d,{} ]*\})\}', attributes)
  return [[int(d) for d in g.split(',')]
          for g in re.findall(r'\{(\d+,\d+)\}', match[1])] if match else []

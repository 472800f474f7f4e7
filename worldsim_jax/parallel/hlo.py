"""What a compiled program does, read from XLA's text of it.

XLA's own cost analysis sees a loop's body once, and the collectives not at all.
Here every instruction counts as often as it runs: the text is a call graph of
computations, loops are multiplied by their trip counts, and of a condition the
costliest branch is taken. Loops whose length only the run decides, and
conditions, count as `flops.Rates` says.

Bytes of memory are those that the instructions outside of fusions read and
write in the device's memory (TPU values that live in VMEM, marked S(1), cost
none); a fusion that reads or updates a slice of an array touches the slice. A
kernel counts its arguments once, however often it reads them.

A collective among n devices moves, per device,

  all-gather, reduce-scatter, all-to-all   (n - 1) / n of the whole array
  all-reduce                               twice that
  collective-permute                       the array

which is what the best algorithms on a ring or a torus need. Of a group over
several slices, each slice's devices share what has to come from the others.
libtpu splits such a collective into one within each slice and a transfer by the
hosts, a `send` that names the kind of collective.
"""

import collections
import functools
import re
from typing import NamedTuple

from worldsim_jax.parallel import flops
from worldsim_jax.parallel import hlo_text

COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
               'collective-permute')
_MEGASCALE = 'xla_megascale_runtime'
_NAME = re.compile(r'%([\w.\-]+)')
# They move nothing by themselves.
_FREE = frozenset({
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while',
    'conditional', 'call', 'after-all', 'partition-id', 'replica-id',
    'opt-barrier', 'iota', 'async-start', 'async-update', 'async-done',
    'custom-call-done'})


class Moved(NamedTuple):
  """Collectives of one kind, per device and run.

  Attributes:
    count: how many are run.
    bytes: that a device sends, see the module docstring.
    widest: the most devices that one of them joins.
  """
  count: float
  bytes: float
  widest: int


class Costs(NamedTuple):
  """Of one run of a program, per device.

  Attributes:
    memory_bytes: read and written.
    collectives: `Moved` by kind.
    dcn_bytes: the part of the collectives' bytes that leaves a slice.
    unknown_loops: loops whose length the text does not tell; they count as
      the rates say.
  """
  memory_bytes: float
  collectives: dict[str, Moved]
  dcn_bytes: float
  unknown_loops: int = 0


def costs(text: str, rates: flops.Rates = flops.Rates(),
          devices_per_slice: int | None = None, num_slices: int = 1) -> Costs:
  """Reads `compiled.as_text()`.

  Args:
    text: of a scheduled module.
    rates: of what only the run decides.
    devices_per_slice: the first so many devices are a slice, then the next;
      None for a single slice.
    num_slices: of the program.
  """
  module = _Module(text, rates, devices_per_slice, num_slices)
  memory, moved, dcn = module.total(module.entry)
  return Costs(memory, dict(sorted(moved.items())), dcn, len(module.unknown))


class _Module:
  """The computations by name, and their costs."""

  def __init__(self, text, rates, devices_per_slice, num_slices):
    self._rates = rates
    self._slice, self._slices = devices_per_slice, num_slices
    self.computations, self.entry = hlo_text.parse(text)
    self._types = {name: {i.name: i.type for i in instructions}
                   for name, instructions in self.computations.items()}
    self.unknown = set()  # Loops of unknown length, by condition.
    self.total = functools.cache(self._total)

  def _total(self, name):
    """(memory bytes, Moved by kind, DCN bytes) of one run of a computation."""
    memory, dcn = 0., 0.
    moved = collections.defaultdict(lambda: Moved(0., 0., 0))

    def add(other, times, with_memory=True):
      nonlocal memory, dcn
      memory += times * other[0] * with_memory
      dcn += times * other[2]
      for kind, m in other[1].items():
        have = moved[kind]
        moved[kind] = Moved(have.count + times * m.count,
                            have.bytes + times * m.bytes,
                            max(have.widest, m.widest))

    seen = set()
    for instruction in self.computations[name]:
      opcode = instruction.opcode
      called = self._called(instruction)
      if opcode == 'while':
        add(self.total(called['body']), self._trips(
            called['condition'], instruction.attributes))
      elif opcode == 'conditional':
        add(max(map(self.total, called['branches']), key=lambda c: c[0]),
            self._rates.cond)
      elif opcode == 'fusion':
        # Collectives that overlap with computation: parts of one of them, its
        # begin and its end, may be in several fusions.
        channels = self._channels(called['calls'])
        if not channels or not channels <= seen:
          add(self.total(called['calls']), 1, with_memory=False)
        seen |= channels
      elif 'calls' in called or 'to_apply' in called and opcode == 'call':
        add(self.total(called.get('calls') or called['to_apply']), 1)
      kind = opcode.removesuffix('-start')
      if kind == 'all-reduce' and name.startswith('all-reduce-scatter'):
        kind = 'reduce-scatter'  # A TPU's: what follows keeps a slice of it.
      if kind in COLLECTIVES and not opcode.endswith('-done'):
        bytes_sent, group, outside = self._sent(name, kind, instruction)
        add((0., {kind: Moved(1., bytes_sent, group)}, outside), 1)
      if opcode == 'send' and _MEGASCALE in instruction.attributes:
        kind, sent = self._sent_by_hosts(name, instruction)
        add((0., {kind: Moved(1., sent, self._slices)}, sent), 1)
      if opcode not in _FREE and not opcode.endswith('-done'):
        memory += self._touched(name, instruction)
    return memory, dict(moved), dcn

  @functools.cache
  def _channels(self, name) -> frozenset[str]:
    """The channels of the collectives in a fused computation."""
    found = set()
    for i in self.computations[name]:
      match = re.search(r'channel_id=(\d+)', i.attributes)
      if match and i.opcode.removesuffix('-start') in COLLECTIVES:
        found.add(match[1])
      for inner in self._called(i).values():
        if isinstance(inner, str):
          found |= self._channels(inner)
    return frozenset(found)

  def _called(self, instruction):
    """The computations that an instruction names, by role."""
    found = {}
    for role in ('body', 'condition', 'calls', 'to_apply'):
      match = re.search(rf'\b{role}=%?([\w.\-]+)', instruction.attributes)
      if match and match[1] in self.computations:
        found[role] = match[1]
    match = re.search(r'branch_computations=\{([^}]*)\}',
                      instruction.attributes)
    branches = _NAME.findall(match[1]) if match else re.findall(
        r'(?:true|false)_computation=%?([\w.\-]+)', instruction.attributes)
    if branches:
      found['branches'] = branches
    return found

  def _trips(self, condition: str, attributes: str = '') -> float:
    """Of a loop: i < constant from 0, as JAX's scans are; else by the rates."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', attributes)
    if known:
      return float(known[1])
    constants = {
        i.name: re.search(r'constant\((-?\d+)\)', f'constant({i.attributes}')
        for i in self.computations[condition] if i.opcode == 'constant'}
    for i in self.computations[condition]:
      if i.opcode in ('compare', 'fusion') and i.is_root:
        limits = [constants[o] for o in i.operands if constants.get(o)]
        if limits:
          return float(limits[0][1])
    self.unknown.add(condition)
    return max(self._rates.while_trips, 1.)  # Nothing runs for nothing.

  def _sent(self, computation, kind, instruction):
    """(bytes that a device sends, devices in a group, bytes of it over DCN)."""
    groups = hlo_text.groups(instruction.attributes)
    group = len(groups[0]) if groups else 1
    types = self._types[computation]
    # XLA joins several into one, of as many operands.
    whole = sum(hlo_text.plain_bytes(types.get(o, ''))
                for o in instruction.operands)
    if kind == 'collective-permute':
      groups, group, sent = hlo_text.pairs(instruction.attributes), 2, whole
    else:
      whole *= group if kind == 'all-gather' else 1
      sent = whole * (group - 1) / group * (2 if kind == 'all-reduce' else 1)
    outside = max((self._share_outside(kind, g) for g in groups), default=0.)
    return sent, group, sent * outside

  def _sent_by_hosts(self, computation, instruction):
    """(kind, bytes) of a device's part in a collective between slices."""
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"',
                     instruction.attributes)
    kind = kind[1].lower().replace('_', '-') if kind else ''
    kind = kind if kind in COLLECTIVES else 'collective-permute'
    size = hlo_text.plain_bytes(
        self._types[computation].get(instruction.operands[0], ''))
    others = self._slices - 1
    factor = {'all-reduce': 2 * others / self._slices, 'all-gather': others,
              'collective-permute': 1}.get(kind, others / self._slices)
    return kind, size * factor

  def _share_outside(self, kind, group) -> float:
    """Of what a device of a group sends, the part that leaves its slice."""
    if self._slice is None:
      return 0.
    slices = len({device // self._slice for device in group})
    if slices == 1 or kind == 'collective-permute':
      return float(slices > 1)
    fewest = len(group) / slices
    # All-to-all: to each the same. Else each slice gets what it lacks once,
    # (s - 1) / s of the whole, by all of its devices; of (n - 1) / n in all.
    others = len(group) - fewest
    return others / (len(group) - 1) / (1 if kind == 'all-to-all' else fewest)

  def _touched(self, computation, instruction) -> float:
    """Bytes of device memory that an instruction reads and writes."""
    types = self._types[computation]
    reads = [types.get(o, '') for o in instruction.operands]
    if instruction.opcode == 'fusion':
      inside = re.search(r'calls=%?([\w.\-]+)', instruction.attributes)
      if inside and inside[1] in self.computations:
        return self._fusion(inside[1], reads, instruction.type)
    if instruction.opcode.endswith('-start'):  # (destination, source, ...)
      return hlo_text.device_bytes(instruction.type)
    if instruction.opcode in ('dynamic-slice', 'gather', 'slice'):
      return 2 * hlo_text.device_bytes(instruction.type)
    if instruction.opcode == 'dynamic-update-slice':
      return 2 * hlo_text.device_bytes(reads[1] if len(reads) > 1 else '')
    return sum(map(hlo_text.device_bytes, [instruction.type, *reads]))

  def _fusion(self, name, reads, result) -> float:
    """Of parameters that are only sliced the slices, of updates their size."""
    types, total, updated = self._types[name], 0., 0.
    for i in self.computations[name]:
      if i.opcode == 'dynamic-update-slice' and len(i.operands) > 1:
        updated += hlo_text.device_bytes(i.type)
        total += hlo_text.plain_bytes(types.get(i.operands[1], ''))
      if i.opcode == 'parameter':
        number = int(re.match(r'(\d+)', i.attributes)[1])
        whole = hlo_text.device_bytes(
            reads[number] if number < len(reads) else '')
        total += min(whole, self._read(name, i.name, whole)) if whole else 0.
    return total + max(hlo_text.device_bytes(result) - updated, 0.)

  def _read(self, computation, value, whole) -> float:
    """Bytes that a fusion reads of one of its values; `whole` is all of it."""
    total = 0.
    for i in self.computations[computation]:
      for position, operand in enumerate(i.operands):
        if operand != value:
          continue
        if i.opcode == 'dynamic-slice' and not position:
          total += hlo_text.plain_bytes(i.type)
        elif i.opcode == 'bitcast':
          total += self._read(computation, i.name, whole)
        elif i.opcode == 'fusion':
          inside = self._called(i)['calls']
          total += sum(self._read(inside, p.name, whole)
                       for p in self.computations[inside]
                       if p.opcode == 'parameter'
                       and int(re.match(r'(\d+)', p.attributes)[1]) == position)
        elif i.opcode != 'dynamic-update-slice' or position:
          total += whole  # An update of position 0 is written in place.
    return total

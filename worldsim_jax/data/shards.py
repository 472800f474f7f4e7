"""Record sets in the making: one shard after the other, by any processes.

A split is a number of shards, and what a shard holds depends on its number
alone. Process i of P makes shards i, i + P, ... in

  <key>/<version>/episodes-train.array_record-00003-of-00012   a whole shard
  <key>/<version>/dataset_info.json          written last: the set is complete
  <key>/incomplete.<version>/*.partial       a shard in work
  <key>/incomplete.<version>/*.json          stamps: what whole shards hold

and never makes one again that has a stamp. So a job that was killed loses the
shards in work only, and the set is the same, bit for bit, as if it had not
been. Processes share nothing but the folder: they may run at the same time or
one after the other. Whoever finds all stamps writes the description, which
tfds reads; until then there is no record set.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import socket
from typing import Any
from typing import NamedTuple

from worldsim_jax.data import description
from worldsim_jax.data import shots
from worldsim_jax.errors import UserError

COMPLETE = 'dataset_info.json'
NAMED_DAMAGES = 1000  # in the description; all are counted


class Damaged(NamedTuple):
  """Comes where an episode should, and is counted instead of recorded."""

  message: str


class Share(NamedTuple):
  """Which part of the work is this process's: number `index` of `count`."""

  index: int = 0
  count: int = 1


class Shards(NamedTuple):
  """How a split is made.

  Attributes:
    count: of shards.
    make: (numbers, increasing) -> an iterator, which for each gives an iterator
      of the shard's episodes and Damaged. It is read in order and may read
      ahead.
    size: records of a full shard, where that is known before.
  """

  count: int
  make: Callable[[Sequence[int]], Iterator[Iterator[Any]]]
  size: int | None = None

  def map(self, function) -> 'Shards':
    """Of the same shards, each made by function(its episodes)."""
    return self._replace(make=lambda numbers: map(function, self.make(numbers)))


def of_items(parts: Sequence[Sequence[Any]], work, size=None) -> Shards:
  """Shards of items of work.

  Args:
    parts: the items of each shard.
    work: iterable of items -> for each, in order, its episodes. It is called
      once, so that workers do not idle where a shard ends.
    size: see `Shards`.
  """

  def make(numbers):
    results = iter(work(itertools.chain(*(parts[n] for n in numbers))))
    for number in numbers:
      results_of_shard = itertools.islice(results, len(parts[number]))
      yield itertools.chain.from_iterable(results_of_shard)
    # To the end, where workers are waited for. Python drops what is raised,
    # say by a signal, in a generator that is thrown away before.
    next(results, None)

  return Shards(len(parts), make, size)


def single(make: Callable[[], Iterable[Any]]) -> Shards:
  """All in one shard."""
  return Shards(1, lambda numbers: (iter(make()) for _ in numbers))


def cut(items: Sequence[Any], size_of, limit: float) -> list[list[Any]]:
  """Successive items in parts of at most so much; of at least one item."""
  parts, filled = [], float('inf')
  for item in items:
    size = size_of(item)
    if filled + size > limit:
      parts.append([])
      filled = 0
    parts[-1].append(item)
    filled += size
  return parts


class Progress:
  """What `build` tells as it goes on; this one listens to nothing."""

  def begin(self, expected: int | None, shards: int, finished: int):
    """Expected records, shards of this process, those that are there."""

  def record(self):
    """A record was written."""

  def damaged(self, message: str):
    """Something could not be read."""

  def shard(self):
    """A shard is whole."""


def build(directory: str, splits: dict[str, Shards], share, progress) -> bool:
  """Makes the shards of a process's share; returns whether all are there.

  Raises:
    UserError: if the disk refuses.
  """
  everything = [(s, n) for s, shards in splits.items() for n in range(
      shards.count)]
  mine = everything[share.index :: share.count]
  left = [job for job in mine if _stamp(directory, splits, *job) is None]
  sizes = [splits[split].size for split, _ in left]
  progress.begin(
      None if None in sizes else sum(sizes), len(mine), len(mine) - len(left)
  )
  for split, shards in splits.items():
    numbers = [number for name, number in left if name == split]
    if numbers:
      for episodes, number in zip(shards.make(numbers), numbers):
        name = file_name(split, number, shards.count)
        _write(directory, name, episodes, progress)
        progress.shard()
  return all(_stamp(directory, splits, *job) for job in everything)


def describe(directory: str, splits: dict[str, Shards], key: str, metadata):
  """Writes what makes whole shards a record set.

  Raises:
    UserError: if a split is empty, or shards do not agree in their fields.
  """
  stamps = {
      split: [_stamp(directory, splits, split, n) for n in range(shards.count)]
      for split, shards in splits.items()
  }
  all_stamps = itertools.chain.from_iterable(stamps.values())
  damaged = [m for stamp in all_stamps for m in stamp['damaged']]
  work = work_folder(directory)
  for split, of_split in stamps.items():
    if not sum(stamp['records'] for stamp in of_split):
      why = f': {len(damaged)} damaged, {damaged[0]}' if damaged else ''
      for number in range(len(of_split)):  # Next time it may be otherwise.
        name = file_name(split, number, len(of_split))
        os.remove(os.path.join(work, f'{name}.json'))
        os.remove(os.path.join(directory, name))
      raise UserError(f'{key}, {split}: there is nothing to record{why}')
  about = dict(
      metadata,
      longest_shots={
          split: run_lengths(n for stamp in s for n in stamp['longest'])
          for split, s in stamps.items()
      },
      num_damaged=len(damaged),
      damaged=damaged[:NAMED_DAMAGES],
  )
  description.info(directory, stamps, key, about).write_to_directory(work)
  for name in ('features.json', 'metadata.json', COMPLETE):
    os.replace(os.path.join(work, name), os.path.join(directory, name))


def is_complete(directory: str) -> bool:
  return os.path.exists(os.path.join(directory, COMPLETE))


def sweep(directory: str):
  """Removes what a record set that is complete no longer needs."""
  shutil.rmtree(work_folder(directory), ignore_errors=True)


@contextlib.contextmanager
def alone(directory: str, name: str):
  """Holds a lock that the system releases even if this process is killed."""
  work = work_folder(directory)
  os.makedirs(os.path.dirname(work), exist_ok=True)
  with open(os.path.join(os.path.dirname(work), name), 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.makedirs(work, exist_ok=True)
    yield


def file_name(split: str, number: int, count: int) -> str:
  return f'{description.NAME}-{split}.array_record-{number:05d}-of-{count:05d}'


def run_lengths(values: Iterable[int]) -> list[list[int]]:
  """[3, 3, 5] -> [[3, 2], [5, 1]]: millions of equal films in one pair."""
  return [[v, sum(1 for _ in run)] for v, run in itertools.groupby(values)]


def line(error) -> str:
  """The message in one line of bounded length."""
  return ' '.join(str(error).split())[:200]


def _write(directory, name, episodes, progress):
  """A shard: written, renamed, stamped."""
  work = work_folder(directory)
  own = f'{socket.gethostname()}.{os.getpid()}.partial'
  partial = os.path.join(work, f'{name}.{own}')
  try:
    with _writer(partial, directory) as write:
      stamp = _fill(write, episodes, progress)
    with _named_errors(directory):
      stamp['size'] = _to_disk(partial)
      os.makedirs(directory, exist_ok=True)
      os.replace(partial, os.path.join(directory, name))
      with open(partial, 'w') as f:
        json.dump(stamp, f)
      _to_disk(partial)
      os.replace(partial, os.path.join(work, f'{name}.json'))
  finally:
    with contextlib.suppress(OSError):
      os.remove(partial)


def _fill(write, episodes, progress):
  """Writes all episodes; returns the stamp."""
  stamp = dict(records=0, bytes=0, fields=None, longest=[], damaged=[])
  serialize = None
  for episode in episodes:
    if isinstance(episode, Damaged):
      stamp['damaged'].append(episode.message)
      progress.damaged(episode.message)
      continue
    if serialize is None:
      stamp['fields'] = description.fields_of(episode)
      serialize = description.serializer(stamp['fields'])
    record = serialize(episode)
    write(record)
    stamp['records'] += 1
    stamp['bytes'] += len(record)
    stamp['longest'].append(shots.longest(episode))
    progress.record()
  return stamp


@contextlib.contextmanager
def _writer(path, directory):
  """Yields write(bytes). Only what the file itself raises is the disk's."""
  from array_record.python import array_record_module

  with _named_errors(directory):
    # Groups of one: any record can be read alone.
    writer = array_record_module.ArrayRecordWriter(path, 'group_size:1')

  def write(record):
    with _named_errors(directory):
      writer.write(record)

  try:
    yield write
  except BaseException:
    with contextlib.suppress(RuntimeError):
      writer.close()
    raise
  with _named_errors(directory):
    writer.close()


@contextlib.contextmanager
def _named_errors(directory):
  try:
    yield
  except (OSError, RuntimeError) as e:  # ArrayRecord raises the latter.
    raise UserError(
        f'{directory}: could not write records ({line(e)}); nothing '
        'half-written was left, and the same command goes on from here'
    ) from e


def _to_disk(path) -> int:
  """Waits until the file would survive a power cut; returns its size."""
  with open(path, 'rb') as f:
    os.fsync(f.fileno())
    return os.fstat(f.fileno()).st_size


def _stamp(directory, splits, split, number):
  """What is in a whole shard; None if it has to be made."""
  name = file_name(split, number, splits[split].count)
  try:
    with open(os.path.join(work_folder(directory), f'{name}.json')) as f:
      stamp = json.load(f)
    size = os.path.getsize(os.path.join(directory, name))
  except (OSError, json.JSONDecodeError):
    return None
  return stamp if size == stamp['size'] else None


def work_folder(directory: str) -> str:
  """Beside a record set, while it is made."""
  parent, version = os.path.split(directory)
  return os.path.join(parent, f'incomplete.{version}')

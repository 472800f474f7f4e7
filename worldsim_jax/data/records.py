"""Episodes on disk: ArrayRecord files that tfds can read.

A record set is a folder `<data_dir>/episodes/<key>/<version>`, with a train and
a test split. The key ends in a hash of everything that the records depend on:
asking for the same set again finds it, asking for another builds another. It is
made by `shards`, so what a killed build left is used by the next one, and only
a set that is whole can be opened.

Arrays are stored as raw bytes, 64x48 frames at 9.2 kB each. `data_dir` is a
folder of this machine, or one that machines share (NFS, a mounted bucket).
"""

import bisect
from concurrent import futures
import functools
import hashlib
import itertools
import json
import os
import resource

import numpy as np

from worldsim_jax.data import description
from worldsim_jax.data import shards as shards_lib
from worldsim_jax.data import shots
from worldsim_jax.data import workers
from worldsim_jax.errors import UserError

# Part of every key: raise it when equal configurations give other episodes.
VERSION = '1.0.1'
ALONE = shards_lib.Share()
READERS = 4  # threads that read ahead
RECORDS_PER_SHARD = 256  # of a derived set


class Source:
  """Random access to the episodes of one split: len(), [i] -> episode."""

  def __init__(self, directory: str, split: str):
    """Opens a folder that `write` returned.

    Raises:
      UserError: if it is no record set, lacks the split, or is damaged.
    """
    self.directory, self.split = directory, split
    builder = _open_builder(directory)
    if split not in builder.info.splits:
      raise UserError(
          f'{directory} has no split {split!r}, a run needs train and test; it '
          f'has {", ".join(builder.info.splits)}'
      )
    info = builder.info.splits[split]
    self.files = [str(path) for path in info.filepaths]
    self.shapes = {  # by field; None for T, () for strings and numbers
        name: feature.shape for name, feature in builder.info.features.items()
    }
    self.metadata = dict(builder.info.metadata)
    self._shard_ends = list(itertools.accumulate(info.shard_lengths))
    _allow_open_files(len(self.files))
    self._records = builder.as_data_source(split)
    with futures.ThreadPoolExecutor(4 * READERS) as pool:
      # A truncated file should fail now, not in an hour.
      list(pool.map(lambda end: self[end - 1], self._shard_ends))

  def __len__(self) -> int:
    return self._shard_ends[-1]

  def __getitem__(self, index: int) -> dict:
    if not -len(self) <= index < len(self):
      raise IndexError(f'{index} of {len(self)} episodes')
    try:
      record = self._records[index % len(self)]
    except (RuntimeError, OSError, ValueError) as e:
      shard = bisect.bisect_right(self._shard_ends, index % len(self))
      raise _damaged(self.files[shard], self.directory, e) from e
    return {name: self._value(name, value) for name, value in record.items()}

  def _value(self, name, value):
    if isinstance(value, bytes):
      return value.decode()
    length = self.metadata.get('padded', {}).get(name)
    if length is None:
      return value
    rest = [(0, length - len(value))] + [(0, 0)] * (value.ndim - 1)
    return np.pad(value, rest)

  @functools.cached_property
  def longest_shots(self) -> np.ndarray:
    """Frames of the longest shot of every episode."""
    runs = self.metadata.get('longest_shots', {}).get(self.split)
    if runs is None:  # Older sets did not count them: they are read, once.
      return np.array([shots.longest(self[i]) for i in range(len(self))])
    values, counts = np.array([np.append(run, 1)[:2] for run in runs]).T
    return np.repeat(values, counts)

  def __repr__(self):
    return f'Source({self.directory!r}, {self.split!r})'


def key_of(name: str, content: dict) -> str:
  """A folder name: readable, and different when any of the content is."""
  text = json.dumps([VERSION, content], sort_keys=True)
  return f'{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}'


def folder(data_dir: str, key: str) -> str:
  """Where the record set of a key is, or will be."""
  return os.path.join(data_dir, description.NAME, key, VERSION)


def is_complete(directory: str) -> bool:
  """Whether a folder is a whole record set."""
  return shards_lib.is_complete(directory)


def write(
    data_dir: str,
    key: str,
    splits: dict,
    *,
    share: shards_lib.Share = ALONE,
    metadata: dict | None = None,
    attach=None,
    progress: shards_lib.Progress = shards_lib.Progress(),
) -> str:
  """Writes a record set unless it is there already; returns its folder.

  What an earlier call wrote before it was killed is kept. With more than one
  process the set is complete (`is_complete`) when the last is done.

  Args:
    data_dir: shared by all record sets.
    key: from `key_of`.
    splits: for each split, `shards.Shards`, or a function that returns an
      iterator of episodes, for one shard. (Or of any dicts of arrays and
      strings: the fields are read off the first.) Records keep their order.
    share: which part this process makes.
    metadata: for `Source.metadata`; 'padded' maps a field to a length: it is
      stored without zeros behind it, and has that length when it is read.
    attach: directory -> None, writes more files before the set is complete.
    progress: is told how it goes on.

  Raises:
    UserError: if there is nothing to write, or the disk refuses.
  """
  directory = folder(data_dir, key)
  splits = {
      split: shards_lib.single(made) if callable(made) else made
      for split, made in splits.items()
  }
  lock = '.lock' if share.count == 1 else f'.lock-{share.index}-{share.count}'
  try:
    # Another process may just be building it.
    with shards_lib.alone(directory, lock):
      if is_complete(directory) or not shards_lib.build(
          directory, splits, share, progress
      ):
        return directory
    with shards_lib.alone(directory, '.lock-description'):
      if not is_complete(directory):
        if attach is not None:
          attach(directory)
        shards_lib.describe(directory, splits, key, metadata or {})
  except OSError as e:
    raise UserError(
        f'{data_dir}: could not write records ({shards_lib.line(e)})'
    ) from e
  finally:
    if is_complete(directory):
      shards_lib.sweep(directory)
  return directory


def derive(
    directory: str, data_dir: str, name: str, transform, **options
) -> str:
  """A record set made of another by a function.

  Record i of a split comes from record i. The function may add, replace and
  drop fields; say {**episode, 'latents': encode(episode['rgb'])}.

  Args:
    directory: of the record set to read.
    data_dir: where to write.
    name: says what the function does, hash of its weights included: a set of
      the same name, from the same source, is not made again.
    transform: iterator of episodes -> iterator of episodes, as many. It may not
      remember what it saw in an earlier call.
    **options: of `write`.
  """
  origin = os.path.relpath(directory, data_dir)
  key = key_of('derived', {'from': origin, 'name': name})
  made = {split: of_set(directory, split).map(transform)
          for split in _open_builder(directory).info.splits}
  return write(data_dir, key, made, **options)


def of_set(directory: str, split: str) -> shards_lib.Shards:
  """The episodes of a record set, read ahead, as shards of another."""
  source = Source(directory, split)
  parts = shards_lib.cut(range(len(source)), lambda _: 1, RECORDS_PER_SHARD)
  read = lambda number: [source[number]]
  return shards_lib.of_items(
      parts,
      lambda numbers: workers.threads(read, numbers, READERS),
      min(len(source), RECORDS_PER_SHARD),
  )


def _open_builder(directory):
  tfds = description.tfds()
  if not os.path.isdir(directory):
    raise UserError(f'{directory}: no such record set')
  if os.path.isdir(shards_lib.work_folder(directory)) and not is_complete(
      directory):
    raise UserError(
        f'{directory}: this record set is not complete; run what makes it '
        'again, every process of it'
    )
  try:
    builder = tfds.builder_from_directory(directory)
    dict(builder.info.metadata)  # It is read when it is first asked for.
    return builder
  except Exception as e:  # tfds raises what its JSON and protobuf parsers do.
    raise _damaged(
        os.path.join(directory, shards_lib.COMPLETE), directory, e
    ) from e


def _damaged(path, directory, cause):
  return UserError(
      f'{path} is damaged or truncated ({shards_lib.line(cause)}): delete '
      f'{directory} and run again to rebuild it'
  )


def _allow_open_files(count):
  """Every shard stays open; the usual limit is 1024 files."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = soft + count
  if hard != resource.RLIM_INFINITY:
    wanted = min(wanted, hard)
  if count > soft // 2:
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

"""Episodes on disk: ArrayRecord files, written and read through tfds.

A record set is a folder that tfds names `<data_dir>/episodes/<key>/<version>`,
with a train and a test split. The key ends in a hash of everything that the
records depend on: asking for the same set again finds it, asking for another
builds another. tfds writes into `incomplete.*` and renames at the end, so a set
that can be seen is whole; what a killed build left is removed by the next one.

Arrays are stored as raw bytes (tfds would otherwise widen uint8 to int64),
64x48 frames at 9.2 kB each. TensorFlow is never imported: that is why there are
only Tensor and Text features here, no Image or Video. `data_dir` must be on a
disk of this machine; each host of a pod makes its own, equal records.
"""

import bisect
import contextlib
import fcntl
import functools
import hashlib
import itertools
import json
import os
import shutil
import tempfile

import numpy as np

from worldsim_jax.data import missing
from worldsim_jax.data import shots
from worldsim_jax.errors import UserError

NAME = 'episodes'
# Part of every key: raise it when equal configurations give other episodes.
VERSION = '1.0.1'


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
    self._metadata = builder.info.metadata
    self._shard_ends = list(itertools.accumulate(info.shard_lengths))
    self._records = builder.as_data_source(split)
    for end in self._shard_ends:
      self[end - 1]  # A truncated file should fail now, not in an hour.

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
    return {
        k: v.decode() if isinstance(v, bytes) else v for k, v in record.items()
    }

  @functools.cached_property
  def longest_shots(self) -> list[int]:
    """Frames of the longest shot of every episode."""
    counted = self._metadata.get('longest_shots', {}).get(self.split)
    # Sets recorded before they were counted are read, once.
    return counted or [shots.longest(self[i]) for i in range(len(self))]

  def __repr__(self):
    return f'Source({self.directory!r}, {self.split!r})'


def key_of(name: str, content: dict) -> str:
  """A folder name: readable, and different when any of the content is."""
  text = json.dumps([VERSION, content], sort_keys=True)
  return f'{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}'


def folder(data_dir: str, key: str) -> str:
  """Where the record set of a key is, or will be."""
  return os.path.join(data_dir, NAME, key, VERSION)


def write(data_dir: str, key: str, splits: dict) -> str:
  """Writes a record set unless it is there already; returns its folder.

  Args:
    data_dir: shared by all record sets.
    key: from `key_of`.
    splits: for each split, a function that returns an iterator of episodes
      (or of any dicts of arrays and strings: `schema` is read off the first).
      Records keep the order in which they come.

  Raises:
    UserError: if there is nothing to write, or the disk refuses.
  """
  directory = folder(data_dir, key)
  if os.path.isdir(directory):
    return directory
  with _alone(os.path.dirname(directory)):
    if not os.path.isdir(directory):  # Another process may just have built it.
      _remove_incomplete(os.path.dirname(directory))
      try:
        _build(data_dir, key, splits)
      except (OSError, RuntimeError) as e:  # ArrayRecord raises the latter.
        raise UserError(
            f'{data_dir}: could not write records ({_line(e)}); '
            'nothing half-written was left'
        ) from e
  return directory


def derive(directory: str, data_dir: str, name: str, transform) -> str:
  """A record set made of another by a function of one episode.

  Record i of a split comes from record i. The function may add, replace and
  drop fields; say {**episode, 'latents': encode(episode['rgb'])}.

  Args:
    directory: of the record set to read.
    data_dir: where to write.
    name: says what the function does, hash of its weights included: a set of
      the same name, from the same source, is not made again.
    transform: episode -> episode.
  """
  key = key_of(
      'derived', {'from': os.path.relpath(directory, data_dir), 'name': name}
  )
  names = list(_open_builder(directory).info.splits)
  return write(
      data_dir,
      key,
      {
          split: lambda split=split: map(transform, _iterate(directory, split))
          for split in names
      },
  )


def schema(example: dict):
  """tfds features of an example: arrays of any length, fixed tail; strings."""
  tfds = _tfds()

  def feature(value):
    if isinstance(value, str):
      return tfds.features.Text()
    value = np.asarray(value)
    return tfds.features.Tensor(
        shape=(None,) * bool(value.ndim) + value.shape[1:],
        dtype=value.dtype,
        encoding='bytes' if value.ndim else 'none',
    )

  return tfds.features.FeaturesDict({k: feature(v) for k, v in example.items()})


def _iterate(directory, split):
  source = Source(directory, split)
  return (source[i] for i in range(len(source)))


def _tfds():
  try:
    import array_record  # tfds would miss these two only when it writes.
    import importlib_resources
    import tensorflow_datasets as tfds
  except ImportError as e:
    raise missing(
        'tensorflow-datasets array_record importlib_resources',
        'reading and writing records',
    ) from e
  del array_record, importlib_resources
  tfds.disable_progress_bar()
  return tfds


def _open_builder(directory):
  tfds = _tfds()
  if not os.path.isdir(directory):
    raise UserError(f'{directory}: no such record set')
  try:
    builder = tfds.builder_from_directory(directory)
    dict(builder.info.metadata)  # It is read when it is first asked for.
    return builder
  except Exception as e:  # tfds raises what its JSON and protobuf parsers do.
    raise _damaged(
        os.path.join(directory, 'dataset_info.json'), directory, e
    ) from e


def _damaged(path, directory, cause):
  return UserError(
      f'{path} is damaged or truncated ({_line(cause)}): delete '
      f'{directory} and run again to rebuild it'
  )


def _line(error):
  """The message in one line of bounded length."""
  return ' '.join(str(error).split())[:200]


def _build(data_dir, key, splits):
  """Hands the episodes to tfds."""
  tfds = _tfds()
  (first_split, make), *others = splits.items()
  episodes = iter(make())
  first = next(episodes, None)
  if first is None:
    raise UserError(f'{key}: there is nothing to record')
  examples = {
      first_split: itertools.chain([first], episodes),
      **{split: make() for split, make in others},
  }
  longest = {split: [] for split in examples}
  builder = _builder_class(tfds, key)(
      schema(first),
      {
          split: enumerate(_count(episodes, longest[split], f'{key}, {split}'))
          for split, episodes in examples.items()
      },
      {'longest_shots': longest},
      data_dir=data_dir,
      config=key,
      file_format='array_record',
  )
  # tfds insists on a folder for downloads.
  with tempfile.TemporaryDirectory() as unused:
    builder.download_and_prepare(download_dir=unused)


def _count(episodes, longest, name):
  """The same episodes; appends the frames of each one's longest shot."""
  for episode in episodes:
    longest.append(shots.longest(episode))
    yield episode
  if not longest:
    raise UserError(f'{name}: there is nothing to record')


def _builder_class(tfds, key):
  """The tfds builder. It is made here because importing tfds is slow."""

  # Registering is for finding builders by name; ours are found by folder.
  class Episodes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the (key, example) pairs that it is given for each split."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=key, version=VERSION)]

    def __init__(self, features, splits, metadata, **kwargs):
      self._features, self._splits = features, splits
      self._metadata = metadata
      super().__init__(**kwargs)

    def _info(self):
      # Without shuffling, record i of a derived set is that of its source.
      return tfds.core.DatasetInfo(
          builder=self,
          features=self._features,
          disable_shuffling=True,
          # Written with the rest, when all episodes have been counted.
          metadata=tfds.core.MetadataDict(self._metadata),
      )

    def _split_generators(self, dl_manager):
      del dl_manager
      return self._splits

    def _generate_examples(self):
      raise NotImplementedError('_split_generators returns the examples')

    def _log_download_bytes(self):
      """tfds would announce a download; nothing is downloaded."""

    def _log_download_done(self):
      """Likewise."""

  return Episodes


@contextlib.contextmanager
def _alone(directory):
  """Holds a lock that the system releases even if this process is killed."""
  os.makedirs(directory, exist_ok=True)
  with open(os.path.join(directory, '.lock'), 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _remove_incomplete(directory):
  for name in os.listdir(directory):
    if name.startswith('incomplete.'):
      shutil.rmtree(os.path.join(directory, name))

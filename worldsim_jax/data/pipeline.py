"""Batches of clips for training, and fixed clips for evaluation.

A batch is a dict of arrays [B, F, ...]: F successive frames of B episodes, of
one shot or, on request, of several. Both are drawn at random. What batch n
holds is a function of (seed, n) alone, so restoring the iterator's state, which
is little more than n, continues exactly. Where several processes share a batch,
each reads the rows that its devices need; which clip a row is does not depend
on how many they are.
"""

from collections.abc import Sequence
import json

from absl import logging
import numpy as np

from worldsim_jax.data import missing
from worldsim_jax.data import records
from worldsim_jax.data import shots
from worldsim_jax.errors import UserError

IN_MEMORY_BYTES = 2**30
# Clips that no run ever sees: without an end, batches of one overflow grain.
MANY = 2**60
SAMPLED = 256  # films that are looked at before it is said that none fits
TRAINING = 'config.<stage>.clip_frames'
EVALUATION = 'config.evaluate.horizon + config.student.context_frames'


def make_iterator(
    source,
    *,
    batch_size: int,
    clip_frames: int,
    seed: int,
    most_shots: int = 1,
    fields=('rgb', 'actions'),
    rows=None,
    in_memory: bool | None = None,
    num_threads: int = 4,
):
  """An infinite iterator of batches, shuffled anew in every pass.

  Episodes that no clip can be cut from are left out; where clips are of several
  shots, others are drawn in their place.

  Args:
    source: a `records.Source`, or any sequence of episodes.
    batch_size: B, of all processes together.
    clip_frames: F.
    seed: of the order and of where clips begin.
    most_shots: of a clip; with more than one, it begins where a shot does.
    fields: of the episode; per-frame ones are cut, strings are not. `text` of
      the shots, [L, shots, C], becomes that of the clip's, [most_shots, L, C],
      zeros where it has fewer, or [L, C] of the one.
    rows: which of the B rows to read, see `parallel.mesh.rows`; None: all.
    in_memory: whether to hold the decoded fields; None: if they are below
      IN_MEMORY_BYTES.
    num_threads: that read ahead.

  Returns:
    A grain DatasetIterator; get_state() gives a small JSON-able dict, the same
    whatever the rows, and set_state() returns there.

  Raises:
    UserError: if all episodes are left out.
  """
  grain = _grain()
  if most_shots == 1:
    usable = _usable(source, clip_frames, TRAINING)
  else:
    usable = _with_films(source, clip_frames, most_shots)
  clips = grain.MapDataset.source(usable).seed(seed).shuffle()
  clips = clips.repeat(MANY // len(usable))
  # grain seeds a random_map by its place in the chain: [::1] only keeps it.
  clips = clips[::1].random_map(
      _cutter(source, usable, clip_frames, most_shots, fields, in_memory)
  )
  own = _Rows(clips, batch_size, rows)
  dataset = grain.MapDataset.source(own).batch(own.count)
  options = grain.ReadOptions(
      num_threads=num_threads, prefetch_buffer_size=max(2, 2 * num_threads)
  )
  return iter(dataset.to_iter_dataset(options))


def _cutter(source, usable, clip_frames, most_shots, fields, in_memory):
  """(number, rng) -> a clip of that episode, or of another if it has none."""

  def read(number):
    episode = _select(source[number], fields)
    return episode, shots.starts(episode, clip_frames, most_shots)

  size = sum(np.asarray(v).nbytes for v in read(usable[0])[0].values())
  if in_memory is None:
    in_memory = size * len(usable) < IN_MEMORY_BYTES
  held = {number: read(number) for number in usable} if in_memory else {}

  def cut_at_random(number, rng):
    episode, begins = held.get(number) or read(number)
    while not len(begins):
      number = usable[rng.integers(len(usable))]
      episode, begins = held.get(number) or read(number)
    begin = begins[rng.integers(len(begins))]
    return _cut(episode, begin, clip_frames, fields, most_shots)

  return cut_at_random


class _Rows:
  """Some rows of every batch, as a sequence: those of batch 0, of batch 1..."""

  def __init__(self, clips, batch_size, rows):
    self._clips, self._batch_size = clips, batch_size
    rows = range(batch_size) if rows is None else rows
    self._rows = [int(row) for row in rows]
    self.count = len(self._rows)

  def __len__(self):
    return len(self._clips) // self._batch_size * self.count

  def __getitem__(self, index):
    batch, row = divmod(index, self.count)
    return self._clips[batch * self._batch_size + self._rows[row]]


def eval_clips(
    source,
    *,
    clip_frames: int,
    num_clips: int,
    seed: int = 0,
    fields=('rgb', 'actions'),
) -> dict:
  """The same clips on every call: a dict of arrays [num_clips, F, ...].

  They are spread evenly over the episodes, whose order is that of their maps,
  so that every map has its part. 'map' [num_clips] tells whose clip it is:
  clips of one map are no independent samples. A film of no map is a map of its
  own. 'begin' [num_clips] is the clip's first frame in its episode.

  Raises:
    UserError: if no episode has a shot of clip_frames.
  """
  usable = np.array(_usable(source, clip_frames, EVALUATION))
  numbers = usable[np.arange(num_clips) * len(usable) // num_clips]
  clips = []
  for number, count in zip(*np.unique(numbers, return_counts=True)):
    episode = source[int(number)]
    begins = shots.starts(episode, clip_frames)
    rng = np.random.default_rng([seed, number])
    # All different, unless there are too few.
    for begin in np.resize(rng.permutation(begins), count):
      clip = _cut(_select(episode, fields), begin, clip_frames, fields)
      clips.append(clip | {'map': _map_of(episode, number), 'begin': begin})
  return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}


def check_films(
    directory: str,
    needed: dict[str, dict[str, int]],
    *,
    height: int,
    width: int,
    fields=('rgb', 'actions', 'caption'),
):
  """Raises UserError for records that a run would fail on, maybe hours later.

  Only metadata is read. Films that are too short for something are told of; it
  is an error if all of a split are.

  Args:
    directory: of a record set of frames.
    needed: for each split, what needs successive frames -> how many, say
      {'train': {'config.tokenizer.clip_frames': 4}, 'test': {...}}.
    height: config.data.height.
    width: config.data.width.
    fields: that the run reads.
  """
  for split, lengths in needed.items():
    source = records.Source(directory, split)
    lost = [name for name in fields if name not in source.shapes]
    if lost:
      raise UserError(f'{directory} has no field {lost[0]!r}')
    size = source.shapes['rgb'][1:]
    if size != (height, width, 3):
      raise UserError(
          f'{directory} has frames of {" x ".join(map(str, size))}, but '
          f'config.data.height={height}, config.data.width={width}'
      )
    check_lengths(source, lengths)


def check_lengths(source: records.Source, lengths: dict[str, int]):
  """Raises UserError, naming the key, for clips longer than all episodes."""
  longest = shots.longest_of_each(source)
  for key, frames in lengths.items():
    few = f'of {len(longest)} films for {source.split} in {source.directory}'
    short = np.count_nonzero(longest < frames)
    if short == len(longest):
      raise UserError(
          f'{key} needs {frames} successive frames, but the longest shot '
          f'{few} has {longest.max()}'
      )
    if short:
      logging.warning('%s=%d: %d %s are too short', key, frames, short, few)


def motion(rgb_BFHWC: np.ndarray) -> np.ndarray:
  """Mean absolute difference to the frame before, in grey levels; [..., F].

  The first frame's is 0. About 1 is a frame that hardly moves, 10 a fast turn.
  """
  last, here = rgb_BFHWC[..., :-1, :, :, :], rgb_BFHWC[..., 1:, :, :, :]
  # In uint8: the larger less the smaller, without widening whole films.
  difference = np.maximum(last, here) - np.minimum(last, here)
  mean = difference.mean((-3, -2, -1), dtype=np.float32)
  return np.concatenate([np.zeros_like(mean[..., :1]), mean], -1)


def _grain():
  try:
    import grain.python as grain
  except ImportError as e:
    raise missing('grain', 'the input pipeline') from e
  return grain


def _usable(source, clip_frames, key) -> Sequence[int]:
  """Numbers of the episodes that have a shot of clip_frames."""
  longest = shots.longest_of_each(source)
  if not len(longest):
    raise UserError(f'{source} has no episodes')
  if clip_frames > longest.max():
    raise UserError(
        f'clip_frames={clip_frames} ({key}) is more than the {longest.max()} '
        f'frames of the longest shot of {len(longest)} episodes'
    )
  if longest.min() >= clip_frames:
    return range(len(longest))  # Which takes no memory for millions.
  return np.flatnonzero(longest >= clip_frames).tolist()


def _with_films(source, clip_frames, most_shots) -> Sequence[int]:
  """Numbers of all episodes, if some of a few have clips of several shots."""
  for number in np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(int)):
    if len(shots.starts(source[int(number)], clip_frames, most_shots)):
      return range(len(source))
  raise UserError(
      f'no film of {SAMPLED} in {source} has {clip_frames} successive frames, '
      f'from a cut on, of at most {most_shots} shots (config.<stage>.'
      'clip_frames, config.<stage>.shots)'
  )


def _select(episode, fields):
  """The fields that a clip is cut from, and the shots, if they agree."""
  lost = [name for name in fields if name not in episode]
  if lost:
    raise ValueError(
        f'episodes have no field {lost[0]!r}; they have '
        f'{", ".join(episode)}'
    )
  names = [name for name in (*fields, 'shot_id') if name in episode]
  lengths = {
      name: len(episode[name])
      for name in names
      if shots.is_per_frame(name, episode)
  }
  if len(set(lengths.values())) > 1:
    raise ValueError(f'fields must agree in their number of frames: {lengths}')
  return {name: episode[name] for name in names}


def _cut(episode, begin, clip_frames, fields, most_shots=1):
  """Successive frames; strings and a text of all shots stay whole.

  What is stored in half precision is trained on in single.
  """

  def cut(name):
    value = episode[name]
    if isinstance(value, str):
      return np.array(value, object)
    if name == 'text' and value.ndim == 3:
      value = _texts(value, shots.numbers(episode)[begin], most_shots)
    if shots.is_per_frame(name, episode):
      value = value[begin : begin + clip_frames]
    return value.astype(np.float32) if _is_half(value.dtype) else value

  return {name: cut(name) for name in fields}


def _texts(text_LGC, first, most_shots):
  """Those of some shots, [most_shots, L, C]; that of one, [L, C]."""
  if most_shots == 1:
    return text_LGC[:, first]
  texts = np.moveaxis(text_LGC[:, first : first + most_shots], 1, 0)
  rest = [(0, most_shots - len(texts)), (0, 0), (0, 0)]
  return np.pad(texts, rest)


def _is_half(dtype):
  """Of float16 and bfloat16, the latter of which numpy does not know."""
  return dtype.itemsize == 2 and dtype.kind in 'fV'


def _map_of(episode, number):
  recipe = json.loads(episode.get('recipe') or '{}')
  return np.array(recipe.get('map', f'film {number}'), object)

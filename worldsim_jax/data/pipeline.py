"""Batches of clips for training, and fixed clips for evaluation.

A batch is a dict of arrays [B, F, ...]: F successive frames of B episodes, both
drawn at random. What batch n holds is a function of (seed, n) alone, so
restoring the iterator's state, which is little more than n, continues exactly.
"""

import numpy as np

from worldsim_jax.data import missing

IN_MEMORY_BYTES = 2**30
PER_EPISODE = ('text',)  # arrays that a clip has whole


def make_iterator(
    source,
    *,
    batch_size: int,
    clip_frames: int,
    seed: int,
    fields=('rgb', 'actions'),
    process_index: int = 0,
    process_count: int = 1,
    in_memory: bool | None = None,
    num_threads: int = 4,
):
  """An infinite iterator of batches, shuffled anew in every pass.

  Args:
    source: a `records.Source`, or any sequence of episodes.
    batch_size: B, of this process.
    clip_frames: F.
    seed: of the order and of where clips begin.
    fields: of the episode; per-frame ones are cut, strings are not.
    process_index: which part of the stream this process gets.
    process_count: how many processes share it; their batches are disjoint.
    in_memory: whether to hold the decoded fields; None: if they are below
      IN_MEMORY_BYTES.
    num_threads: that read ahead.

  Returns:
    A grain DatasetIterator; get_state() gives a small JSON-able dict and
    set_state() returns there.
  """
  grain = _grain()
  if len(source) < 1:
    raise ValueError('the source has no episodes')

  def select(episode):
    _check_length(episode, clip_frames, fields)
    return {name: episode[name] for name in fields}

  size = sum(np.asarray(v).nbytes for v in select(source[0]).values())
  if in_memory is None:
    in_memory = size * len(source) < IN_MEMORY_BYTES
  if in_memory:
    source = [select(source[i]) for i in range(len(source))]
  dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
  dataset = dataset[process_index::process_count]
  dataset = dataset.random_map(
      lambda episode, rng: _cut_at_random(episode, clip_frames, fields, rng)
  )
  dataset = dataset.batch(batch_size)
  options = grain.ReadOptions(
      num_threads=num_threads, prefetch_buffer_size=max(2, 2 * num_threads)
  )
  return iter(dataset.to_iter_dataset(options))


def eval_clips(
    source,
    *,
    clip_frames: int,
    num_clips: int,
    seed: int = 0,
    fields=('rgb', 'actions'),
    min_motion: float = 0.0,
) -> dict:
  """The same clips on every call: a dict of arrays [num_clips, F, ...].

  Clips are taken from all episodes in turn. With min_motion, only clips whose
  frames differ by that much on average (grey levels, see `motion`) are taken.

  Raises:
    ValueError: if too few clips move enough, after ten tries for each.
  """
  if len(source) < 1:
    raise ValueError('the source has no episodes')
  clips = []
  for number in range(10 * num_clips):
    clip = _cut_at_random(
        source[number % len(source)],
        clip_frames,
        ('rgb', *fields) if min_motion else fields,
        np.random.default_rng([seed, number]),
    )
    if not min_motion or motion(clip['rgb'])[1:].mean() >= min_motion:
      clips.append(clip)
    if len(clips) == num_clips:
      return {k: np.stack([clip[k] for clip in clips]) for k in fields}
  raise ValueError(
      f'only {len(clips)} of num_clips={num_clips} clips move by '
      f'min_motion={min_motion} grey levels'
  )


def motion(rgb_BFHWC: np.ndarray) -> np.ndarray:
  """Mean absolute difference to the frame before, in grey levels; [..., F].

  The first frame's is 0. About 1 is a frame that hardly moves, 10 a fast turn.
  """
  last, here = rgb_BFHWC[..., :-1, :, :, :], rgb_BFHWC[..., 1:, :, :, :]
  # In uint8: the larger less the smaller, without widening whole films.
  difference = np.maximum(last, here) - np.minimum(last, here)
  mean = difference.mean((-3, -2, -1), dtype=np.float32)
  return np.concatenate([np.zeros_like(mean[..., :1]), mean], -1)


def pose_motion(pose_BFP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Distance in map units and |turn| in degrees since the frame before."""
  step = np.diff(pose_BFP, axis=-2, prepend=pose_BFP[..., :1, :])
  distance = np.hypot(step[..., 0], step[..., 1])
  return distance, np.abs((step[..., 3] + 180) % 360 - 180)


def _grain():
  try:
    import grain.python as grain
  except ImportError as e:
    raise missing('grain', 'the input pipeline') from e
  return grain


def _check_length(episode, clip_frames, fields):
  lost = [name for name in fields if name not in episode]
  if lost:
    raise ValueError(
        f'episodes have no field {lost[0]!r}; they have '
        f'{", ".join(episode)}'
    )
  lengths = {
      name: len(episode[name])
      for name in fields
      if _is_per_frame(name, episode)
  }
  if len(set(lengths.values())) != 1:
    raise ValueError(f'fields must agree in their number of frames: {lengths}')
  length = next(iter(lengths.values()))
  if length < clip_frames:
    raise ValueError(
        f'clip_frames={clip_frames} is more than the {length} '
        'frames of an episode'
    )
  return length


def _cut_at_random(episode, clip_frames, fields, rng):
  """Any clip_frames successive frames; strings and text stay whole."""
  length = _check_length(episode, clip_frames, fields)
  start = rng.integers(length - clip_frames + 1)

  def cut(name):
    value = episode[name]
    if isinstance(value, str):
      return np.array(value, object)
    if _is_per_frame(name, episode):
      return value[start : start + clip_frames]
    return value

  return {name: cut(name) for name in fields}


def _is_per_frame(name, episode) -> bool:
  return not isinstance(episode[name], str) and name not in PER_EPISODE

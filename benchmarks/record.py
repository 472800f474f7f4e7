"""What recording and reading cost: records per second of one core.

Each step from a film to a training clip is timed alone, in this process, for
films of the config's size and for the clips that `docs/data.md` plans with:

  decode  an mp4 to an episode of frames (`film_folders.read_episodes`)
  encode  frames to latents (`train.encoding`), the config's tokenizer only
  write   an episode to a record set (`records.write`)
  read    a clip of a training batch from a record set on disk, whose pages
          are in memory: what reading costs besides waiting for the disk

`..._per_core` counts the processor time of all threads, so others who use the
machine disturb it little. On an accelerator `encode` is wall time.
"""

import os
import tempfile
import time

import jax
import numpy as np

from benchmarks import timing
from worldsim_jax.data import film_folders
from worldsim_jax.data import pipeline
from worldsim_jax.data import records
from worldsim_jax.data import video_files
from worldsim_jax.models import build
from worldsim_jax.streaming import files
from worldsim_jax.train import encoding

EPISODES = 8  # of the config's size, in each repeat
# A published model's clip: 81 frames, Wan 2.1's latents of them, and a text of
# a hundred tokens of umT5.
FRAMES, HEIGHT, WIDTH = 81, 480, 832
LATENTS, TEXT = (21, 60, 104, 16), (100, 4096)


def benchmark(options):
  """A row per step and size."""
  data = options.config.data
  own = (data.num_frames, data.height, data.width)
  with tempfile.TemporaryDirectory() as folder:
    return [
        _decode(folder, own, EPISODES, options.repeats),
        _encode(options.config, EPISODES, options.repeats),
        *_store(folder, 'frames', _episode(own), EPISODES, options.repeats),
        _decode(folder, (FRAMES, HEIGHT, WIDTH), 1, options.repeats),
        *_store(folder, 'latents', published_latents(), 2, options.repeats)]


def published_latents() -> dict:
  """Random, as latents are to a compressor."""
  rng = np.random.default_rng(0)
  return {'latents': rng.standard_normal(LATENTS).astype(np.float16),
          'actions': rng.standard_normal((LATENTS[0], 12), np.float32),
          'text': rng.standard_normal(TEXT).astype(np.float16)}


def film(size) -> np.ndarray:
  """Moves to the right, with a little noise: about what a camera gives."""
  frames, height, width = size
  t, y, x = np.ogrid[:frames, :height, :width]
  wave = 128 + 60 * np.sin((x - 2 * t) / 9) + 30 * np.cos(y / 7)
  noise = np.random.default_rng(0).normal(0, 2, (frames, height, width, 1))
  return np.clip(wave[..., None] + noise, 0, 255).astype(np.uint8).repeat(3, -1)


def _episode(size):
  return {'rgb': film(size), 'actions': np.zeros((size[0], 3), np.float32),
          'caption': ''}


def _decode(folder, size, count, repeats):
  path = os.path.join(folder, 'film.mp4')
  video_files.write_mp4(path, film(size), 16)

  def decode():
    for _ in range(count):
      list(film_folders.read_episodes(
          path, height=size[1], width=size[2], frames_per_second=16))

  return _row('decode', size, os.path.getsize(path), count,
              *_times(decode, repeats))


def _encode(config, count, repeats):
  size = (config.data.num_frames, config.data.height, config.data.width)
  shapes = jax.eval_shape(lambda: files.initial_variables(config))['vae']
  variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  encoder = encoding.Encoder(config, build.tokenizer(config), variables)
  episodes = [_episode(size)] * count
  made = next(encoder(iter(episodes[:1])))['latents']
  wall, processor = _times(lambda: list(encoder(iter(episodes))), repeats)
  on_host = jax.default_backend() == 'cpu'
  return _row('encode', size, made.nbytes, count, wall,
              processor if on_host else wall)


def _store(folder, name, episode, count, repeats):
  """Rows of writing and of reading."""
  size = episode.get('latents', episode.get('rgb')).shape[:3]
  number = 0

  def write():
    nonlocal number
    number += 1
    return records.write(
        folder, f'{name}{number}', {'train': lambda: [episode] * count})

  rows = [_row(f'write {name}', size, _bytes(episode), count,
               *_times(write, repeats))]
  source = records.Source(write(), 'train')
  batches = pipeline.make_iterator(
      source, batch_size=1, clip_frames=len(episode['actions']), seed=0,
      fields=tuple(k for k in episode if k != 'caption'), in_memory=False)

  def read():
    for _ in range(4 * count):
      next(batches)

  return rows + [_row(f'read {name}', size, _bytes(episode), 4 * count,
                      *_times(read, repeats))]


def _times(function, repeats):
  """Wall and processor seconds of each repeat, after one to warm up."""
  function()
  wall, processor = [], []
  for _ in range(repeats):
    start = time.perf_counter(), time.process_time()
    function()
    wall.append(time.perf_counter() - start[0])
    processor.append(time.process_time() - start[1])
  return wall, processor


def _row(step, size, nbytes, count, wall, processor):
  per_core = count / np.array(processor)
  return {'step': step, 'size': 'x'.join(map(str, size)),
          'bytes_per_record': nbytes,
          **timing.spread('records_per_second_per_core', per_core),
          'megabytes_per_second_per_core': float(
              np.median(per_core) * nbytes / 1e6),
          'records_per_second_wall_median': float(count / np.median(wall))}


def _bytes(episode):
  return sum(x.nbytes for x in episode.values() if not isinstance(x, str))

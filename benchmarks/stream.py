"""Streaming seconds per frame by frame index: a stream must not slow down.

Untrained weights, the program that a session runs (`World.advance`), waited for
chunk by chunk as a player would. A repeat is a stream of its own. Each quarter
of a stream is compared with the second quarter of the same stream: by then the
cache's window is full, so the last quarter's ratio should be 1, and anything
that grows with the length of the video shows as more.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World

QUARTERS = 4
WARM_UP_CHUNKS = 2


def benchmark(options):
  """A row per quarter of the stream."""
  config = options.config
  frames_per_chunk = config.student.chunk * build.tiny_vae(config).time_stride
  chunks = options.frames // frames_per_chunk
  if chunks < QUARTERS:
    raise UserError(
        f'--frames={options.frames} must be at least {QUARTERS} chunks of '
        f'{frames_per_chunk} frames (config.student.chunk times the stride of '
        'config.vae)')
  start, advance = programs(untrained_world(config))
  play(start, advance, WARM_UP_CHUNKS)
  streams = []
  with timing.compilations() as compiled:
    for _ in range(options.repeats):
      streams.append(play(start, advance, chunks))
  return rows(np.array(streams), frames_per_chunk, len(compiled))


def untrained_world(config) -> World:
  variables = jax.jit(lambda: files.initial_variables(config))()
  size = (config.data.height, config.data.width, 3)
  return World(config, variables['student'], variables['vae'],
               np.zeros((1, 1, *size), np.uint8))


def programs(world: World):
  """Returns start() -> session and advance(session) -> (session, frames)."""
  config, rng = world.config, np.random.default_rng(0)
  size = (config.data.height, config.data.width, 3)
  frames = rng.integers(
      0, 256, (1, world.context_frames, *size), np.uint8)
  text = None
  if world.model.text_dim:
    text = jnp.asarray(rng.standard_normal(
        (1, config.text.length, config.text.dim), np.float32))
  actions = lambda length: jnp.zeros((1, length, build.NUM_ACTIONS))
  given, new = actions(world.context_frames), actions(world.frames_per_step)
  key = jax.random.key_data(jax.random.key(0))
  jit_start = jax.jit(world.start)
  jit_advance = jax.jit(world.advance, donate_argnums=1)
  return (lambda: jit_start(world.variables, frames, given, text, key),
          lambda session: jit_advance(world.variables, session, new))


def play(start, advance, chunks: int) -> list[float]:
  """Seconds of each chunk of one stream."""
  session = jax.block_until_ready(start())
  seconds = []
  for _ in range(chunks):
    begin = time.perf_counter()
    session, _ = jax.block_until_ready(advance(session))
    seconds.append(time.perf_counter() - begin)
  return seconds


def rows(seconds_RC, frames_per_chunk: int, compilations: int):
  """Rows from the seconds of R streams of C chunks."""
  per_frame = seconds_RC / frames_per_chunk
  quarters = np.array_split(per_frame, QUARTERS, axis=1)
  medians = [np.median(quarter, axis=1) for quarter in quarters]
  first, made = 1, []
  for quarter, median_R in zip(quarters, medians):
    last = first + quarter.shape[1] * frames_per_chunk - 1
    made.append({
        'frames': f'{first}-{last}',
        **timing.spread('seconds_per_frame', quarter),
        'frames_per_second': float(1 / np.median(quarter)),
        **timing.spread('ratio_to_second_quarter',
                        timing.ratios(median_R, medians[1])),
        'compilations_in_all_streams': compilations})
    first = last + 1
  return made

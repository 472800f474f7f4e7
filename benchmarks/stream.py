"""Streaming seconds per frame by frame index: a stream must not slow down.

Untrained weights, the program that a session runs (`World.advance`), waited for
chunk by chunk as a player would. By its second quarter a stream's window is
full, so later quarters should cost the same, and anything that grows with the
length of the video shows as a ratio above 1.

So that a machine that gets busier does not look like a stream that slows down,
streams overlap, each a quarter younger than the one before, and advance in
turns. Quarters are compared within a turn:

  turn      0..        C/4..      2C/4..     3C/4..
  stream 0  quarter 1  quarter 2  quarter 3  quarter 4
  stream 1             quarter 1  quarter 2  quarter 3  quarter 4
  stream 2                        quarter 1  quarter 2  ...
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
LEAST_STREAMS = 3  # For a fourth quarter beside a second one.
WARM_UP_CHUNKS = 2


def benchmark(options):
  """A row per quarter of the stream."""
  config = options.config
  frames_per_chunk = config.student.chunk * build.tokenizer(config).time_stride
  chunks = options.frames // frames_per_chunk // QUARTERS * QUARTERS
  if not chunks:
    raise UserError(
        f'--frames={options.frames} must be at least {QUARTERS} chunks of '
        f'{frames_per_chunk} frames (config.student.chunk times the stride of '
        'config.vae)')
  if options.repeats < LEAST_STREAMS:
    raise UserError(f'--repeats={options.repeats} must be at least '
                    f'{LEAST_STREAMS} for stream, whose streams overlap')
  start, advance = programs(untrained_world(config))
  play(start, advance, streams=1, chunks=WARM_UP_CHUNKS, stagger=0)
  with timing.compilations() as compiled:
    seconds_RC = play(start, advance, options.repeats, chunks,
                      stagger=chunks // QUARTERS)
  return rows(seconds_RC, frames_per_chunk, len(compiled))


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


def play(start, advance, streams: int, chunks: int, stagger: int):
  """Seconds of each chunk of each stream, [streams, chunks].

  Args:
    start, advance: see `programs`.
    streams: how many, in turns.
    chunks: of each stream.
    stagger: turns between the starts of two streams.
  """
  sessions, seconds_RC = {}, np.zeros((streams, chunks))
  for turn in range(chunks + (streams - 1) * stagger):
    for stream in range(streams):
      chunk = turn - stream * stagger
      if chunk == 0:
        sessions[stream] = jax.block_until_ready(start())
      if 0 <= chunk < chunks:
        begin = time.perf_counter()
        sessions[stream], _ = jax.block_until_ready(
            advance(sessions[stream]))
        seconds_RC[stream, chunk] = time.perf_counter() - begin
      else:
        sessions.pop(stream, None)
  return seconds_RC


def rows(seconds_RC, frames_per_chunk: int, compilations: int):
  """A row per quarter from the seconds of R staggered streams."""
  per_frame = seconds_RC / frames_per_chunk
  quarters = np.split(per_frame, QUARTERS, axis=1)
  length, made = quarters[0].shape[1] * frames_per_chunk, []
  for index, quarter in enumerate(quarters):
    # In one turn, stream r is in this quarter and stream r + age in the second.
    age = index - 1
    own = quarter[max(0, -age):len(quarter) - max(0, age)]
    second = quarters[1][max(0, age):len(quarter) - max(0, -age)]
    made.append({
        'frames': f'{index * length + 1}-{(index + 1) * length}',
        **timing.spread('seconds_per_frame', quarter),
        'frames_per_second': float(1 / np.median(quarter)),
        **timing.spread('ratio_to_second_quarter',
                        np.median(own / second, axis=1)),
        'compilations_in_all_streams': compilations})
  return made

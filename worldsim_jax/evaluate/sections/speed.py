"""How fast a world streams here, to one viewer who waits for every chunk.

Absolute times are those of the device that the report names, under whatever
else it was doing.
"""

import time

import jax
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate.trial import Trial
from worldsim_jax.parallel import flops

CHUNKS = 64
ACTION = (24.0, 0.0, 0.0)


def measure(trial: Trial) -> figures.Section:
  """Frames per second, latencies, memory and work of a stream.

  Raises:
    UserError: for subjects that do not stream.
  """
  world = trial.world
  if world is None:
    raise UserError(f'the subject {trial.name} does not stream')
  section = figures.Section('Speed of the stream')
  frames = trial.clips.rgb[0, : world.context_frames]
  prompt = trial.clips.captions[0] if world.model.text_dim else None
  stream = lambda: world.stream(prompt, frames=frames)
  _play(world, stream(), 2)  # Compiles.
  begin = time.perf_counter()
  session, _ = world.step(stream(), ACTION)
  jax.block_until_ready(session)
  first = time.perf_counter() - begin
  session, seconds = _play(world, session, CHUNKS)
  per_step = world.frames_per_step
  cache = sum(x.nbytes for x in jax.tree.leaves(session.video.cache))
  actions = np.zeros((1, per_step, len(ACTION)), np.float32)
  work = flops.count(world.advance, world.variables, session, actions)
  timed = len(seconds)
  for name, value, unit, count in (
      ('frames_per_second', per_step / np.median(seconds), 'frames/s', timed),
      ('first_frame_ms', 1e3 * first, 'ms', 1),
      ('chunk_ms_median', 1e3 * np.median(seconds), 'ms', timed),
      ('chunk_ms_p99', 1e3 * np.quantile(seconds, 0.99), 'ms', timed),
      ('cache_mib', cache / 2**20, 'MiB', 1),
      ('gflop_per_frame', work / per_step / 1e9, 'GFLOP', 1),
  ):
    section.figures.append(figures.single(name, value, unit=unit, count=count))
  section.notes.append(
      f'{jax.devices()[0].device_kind}, batch 1, {len(seconds)} chunks of '
      f'{per_step} frames after compilation.'
  )
  return section


def _play(world, session, chunks):
  """Advances a session; returns it and the seconds of each chunk."""
  seconds = []
  for _ in range(chunks):
    begin = time.perf_counter()
    session, film = world.step(session, ACTION)
    np.asarray(film)  # As a viewer gets it.
    seconds.append(time.perf_counter() - begin)
  return session, np.array(seconds)

"""Wall time of things that a device computes.

Machines drift: they throttle, and others use them. So what is to be compared is
measured in turns, A B A B ..., in one process, and compared within each turn.
What is reported is the median, with the fastest and the slowest.
"""

import contextlib
import time

import jax
import numpy as np

# Lets the thread pools of one variant go to sleep before the next one runs.
PAUSE_SECONDS = 0.01
COMPILATION = '/jax/core/compile/backend_compile_duration'


def seconds(variants, repeats: int) -> dict[str, list[float]]:
  """Times variants in turns, after a turn that warms them up.

  Args:
    variants: by name, functions without arguments that return what to wait for.
    repeats: timed turns.

  Returns:
    Seconds of each turn, by name.
  """
  samples = {name: [] for name in variants}
  for turn in range(-1, repeats):
    for name, fn in variants.items():
      time.sleep(PAUSE_SECONDS)
      elapsed = call(fn)
      if turn >= 0:
        samples[name].append(elapsed)
  return samples


def call(fn) -> float:
  """Seconds of one call, with all that it computes."""
  start = time.perf_counter()
  jax.block_until_ready(fn())
  return time.perf_counter() - start


def spread(name: str, samples) -> dict[str, float]:
  """The three columns of a measured value."""
  return {f'{name}_median': float(np.median(samples)),
          f'{name}_min': float(np.min(samples)),
          f'{name}_max': float(np.max(samples))}


def ratios(samples, base) -> np.ndarray:
  """samples / base, turn by turn."""
  return np.asarray(samples) / np.asarray(base)


@contextlib.contextmanager
def compilations():
  """Yields a list that grows by one entry for every program that XLA compiles.

  Operations outside of jit count too: each is a small program of its own.
  """
  compiled = []

  def listen(event, duration, **_):
    if event == COMPILATION:
      compiled.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield compiled
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)

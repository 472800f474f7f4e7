"""Where tests look from: anywhere in a map, in any direction."""

import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import engine
from worldsim_jax.data import maps
from worldsim_jax.data import navigator
from worldsim_jax.data import occupancy
from worldsim_jax.data import wad


def camera(height=120, width=160):
  return camera_lib.of_engine(
      engine.Options(
          height=height,
          width=width,
          render_height=height,
          render_width=width,
      )
  )


def poses(name, count, seed=0):
  """Of an engine's player who stands somewhere, float64 [count, 4]."""
  rng, level = np.random.default_rng(seed), maps.load(name).level
  grid, found = occupancy.of_map(name), []
  for k in range(count):
    x, y, _ = navigator.random_start(grid, 1000 * seed + k)
    x, y = (x, y) + rng.uniform(-4, 4, 2)
    floor = level.floor[wad.sectors_in_row(level, np.array([x]), y)[0]]
    found.append((x, y, floor + 41, rng.uniform(0, 360)))
  return np.array(found)

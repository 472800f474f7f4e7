"""A world of random weights, as small as it gets, for the tests of streaming.

Untrained weights would not do: layers that start at zero make a student that
neither moves nor obeys.
"""

import functools

import jax
import numpy as np

from configs import quickstart
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World

ACTIONS = np.array(
    [[24, 0, 0], [0, 24, 8], [0, 0, -8], [-24, 0, 0], [0, -24, 8]], np.float32)


def config():
  """Latents of 4x3, and a window of 2 + 4 frames that a test can fill."""
  small = quickstart.get_config('smoke')
  small.data.update(dict(height=24, width=32))
  small.student.update(dict(window=4, timesteps=(1000, 500)))
  return small


@functools.cache
def make() -> World:
  variables = random_variables(config())
  starts = np.random.default_rng(1).integers(
      0, 256, (3, 2, 24, 32, 3), dtype=np.uint8)
  return World(config(), variables['student'], variables['vae'], starts)


def random_variables(config, seed: int = 0):
  """Arrays like `files.initial_variables`, none of them zero."""
  shapes = jax.eval_shape(lambda: files.initial_variables(config))
  dice = np.random.default_rng(seed)

  def draw(path, x):
    if x.ndim == 1:
      is_scale = path[-1].key in ('weight', 'std')
      return (is_scale + 0.1 * dice.normal(size=x.shape)).astype(x.dtype)
    fan_in = np.prod(x.shape[:-1])
    return (dice.normal(size=x.shape) / np.sqrt(fan_in)).astype(x.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)

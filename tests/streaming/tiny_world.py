"""A world of random weights, as small as it gets, for tests of streaming.

Untrained weights would not do: layers that start at zero make a student that
neither moves nor obeys.
"""

import functools

import jax
import ml_collections
import numpy as np

from configs import quickstart
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World

# forward, strafe_left+left, right, back, strafe_right+left, for two tics each.
ACTIONS = np.array(
    [[12, 0, 0], [0, 12, 4], [0, 0, -4], [-12, 0, 0], [0, -12, 4]], np.float32)


def config(**changes):
  """Frames of 24x32 in latents of 3x4, a window of 4 frames and 2 sinks.

  Args:
    **changes: of config.vae and config.student, by those names.
  """
  small = quickstart.get_config('smoke')
  small.data.update(dict(height=24, width=32))
  small.student.update(dict(window=4, timesteps=(1000, 500)))
  for part, values in changes.items():
    small[part].update(values)
  return small


def recurrent_config():
  """With a state in place of a window."""
  small = config()
  small.model = ml_collections.ConfigDict(dict(
      kind='recurrent', dim=16, num_layers=1, freq_dim=32, image=True,
      coordinates=True, parameterization='residual', residual_std=1.3))
  return small


def wan_vae_config():
  """With Wan's tokenizer; a latent stands for two frames, but for the first."""
  small = config(student=dict(context_frames=3))
  small.vae = ml_collections.ConfigDict(dict(
      kind='wan', base=4, num_res_blocks=1, latent_channels=3,
      temporal_downsample=(False, False, True), latent_mean=(0., .1, -.1),
      latent_std=(1., 2., .5)))
  small.stages = small.stages[1:]  # It is not trained.
  return small


@functools.cache
def make() -> World:
  """The world that a file of tests shares: its programs compile once."""
  return of_config(config())


def of_config(config) -> World:
  variables = random_variables(config)
  world = World(config, variables['student'], variables['vae'], np.zeros(0))
  shape = (3, world.context_frames, config.data.height, config.data.width, 3)
  starts = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
  return World(config, world.params, world.vae_variables, starts)


def random_variables(config, seed: int = 0):
  """Like `files.initial_variables`, but nothing is zero."""
  shapes = jax.eval_shape(lambda: files.initial_variables(config))
  dice = np.random.default_rng(seed)

  def draw(path, x):
    fan_in = np.prod(x.shape[:-1])
    values = dice.normal(size=x.shape) / np.sqrt(fan_in)
    if x.ndim == 1:
      values = 0.1 * values + (path[-1].key in ('weight', 'std', 'gamma'))
    return values.astype(x.dtype)

  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  # Frames are to change slowly, and to be neither black nor white.
  variables['student']['head']['kernel'] *= 0.2
  if config.vae.kind == 'taehv' and config.vae.shortcut:
    variables['vae']['params']['decoder']['shortcut']['bias'] += 0.5
  return variables

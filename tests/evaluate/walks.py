"""Films of test maps with their exact geometry, for tests of judges."""

import functools

from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import geometry as geometry_lib


@functools.lru_cache
def walk(map_name='MAP29', num_frames=16, seed=2, height=48):
  """An episode and its geometry; 64x48 as in the quickstart, or 160x120."""
  small = height == 48
  options = dict(
      height=height,
      width=64 if small else 160,
      tics_per_frame=2 if small else 4,
      geometry=True,
  )
  with engine_lib.Engine(map_name, **options) as engine:
    episode = episodes.record(
        engine, policy='navigate', num_frames=num_frames, seed=seed
    )
  return episode, geometry_lib.of_episode(episode)


@functools.lru_cache
def there_and_back(map_name='MAP29', half=8):
  """Frames k and 2 half - k show the same place: turns left, then right."""
  turns = [(0.0, 0.0, 0.0)] + [(0.0, 0.0, 6.0)] * half
  recipe = episodes.Recipe(
      map_name,
      tuple(turns + [(0.0, 0.0, -6.0)] * half),
      geometry=True,
      tics_per_frame=2,
  )
  episode = episodes.render(recipe)
  return episode, geometry_lib.of_episode(episode)

"""What exact geometry costs: frames per second of one core.

A row per map, of levels with 69 to 7,245 lines, for a walk as training films
have it, at 160x120:

  numba       `raycast`, compiled: depth, surface ids, and the normals of pixels
  numpy       `raycast_reference`, the same in vectorised NumPy
  flow        to the fourth frame after it, with exact occlusion
  rgb         the engine's picture
  rgb_numba   picture, depth, normals and ids
  everything  sprites, objects and live heights too: `engine.Options.geometry`

The residual of reprojection (`data/reprojection.py`) stands beside.
What counts is the processor time of this process and of its engines, so others
who use the machine disturb it little. The geometry does not depend on a
config; neither do these rows.
"""

import glob
import os
import time

import numpy as np

from benchmarks import timing
from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import correspondence
from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import geometry as geometry_lib
from worldsim_jax.data import maps
from worldsim_jax.data import raycast_reference
from worldsim_jax.data import reprojection

MAPS = ('gen:1', 'MAP30', 'MAP01', 'MAP15', 'MAP12')
SIZE = dict(height=120, width=160)
FRAMES, SLOW_FRAMES = 48, 4  # of the film, and for the slow one of a pair
GAP = 4


def benchmark(options):
  """A row per map."""
  return [measure(name, FRAMES, options.repeats) for name in MAPS]


def measure(name: str, frames: int, repeats: int) -> dict:
  """Frames per second and core of each way, and how well it fits."""
  plan = episodes.plan(
      name, seed=3, policy='navigate', num_frames=frames, geometry=True, **SIZE
  )
  film = episodes.render(plan)
  geometry = geometry_lib.of_episode(film)
  pose, camera = film['pose'], geometry.camera

  def cast():
    return geometry_lib.of_poses(name, pose, camera).normals

  def cast_slowly():
    for t in range(SLOW_FRAMES):
      _, surface, _ = raycast_reference.image(
          geometry.scene, camera, geometry.motions[t], geometry.heights_at(t)
      )
      np.take(geometry.scene.normals, surface, 0)

  def flow():
    for t in range(frames - GAP):
      correspondence.flow(geometry, t, t + GAP)

  found = {
      'numba': _rate(cast, frames, repeats),
      'numpy': _rate(cast_slowly, SLOW_FRAMES, repeats),
      'flow': _rate(flow, frames - GAP, repeats),
  }
  found |= _rendered(plan, film, repeats)
  pairs = [(t, t + 1) for t in range(0, frames - 1, 4)]
  fits = reprojection.residual(film['rgb'], geometry, pairs).summary()
  row = {'map': name, 'lines': len(maps.load(name).level.segments)}
  for way, rates in found.items():
    row |= timing.spread(f'{way}_frames_per_second_per_core', rates)
  return row | {f'residual_{key}': value for key, value in fits.items()}


def _rendered(plan, film, repeats):
  """Rates of the engine, alone and with geometry; the game has begun."""
  rates, count = {}, len(film['pose']) - 1
  camera = camera_lib.of_engine(plan)
  static = lambda: geometry_lib.of_poses(plan.map, film['pose'], camera).normals
  live = lambda: geometry_lib.of_episode(film).normals
  for told, ways in (
      (False, {'rgb': None, 'rgb_numba': static}),
      (True, {'everything': live}),
  ):
    options = plan.engine_options | dict(geometry=told)
    with engine_lib.Engine(plan.map, **options) as engine:
      begin = lambda: engine.reset(plan.seed, plan.start)
      play = lambda: [engine.step(a) for a in film['actions'][1:]]
      for way, cast in ways.items():
        both = lambda: (play(), cast and cast())
        rates[way] = _rate(both, count, repeats, begin)
  return rates


def _rate(function, count, repeats, prepare=lambda: None):
  """Frames per processor second of each repeat, after one to warm up."""
  rates = []
  for turn in range(-1, repeats):
    prepare()
    start = _processor_seconds()
    function()
    if turn >= 0:
      rates.append(count / (_processor_seconds() - start))
  return np.array(rates)


def _processor_seconds():
  """Of this process and of the engines that it has open (Linux)."""
  seconds = time.process_time()
  for path in glob.glob(f'/proc/{os.getpid()}/task/*/children'):
    with open(path) as f:
      children = f.read().split()
    for child in children:
      for task in glob.glob(f'/proc/{child}/task/*/schedstat'):
        with open(task) as f:
          seconds += int(f.read().split()[0]) / 1e9
  return seconds

"""What is evaluated: a model, a baseline, or the truth with a known fault.

A subject continues clips. Models see the given frames and the actions only. The
others are made of the true future, and tell what the metrics are worth: `truth`
must score perfectly, and every fault must be caught by the metric that is meant
for it.

  truth          the true future
  copy           the last given frame for ever
  shuffled       the true frames in random order
  noise          the true frames under white noise of 12 grey levels
  wrong_actions  the true future of the negated actions
  gain           the true frames, darkening by 2 % a second
  forgetful      the true future, but rooms that are seen again have other walls
                 and floors
"""

from collections.abc import Callable
import dataclasses
import functools

import numpy as np

from worldsim_jax.data import maps
from worldsim_jax.data import revisits
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate.clips import Clips

NOISE = 12.0  # standard deviation, grey levels
GAIN_PER_SECOND = 0.98
FORGETS_AFTER = 5.0  # seconds
DECOR = 1  # seed of the other walls and floors


@dataclasses.dataclass(frozen=True, eq=False)
class Played:
  """A subject's continuation of n clips.

  Attributes:
    rgb: uint8 [n, horizon, H, W, 3].
    depth: float32 [n, horizon, H, W], map units; None if it predicts none.
    normals: float32 [n, horizon, H, W, 3], unit, in world coordinates; or None.
    motions: float64 [n, horizon, 4, 4], of its camera; or None.
  """

  rgb: np.ndarray
  depth: np.ndarray | None = None
  normals: np.ndarray | None = None
  motions: np.ndarray | None = None


Subject = Callable[[Clips], Played]


def truth(clips: Clips) -> Played:
  """The true future, with its exact geometry where there is one."""
  if clips.recipes is None:
    return Played(clips.future)
  geometries = [clips.geometry(i) for i in range(len(clips))]
  after = lambda name: np.stack(
      [getattr(g, name)[clips.given :] for g in geometries]
  )
  return Played(
      clips.future, after('depth'), after('normals'), after('motions')
  )


def copy(clips: Clips) -> Played:
  last = clips.rgb[:, clips.given - 1 : clips.given]
  return Played(np.repeat(last, clips.horizon, axis=1))


def shuffled(clips: Clips, seed: int) -> Played:
  rng = np.random.default_rng(seed)
  order = np.stack([rng.permutation(clips.horizon) for _ in range(len(clips))])
  return Played(clips.future[np.arange(len(clips))[:, None], order])


def noise(clips: Clips, seed: int) -> Played:
  rng = np.random.default_rng(seed)
  film = clips.future + rng.normal(0, NOISE, clips.future.shape)
  return Played(_to_uint8(film))


def wrong_actions(clips: Clips) -> Played:
  return Played(clips.commanded(-clips.actions).future)


def gain(clips: Clips, frames_per_second: float) -> Played:
  seconds = np.arange(1, clips.horizon + 1) / frames_per_second
  factor = GAIN_PER_SECOND**seconds
  return Played(_to_uint8(clips.future * factor[:, None, None, None]))


def forgetful(clips: Clips, frames_per_second: float) -> Played:
  """From the first revisit on, the rooms have other walls and floors."""
  parsed = clips.parsed('the subject forgetful needs')
  first = [
      _first_revisit(pose, frames_per_second, clips.given)
      for pose in clips.pose
  ]
  if all(frame is None for frame in first):
    return Played(clips.future)
  other = clips.rendered(
      [
          dataclasses.replace(recipe, map=redecorated(recipe.map))
          for recipe in parsed
      ]
  )
  film = clips.rgb.copy()
  for number, frame in enumerate(first):
    if frame is not None:
      film[number, frame:] = other.rgb[number, frame:]
  return Played(film[:, clips.given :])


def redecorated(map_name: str) -> str:
  """The map with other walls and floors."""
  if not map_name.startswith(maps.GENERATED):
    raise UserError(
        f'{map_name} has no other walls: the subject forgetful needs generated '
        'maps (config.data.generated_test_maps)'
    )
  return f'{map_name},decor={DECOR}'


def _first_revisit(pose, frames_per_second, given):
  """The first frame that sees again what was made some time ago, or None."""
  pairs = revisits.pairs(
      pose, seconds_per_frame=1 / frames_per_second, min_gap=FORGETS_AFTER
  )
  later = pairs[pairs[:, 0] >= given, 1]
  return int(later.min()) if len(later) else None


def _to_uint8(film):
  return np.clip(np.rint(film), 0, 255).astype(np.uint8)


def of_truth(frames_per_second: float, seed: int = 0) -> dict[str, Subject]:
  """The subjects that need no model, by name."""
  per_second = dict(frames_per_second=frames_per_second)
  return {
      'truth': truth,
      'copy': copy,
      'shuffled': functools.partial(shuffled, seed=seed),
      'noise': functools.partial(noise, seed=seed),
      'wrong_actions': wrong_actions,
      'gain': functools.partial(gain, **per_second),
      'forgetful': functools.partial(forgetful, **per_second),
  }

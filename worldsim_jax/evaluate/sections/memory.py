"""Memory: does a place look the same when one comes back to it?

On walks that come by the same places again, a pair (i, j) of frames of a film
shows one place twice, some seconds apart (data/revisits.py). Two questions:

  consistency  frame i, warped into the view of j by the exact geometry, against
               frame j: does the film agree with itself?
  correctness  frame j against the true frame j, over the same pixels: does it
               agree with the world?

The true film's consistency is what warping of a picture with detail can reach;
a film that stands still, or has no detail, has more (`copy_`), so consistency
says something only of a film that is otherwise alive. A film that forgets is
consistent with itself for as long as it does not look away.
"""

import numpy as np

from worldsim_jax.data import maps as maps_lib
from worldsim_jax.data import revisits
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate import revisit_memory
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate import trial as trials
from worldsim_jax.evaluate.trial import Trial

# Seconds; a bin ends where the next one begins.
GAPS = (subjects.FORGETS_AFTER, 20.0, 60.0)
PAIRS_PER_WALK = 24
EQUAL = 100.0  # dB of equal frames, the cap of image_metrics.psnr


def measure(trial: Trial) -> figures.Section:
  """Figures by gap.

  Raises:
    UserError: if no walk comes back to any place.
  """
  section = figures.Section('Memory: the same place again')
  walks, film = trial.walks, trial.played(trials.WALKS).rgb
  still = subjects.copy(walks).rgb
  whole, frozen = (
      np.concatenate([walks.rgb[:, : walks.given], x], axis=1)
      for x in (film, still)
  )
  found = {}
  for number in range(len(walks)):
    geometry = walks.geometry(number)
    for gap, pairs in _pairs(trial, number).items():
      if not len(pairs):
        continue
      measured, still = (
          revisit_memory.measure(x[number], walks.rgb[number], geometry, pairs)
          for x in (whole, frozen)
      )
      found.setdefault(gap, []).append((walks.maps[number], measured, still))
  if not found:
    raise UserError(
        f'no walk of {trial.config.evaluate.walk_frames} frames comes back to '
        f'a place after {GAPS[0]:g} s or more: more frames '
        '(config.evaluate.walk_frames), or another config.evaluate.walk_policy'
    )
  for gap in GAPS:
    if gap not in found:
      section.lacks.append(
          f'after {gap:g} s: no walk of {walks.horizon} frames comes back '
          '(config.evaluate.walk_frames)'
      )
      continue
    section.figures += _figures(gap, found[gap])
  return section


def _pairs(trial, number):
  """Pairs of new frames of a walk, at most PAIRS_PER_WALK per gap."""
  walks = trial.walks
  level = maps_lib.load(walks.maps[number]).level
  by_gap = {}
  for gap, end in zip(GAPS, (*GAPS[1:], np.inf)):
    pairs = revisits.pairs(
        walks.pose[number],
        seconds_per_frame=1 / trial.config.data.frames_per_second,
        min_gap=gap,
        max_gap=end,
        level=level,
    )
    pairs = pairs[pairs[:, 0] >= walks.given]
    if len(pairs):
      pairs = revisits.closest(walks.pose[number], pairs)
    spread = np.linspace(0, len(pairs) - 1, min(len(pairs), PAIRS_PER_WALK))
    by_gap[gap] = pairs[spread.astype(int)]
  return by_gap


def _figures(gap, walks):
  """Of (map, measured pairs, those of a still film), one per walk."""
  names, films, still = zip(*walks)
  maps = np.repeat(names, [len(found.floor) for found in films])
  all_of = lambda name, films=films: np.concatenate(
      [getattr(found, name) for found in films]
  )
  return [
      figures.mean(
          f'revisit_consistency_{gap:g}s',
          all_of('consistency'),
          maps,
          real=all_of('floor'),
          unit='dB',
      ),
      figures.mean(
          f'copy_revisit_consistency_{gap:g}s',
          all_of('consistency', still),
          maps,
          unit='dB',
      ),
      figures.mean(
          f'revisit_correctness_{gap:g}s',
          all_of('correctness'),
          maps,
          real=[EQUAL],
          unit='dB',
      ),
  ]

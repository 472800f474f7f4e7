"""Action following, judged without a learned judge.

Discrimination: from one beginning, two sequences of actions a and a' have two
true futures. A model that obeys makes, for each, the film that is closer to its
own future than to the other,

  corr(gen(a), true(a)) > corr(gen(a), true(a')),                        (1)

and likewise with a and a' exchanged; guessing is right half of the time. corr
is the correlation of two films' pixels about each frame's mean, so that fading
or brightening, which other sections see, does not count. Pairs whose true
futures hardly differ tell nothing and are left out.
"""

import numpy as np

from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate import replay
from worldsim_jax.evaluate import trial as trials
from worldsim_jax.evaluate.trial import Trial

FRAMES = 8  # of each future that is compared
LEAST_DIFFERENCE = 4.0  # grey levels between the two true futures
FILM_CLIPS = 3


def measure(trial: Trial) -> figures.Section:
  """Discrimination of pairs of futures."""
  section = figures.Section('Action following')
  clips, other = trial.clips, trial.other
  ours, theirs = (
      trial.played(what).rgb[:, :FRAMES]
      for what in (trials.CLIPS, trials.OTHER)
  )
  mine, rival = clips.future[:, :FRAMES], other.future[:, :FRAMES]
  difference = np.abs(mine.astype(np.int16) - rival).mean(axis=(1, 2, 3, 4))
  apart = difference >= LEAST_DIFFERENCE
  right = (
      (correlation(ours, mine) > correlation(ours, rival)).astype(float)
      + (correlation(theirs, rival) > correlation(theirs, mine))
  ) / 2
  section.figures.append(
      figures.mean(
          'action_discrimination',
          np.where(apart, right, np.nan),
          clips.maps,
          real=np.ones(1),
      )
  )
  section.notes.append(
      f'{apart.sum()} of {len(clips)} pairs of futures of {mine.shape[1]} '
      f'frames differ by {LEAST_DIFFERENCE} grey levels or more; guessing is '
      'right half of the time.'
  )
  section.films['True futures of two actions and the subject under both'] = (
      replay.film(
          {
              'true': mine,
              trial.name: ours,
              'true, other actions': rival,
              f'{trial.name}, other actions': theirs,
          },
          clips.first_frames(clips.given + mine.shape[1]),
          FILM_CLIPS,
      )
  )
  return section


def correlation(x, y) -> np.ndarray:
  """Of uint8 films [n, T, H, W, 3] about their frames' means, [n]."""
  centred = lambda film: film - film.mean(axis=(2, 3), keepdims=True)
  x, y = centred(x.astype(np.float32)), centred(y.astype(np.float32))
  total = lambda film: film.sum(axis=(1, 2, 3, 4))
  scale = np.sqrt(total(x * x) * total(y * y))
  return total(x * y) / np.maximum(scale, 1e-9)

"""Other futures of the same past: what would have happened if.

The engine is deterministic, so two recipes with the same actions up to a frame
show the same bytes up to it. A model that obeys is nearer to the future of the
actions that it was given than to the other.
"""

import numpy as np

from worldsim_jax.data import actions as actions_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import navigator
from worldsim_jax.errors import UserError

# Within a second the two views differ by this at least, in degrees: walls stop
# steps, but nothing stops a turn.
LEAST_TURN = 30.0
ADDED_TURN = 12.0  # degrees per frame of 4 tics
MIRRORED, REVERSED = (1, -1, -1), (-1, -1, -1)


def counterfactual(
    recipe: episodes.Recipe, frame: int, seed: int = 0
) -> episodes.Recipe:
  """The recipe of a film that is another from a frame on.

  Its actions from there on are the recipe's own, mirrored or reversed, or those
  of a random walk; if that would look much the same, with a turn added.

  Args:
    recipe: its cuts and other events stay.
    frame: the first that differs.
    seed: of the choice.
  """
  actions = np.array(recipe.actions, np.float64)
  if not 0 < frame < len(actions):
    raise UserError(
        f'frame {frame} of {len(actions)}: another future begins at frame 1 or '
        'later'
    )
  rng = np.random.default_rng([seed, 5])
  pace = recipe.tics_per_frame / actions_lib.WORD_TICS
  own, second = actions[frame:], round(35 / recipe.tics_per_frame)
  other = _other(rng, own, pace)
  apart = (other - own)[:second, 2].sum()
  apart = (apart + 180) % 360 - 180
  if abs(apart) < LEAST_TURN:
    side = np.sign(apart) or rng.choice((-1.0, 1.0))
    other[:second, 2] += side * ADDED_TURN * pace
  for event in recipe.events:
    if event.kind == 'cut' and event.frame >= frame:
      other[event.frame - frame] = 0  # Nothing leads across a cut.
  return recipe.with_actions(np.concatenate([actions[:frame], other]))


def _other(rng, own, pace):
  """Other commands, as many."""
  if rng.random() < 2 / 3:
    return own * (MIRRORED if rng.random() < 0.5 else REVERSED)
  walk = navigator.RandomWalk(None, int(rng.integers(2**31)), pace)
  # It believes that it gets on, since nobody knows yet where the walls are.
  return np.array(
      [walk.act((100.0 * t, 0, 0, 0)) for t in range(len(own))], float
  )

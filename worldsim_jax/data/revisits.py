"""Frames of an episode that see the same place again.

Frame j revisits frame i if it is near it and looks the same way, and the player
has been away in between: farther off, or turned away. Poses tell, not pictures:
what moves by itself may have moved, and what the place shows may not be worth
remembering. A wall can be thinner than `near`, so give the level: then a wall
between the two poses makes them two places.
"""

import numpy as np

from worldsim_jax.data import sight
from worldsim_jax.data import wad


def pairs(
    pose: np.ndarray,
    *,
    seconds_per_frame: float,
    min_gap: float = 20.0,
    max_gap: float = np.inf,
    near: float = 48.0,
    turn: float = 20.0,
    away: float = 256.0,
    turned: float = 90.0,
    shot_id: np.ndarray | None = None,
    level: wad.Level | None = None,
) -> np.ndarray:
  """All pairs of a frame and a revisit of it, int64 [N, 2], i < j, ordered.

  Args:
    pose: [T, 4].
    seconds_per_frame: tics_per_frame / 35.
    min_gap: seconds from i to j.
    max_gap: likewise, less than.
    near: map units between the two places, less than.
    turn: degrees between the two views, less than.
    away: map units from i that were passed on the way to j, or
    turned: degrees from the view of i.
    shot_id: [T]; a pair may lie in two shots, and a cut is a way of leaving.
    level: of the map; the pair then sees each other.
  """
  pose = np.asarray(pose, np.float64)
  first = max(1, int(np.ceil(min_gap / seconds_per_frame - 1e-9)))
  last = min(len(pose), np.ceil(max_gap / seconds_per_frame - 1e-9))
  found = [np.zeros((0, 2), np.int64)]
  for i in range(len(pose) - first):
    distance, angle = errors(pose[i], pose[i:])
    left = (distance > away) | (angle > turned)
    if shot_id is not None:
      left |= np.asarray(shot_id[i:]) != shot_id[i]
    again = (distance < near) & (angle < turn) & np.logical_or.accumulate(left)
    j = i + first + np.flatnonzero(again[first : int(last)])
    if level is not None:
      j = j[sight.clear(level, pose[i, :2], pose[j, :2])]
    found.append(np.stack([np.full_like(j, i), j], 1))
  return np.concatenate(found)


def closest(pose: np.ndarray, pairs_N2: np.ndarray) -> np.ndarray:
  """For each frame that is a revisit, the pair that is most alike, [M, 2].

  A degree counts as a map unit; of equals, the earliest.
  """
  i, j = np.asarray(pairs_N2, np.int64).T
  cost = sum(errors(pose[i], pose[j]))
  order = np.lexsort((i, cost, j))
  _, first = np.unique(j[order], return_index=True)
  return np.asarray(pairs_N2)[order[first]]


def share(num_frames: int, pairs_N2: np.ndarray) -> float:
  """The share of an episode's frames that are revisits."""
  return len(np.unique(np.asarray(pairs_N2)[:, 1])) / num_frames


def errors(one, other) -> tuple[np.ndarray, np.ndarray]:
  """Distance in map units, and angle in degrees, of poses [..., 4]."""
  one, other = np.asarray(one), np.asarray(other)
  gap = other - one
  angle = np.abs((gap[..., 3] + 180) % 360 - 180)
  return np.hypot(gap[..., 0], gap[..., 1]), angle

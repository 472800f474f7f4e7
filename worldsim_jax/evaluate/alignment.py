"""An odometer without learning: how did the camera move between two frames?

The first frame's depth is known exactly (it is the last real one), the second
is what is to be judged. Of all movements the one is found that best carries the
colours of the first to the second: first among all movements within reach, at
low resolution (`cylinder_search`), then from the best of those by Gauss-Newton,
finer and finer (`photometric`). The truth is never used.

What decides is the search. Gauss-Newton that starts at the true movement stays
there; from a coarse grid, or too few guesses, a tenth to a third of all pairs
ends elsewhere, with errors of tens of map units.

Some pairs cannot tell: blank walls, repeated textures, little overlap. So each
answer has a confidence, the least of four figures over their thresholds, and is
accepted if that is at least 1:

  margin      (1 - r2) / (1 - r1), r1 the correlation of the frames at the
              answer, r2 at the best other answer (infinite without one)
  similarity  r1
  coverage    share of the first frame that is known and in view of the second
  sharpness   1 / the largest deviation that the curvature of the cost lets
              expect, in units of `TOLERANCE`

`benchmarks/odometer.py` measures all this on test maps.
"""

import dataclasses

import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.evaluate import cylinder_search
from worldsim_jax.evaluate import photometric

# What counts as the same movement: forward, strafe (map units), turn (degrees),
# rise (map units).
TOLERANCE = np.array([6.0, 6.0, 1.5, 6.0])
# Fixed on train maps: 1152 pairs of gen:3, 5, 10, 77, E1M1, MAP01, 11 and 15,
# 160x120 and 64x48, 1, 2 and 4 frames apart, a third with noise. 90 % of them
# are within 8 map units and 2 degrees, 98 % of the 74 % that are accepted; of 1
# frame apart 97 %, and 99.7 % of 89 %.
GATE = {
    'margin': 1.3,
    'similarity': 0.7,
    'coverage': 0.4,
    'sharpness': 1.5,
}
# Residuals of neighbouring pixels are alike, so that their number promises more
# than it holds. With this factor the errors on train maps are as large as
# expected: root mean squares of 1.2, 1.0, 1.0 and 0.8 deviations.
_INFLATION = 6.0
# Twice what the embedded player does in a frame of 4 tics.
REACH = (48.0, 28.0)
_GUESSES, _KEPT = 12, 5
_NUM_POINTS = 2500  # About: points at each resolution cost time.
# Frames in a row that are not accepted: `follow` searches wider, and gives up.
_WIDEST, _LOST = 2, 4


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
  """A measured movement: [4] forward, strafe, turn, rise; see `GATE`."""

  movement: np.ndarray
  deviation: np.ndarray  # [4], expected
  margin: float
  similarity: float
  coverage: float

  @property
  def confidence(self) -> float:
    sharpness = 1 / np.maximum((self.deviation / TOLERANCE)[:3].max(), 1e-9)
    return min(
        self.margin / GATE['margin'],
        self.similarity / GATE['similarity'],
        self.coverage / GATE['coverage'],
        float(sharpness) / GATE['sharpness'],
    )

  @property
  def accepted(self) -> bool:
    return self.confidence >= 1


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
  """Where a film's camera went, as far as it can be told; T frames."""

  movements: np.ndarray  # float64 [T, 4], from the known frame
  motions: np.ndarray  # float64 [T, 4, 4], camera to world
  confidence: np.ndarray  # float64 [T], 0 after the view was lost
  accepted: np.ndarray  # bool [T]


def align(
    camera, frame, depth, later, *, exact=None, reach=REACH, centre=None
) -> Alignment:
  """Measures the movement from one frame to a later one.

  Args:
    camera: `data.camera.Camera` of the frames.
    frame: [H, W, 3] uint8, or float of the same range.
    depth: [H, W] of it, map units along the axis; inf: unknown.
    later: [H, W, 3], the frame after the movement.
    exact: bool [H, W], where the frame shows what the depth says; None: where
      that is finite.
    reach: what is searched, each way: map units forward and sideways, degrees.
    centre: [4], the movement in the middle of the search; None: no movement.
  """
  depth = np.where(np.isfinite(depth), depth, np.inf)
  if exact is not None:
    depth = np.where(exact, depth, np.inf)
  centre = np.zeros(4) if centre is None else np.asarray(centre, np.float64)
  guesses = cylinder_search.search(
      camera, frame, depth, later, reach=reach, count=_GUESSES, centre=centre
  )
  movements = np.concatenate([guesses, centre[None]])
  for block in _blocks(camera.width):
    stride = np.sqrt(camera.height * camera.width / block**2 / _NUM_POINTS)
    stride = max(1, round(stride))
    pair = photometric.pair(camera, frame, depth, later, block, stride)
    fit = photometric.refine(pair, movements, steps=6 if block > 1 else 4)
    fit = fit[_distinct(fit)[:_KEPT]]
    movements = fit.movements
  best = fit.similarity[0]
  rival = fit.similarity[1] if len(fit.similarity) > 1 else -np.inf
  return Alignment(
      movements[0],
      fit.deviation[0] * _INFLATION,
      float((1 - rival) / max(1 - best, 1e-6)),
      float(best),
      float(fit.coverage[0]),
  )


def follow(
    camera, frame, depth, film, *, exact=None, reach=REACH, motion=None
) -> Trajectory:
  """The way of a film's camera from a frame whose depth is known.

  Each frame is aligned with the known one; the search is around where the
  camera last was, and wider when that is longer ago. When too little of the
  known frame is left in view, nothing more is told.

  Args:
    camera, frame, depth, exact: as in `align`.
    film: [T, H, W, 3], what follows the known frame.
    reach: how far from frame to frame.
    motion: [4, 4] of the known frame's camera; None: the world is its.

  Returns:
    T frames; where nothing is accepted, the movement is the last known.
  """
  motion = np.eye(4) if motion is None else np.asarray(motion, np.float64)
  movements, confidence = np.zeros((len(film), 4)), np.zeros(len(film))
  last, since = np.zeros(4), 0
  for t, later in enumerate(film):
    if since < _LOST:
      since += 1
      wider = tuple(min(since, _WIDEST) * r for r in reach)
      found = align(
          camera, frame, depth, later, exact=exact, reach=wider, centre=last
      )
      confidence[t] = found.confidence
      if found.accepted:
        last, since = found.movement, 0
    movements[t] = last
  motions = motion @ motions_of(movements)
  return Trajectory(movements, motions, confidence, confidence >= 1)


def motions_of(movements) -> np.ndarray:
  """Camera-to-world [..., 4, 4] in the first camera, of movements [..., 4]."""
  forward, strafe, turn, rise = np.moveaxis(np.asarray(movements), -1, 0)
  turn = np.radians(turn)
  motion = np.zeros((*turn.shape, 4, 4))
  motion[..., 0, 0] = motion[..., 2, 2] = np.cos(turn)
  motion[..., 2, 0], motion[..., 0, 2] = np.sin(turn), -np.sin(turn)
  motion[..., 1, 1] = motion[..., 3, 3] = 1
  motion[..., 0, 3], motion[..., 2, 3] = -strafe, forward
  motion[..., 1, 3] = -camera_lib.PIXEL_ASPECT * rise
  return motion


def movements_of(motions, origin) -> np.ndarray:
  """The inverse: movements [..., 4] of cameras [..., 4, 4] from another."""
  motion = camera_lib.relative(motions, origin)
  turn = np.degrees(np.arctan2(-motion[..., 0, 2], motion[..., 2, 2]))
  place = motion[..., :3, 3]
  rise = -place[..., 1] / camera_lib.PIXEL_ASPECT
  return np.stack([place[..., 2], -place[..., 0], turn, rise], -1)


def _blocks(width):
  """From about 40 pixels a row to all of them, by halves."""
  blocks = [1]
  while width / blocks[0] > 64 and width / blocks[0] >= 80:
    blocks.insert(0, blocks[0] * 2)
  return blocks if len(blocks) > 1 else [2, 1]


def _distinct(fit):
  """Indices, the most similar first, one of those that mean the same."""
  order = np.argsort(-fit.similarity, kind='stable')
  chosen = []
  for k in order:
    gap = np.abs(fit.movements[chosen] - fit.movements[k]) / TOLERANCE
    if (gap.max(-1, initial=0) > 1).all():
      chosen.append(k)
  return chosen

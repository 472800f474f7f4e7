"""How well points are followed through a film, and when they are out of sight.

Over the evaluated frames t of points n, with true positions x, predicted y,

  end-point error = mean |y - x| over visible points, in pixels of the film (1)

and, with positions scaled to a picture of 256 x 256 (Doersch et al. 2022,
"TAP-Vid", sec. 3; the released code, google-deepmind/tapnet c2cbab8,
tapvid/evaluation_datasets.py, compute_tapvid_metrics), for d = 1, 2, 4, 8, 16

  within_d = share of visible points with |y - x| < d                      (2)
  jaccard_d = TP / (P + FP)                                                (3)

where P are the visible points, TP those of them within d and predicted visible,
and FP what was predicted visible but is hidden, or d or more away. A visible
point that is predicted d or more away counts in both P and FP. delta_avg and
average_jaccard are the means of (2) and (3) over d.

Visibility as a yes-or-no question has precision, recall and F1 = their harmonic
mean. Most points of a short film are visible, so that "always visible" has a
high F1: give both arrays negated to ask for hidden points instead.

A point is given to the model in its query frame, which is not evaluated, nor is
what lies before it ('first'; 'strided': all frames but that one).

Shapes: positions [T, N, 2] (u, v in pixels, see data/camera.py), visibility
bool [T, N]. Everything is of one film; positions of hidden points may be NaN.
"""

import numpy as np

THRESHOLDS = (1, 2, 4, 8, 16)
SIDE = 256  # of the picture that the thresholds are pixels of
QUERIES = ('first', 'strided')


def track_metrics(
    predicted_uv,
    predicted_visible,
    uv,
    visible,
    *,
    height: int,
    width: int,
    query_frame=0,
    query: str = 'first',
) -> dict[str, float]:
  """All of the file's docstring, of the tracks of one film.

  Args:
    predicted_uv: [T, N, 2], finite where the truth is visible and evaluated.
    predicted_visible: bool [T, N].
    uv: [T, N, 2].
    visible: bool [T, N].
    height: of the film, in the pixels in which positions are given.
    width: likewise.
    query_frame: int, or [N] of them.
    query: 'first' or 'strided'.

  Returns:
    end_point_error, delta_avg, average_jaccard, occlusion_accuracy, precision,
    recall, f1 (of visible points), and `points`, how many visible ones were
    evaluated. What is a mean over nothing is NaN.
  """
  y, x, guess, visible = _checked(predicted_uv, predicted_visible, uv, visible)
  evaluated = evaluated_points(*visible.shape, query_frame, query)
  scores = tap_vid(y, guess, x, visible, evaluated, height=height, width=width)
  scores |= visibility(guess, visible, evaluated)
  scores['end_point_error'] = end_point_error(y, x, visible & evaluated)
  scores['points'] = int(np.sum(visible & evaluated))
  return scores


def evaluated_points(
    num_frames: int, num_points: int, query_frame=0, query: str = 'first'
) -> np.ndarray:
  """bool [T, N]: the frames in which each point is evaluated."""
  if query not in QUERIES:
    raise ValueError(f'query={query!r}: choose from {QUERIES}')
  asked = np.broadcast_to(query_frame, num_points)
  if num_points and not 0 <= asked.min() <= asked.max() < num_frames:
    raise ValueError(
        f'query frames {asked.min()} to {asked.max()} of {num_frames} frames'
    )
  frames = np.arange(num_frames)[:, None]
  return frames > asked if query == 'first' else frames != asked


def end_point_error(predicted_uv, uv, visible) -> float:
  """Equation (1), over the points where `visible` [T, N] is True."""
  error = np.linalg.norm(_at(predicted_uv, visible) - _at(uv, visible), axis=-1)
  return _mean(error)


def tap_vid(
    predicted_uv,
    predicted_visible,
    uv,
    visible,
    evaluated,
    *,
    height: int,
    width: int,
) -> dict[str, float]:
  """Equations (2) and (3); arguments as of `track_metrics`."""
  scale = SIDE / np.array([width, height])
  positives = visible & evaluated
  error = np.full(visible.shape, np.inf)
  error[positives] = np.linalg.norm(
      (_at(predicted_uv, positives) - _at(uv, positives)) * scale, axis=-1
  )
  claimed = predicted_visible & evaluated
  within, jaccard = [], []
  for threshold in THRESHOLDS:
    close = error < threshold  # Hidden points are infinitely far.
    within.append(_mean(close[positives]))
    hits = np.sum(close & claimed)
    false = np.sum(claimed & ~close)
    total = positives.sum() + false
    jaccard.append(hits / total if total else np.nan)
  agrees = predicted_visible == visible
  return {
      'delta_avg': float(np.mean(within)),
      'average_jaccard': float(np.mean(jaccard)),
      'occlusion_accuracy': _mean(agrees[evaluated]),
  }


def visibility(predicted, visible, evaluated=True) -> dict[str, float]:
  """Precision, recall and F1 of bool [T, N] predictions.

  With nothing to find and nothing claimed all are NaN; claims without a hit,
  or finds that were missed, make F1 zero.
  """
  hits = np.sum(predicted & visible & evaluated)
  claims, finds = np.sum(predicted & evaluated), np.sum(visible & evaluated)
  return {
      'precision': float(hits / claims) if claims else np.nan,
      'recall': float(hits / finds) if finds else np.nan,
      'f1': float(2 * hits / (claims + finds)) if claims + finds else np.nan,
  }


def _at(uv, visible):
  points = np.asarray(uv, np.float64)[visible]
  if not np.isfinite(points).all():
    raise ValueError('positions are not finite where the truth is visible')
  return points


def _mean(values):
  return float(np.mean(values)) if np.size(values) else np.nan


def _checked(predicted_uv, predicted_visible, uv, visible):
  y, x = np.asarray(predicted_uv), np.asarray(uv)
  guess, visible = np.asarray(predicted_visible), np.asarray(visible)
  if x.ndim != 3 or x.shape[-1] != 2 or y.shape != x.shape:
    raise ValueError(
        f'positions must be [T, N, 2] of one shape, not {y.shape} and {x.shape}'
    )
  for name, array in (('predicted_visible', guess), ('visible', visible)):
    if array.shape != x.shape[:2] or array.dtype != bool:
      raise ValueError(
          f'{name} is {array.dtype} {array.shape}; need bool {x.shape[:2]}'
      )
  return y, x, guess, visible

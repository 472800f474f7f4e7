"""How close a camera's path comes to the exact one.

With true motions Q_t and predicted ones P_t, camera to world, of which q_t and
p_t are the places, the path is first laid over the true one by a similarity
(Sim(3)) or a rigid motion (SE(3), s = 1), the least squares solution in closed
form (Umeyama 1991, eq. 34-43):

  minimise  sum_t |q_t - (s R p_t + b)|^2,                               (1)
  with  1/T sum (q_t - mean q)(p_t - mean p)' = U D V',
  S = diag(1, 1, det U det V),  R = U S V',  s = tr(D S) / var p.        (2)

Absolute trajectory error and relative pose error over n frames are then
(Sturm et al. 2012, "A benchmark for the evaluation of RGB-D SLAM systems")

  ATE = rms_t |q_t - (s R p_t + b)|                                      (3)
  E_t = (Q_t^-1 Q_t+n)^-1 (P_t^-1 P_t+n), places of P multiplied by s,   (4)
  RPE = rms_t |place of E_t|  and  rms_t angle of E_t.

Where the world of the predicted motions is the truth's own, there is nothing to
fit: 'none' leaves them as they are, and only then is a path in the wrong
direction an error.

A path that does not move has neither scale nor direction: (2) would then fit
s = 0, for which (3) is 0 whatever was predicted. Such paths are named in
`degenerate`, and what they leave undetermined is NaN. A straight path leaves
the turn about it undetermined, but not the places, so (3) and (4) stand.

Motions are float [T, 4, 4] as in data/camera.py; places have the truth's units.
"""

from typing import NamedTuple

import numpy as np

ALIGNMENTS = ('sim3', 'se3', 'none')
# A path whose places differ by less stands still, in its own units. The engine
# counts in 1/65536 map units, float64 knows 10^4 map units to 10^-12.
STILL = 1e-6
# Of the second principal axis to the first, in a path that is a line.
STRAIGHT = 1e-6


class Similarity(NamedTuple):
  """x -> scale * rotation @ x + shift."""

  scale: float
  rotation: np.ndarray  # [3, 3]
  shift: np.ndarray  # [3]

  def __call__(self, places):
    return self.scale * places @ self.rotation.T + self.shift


def camera_metrics(
    predicted, motions, alignment: str = 'sim3', step: int = 1, known=None
) -> dict:
  """Equations (3) and (4) of one path.

  Args:
    predicted: [T, 4, 4], camera to any world.
    motions: [T, 4, 4], the truth.
    alignment: 'sim3' for paths of unknown scale, 'se3' for metric ones in a
      world of their own, 'none' for those in the truth's.
    step: n of equation (4), in frames.
    known: bool [T], frames of which the prediction is not to be left out. Both
      ends of a step must be known; None: all are.

  Returns:
    ate and rpe_translation (units of the truth), rpe_rotation (degrees), scale,
    and degenerate: '' or what is special about the paths.
  """
  if alignment not in ALIGNMENTS:
    raise ValueError(f'alignment={alignment!r}: choose from {ALIGNMENTS}')
  predicted, motions = _checked(predicted, 'predicted'), _checked(
      motions, 'true'
  )
  if predicted.shape != motions.shape:
    raise ValueError(f'{len(predicted)} motions for {len(motions)} true ones')
  if not 1 <= step < len(motions):
    raise ValueError(f'step={step} needs more than {len(motions)} motions')
  known = np.ones(len(motions), bool) if known is None else np.asarray(known)
  if not known.any():
    raise ValueError('no frame of the path is known')
  p, q = predicted[known, :3, 3], motions[known, :3, 3]
  degenerate = _degenerate(p, q)
  similarity = Similarity(1.0, np.eye(3), np.zeros(3))
  if alignment != 'none':
    similarity = umeyama(p, q, with_scale=alignment == 'sim3')
  if alignment == 'sim3' and degenerate == 'the truth stands still':
    similarity = similarity._replace(scale=np.nan)
  steps = known[:-step] & known[step:]
  true, guess = _steps(motions, step)[steps], _steps(predicted, step)[steps]
  # Turning back, as Q^-1 does, leaves the length of a difference as it is.
  missed = similarity.scale * guess[:, :3, 3] - true[:, :3, 3]
  turned = (_inverse(true) @ guess)[:, :3, :3]
  return {
      'ate': _rms(np.linalg.norm(q - similarity(p), axis=-1)),
      'rpe_translation': _rms(np.linalg.norm(missed, axis=-1)),
      'rpe_rotation': _rms(rotation_angles(turned)),
      'scale': float(similarity.scale),
      'degenerate': degenerate,
  }


def umeyama(p, q, with_scale: bool = True) -> Similarity:
  """Equation (2): the similarity from places p [T, 3] to q [T, 3].

  Where either stands still there is nothing to fit, and only the means agree.
  """
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  mean_p, mean_q = p.mean(0), q.mean(0)
  scale, rotation = 1.0, np.eye(3)
  if not (_still(p) or _still(q)):
    covariance = (q - mean_q).T @ (p - mean_p) / len(p)
    u, d, vt = np.linalg.svd(covariance)
    signs = np.array([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * signs) @ vt
    if with_scale:
      scale = np.sum(d * signs) / np.mean(np.sum((p - mean_p) ** 2, -1))
  return Similarity(scale, rotation, mean_q - scale * rotation @ mean_p)


def rotation_angles(rotations) -> np.ndarray:
  """Degrees in [0, 180] of rotations [..., 3, 3], exact for small ones too."""
  r = np.asarray(rotations, np.float64)
  axis = np.stack(
      [
          r[..., 2, 1] - r[..., 1, 2],
          r[..., 0, 2] - r[..., 2, 0],
          r[..., 1, 0] - r[..., 0, 1],
      ],
      -1,
  )
  # The axis has length 2 sin, the trace is 1 + 2 cos.
  cosine = np.trace(r, axis1=-2, axis2=-1) - 1
  return np.degrees(np.arctan2(np.linalg.norm(axis, axis=-1), cosine))


def _degenerate(p, q):
  if _still(p) and _still(q):
    return 'both stand still'
  if _still(q):
    return 'the truth stands still'
  if _still(p):
    return 'the prediction stands still'
  sizes = np.linalg.svd(q - q.mean(0), compute_uv=False)
  straight = len(sizes) < 2 or sizes[1] <= STRAIGHT * sizes[0]
  return 'the truth is a straight line' if straight else ''


def _still(places):
  return np.ptp(places, axis=0).max() <= STILL


def _steps(motions, step):
  return _inverse(motions[:-step]) @ motions[step:]


def _inverse(motions):
  inverse = np.tile(np.eye(4), (len(motions), 1, 1))
  rotation = np.swapaxes(motions[:, :3, :3], -1, -2)
  inverse[:, :3, :3] = rotation
  inverse[:, :3, 3] = -(rotation @ motions[:, :3, 3:])[..., 0]
  return inverse


def _rms(values):
  return float(np.sqrt(np.mean(values**2))) if len(values) else np.nan


def _checked(motions, name):
  motions = np.asarray(motions, np.float64)
  if motions.ndim != 3 or motions.shape[1:] != (4, 4):
    raise ValueError(f'{name} motions are {motions.shape}; need [T, 4, 4]')
  rotation = motions[:, :3, :3]
  square = np.swapaxes(rotation, -1, -2) @ rotation
  # Float32 matrices of networks that project to rotations keep to 1e-6.
  if not np.allclose(square, np.eye(3), atol=1e-3):
    raise ValueError(f'{name} motions hold matrices that are no rotations')
  if np.any(np.linalg.det(rotation) < 0):
    raise ValueError(f'{name} motions hold reflections')
  return motions

"""Depth and normals that a subject predicts, against the exact ones.

Depth is compared as it is (map units) and after the scale that fits a clip best
(its medians), as papers on models without units do.
"""

import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import depth_metrics
from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate import trial as trials
from worldsim_jax.evaluate.trial import Trial

DEPTH = {'abs_rel': '', 'delta_1': '', 'delta_2': '', 'delta_3': ''}
NORMALS = {'mean': 'degrees', 'median': 'degrees', 'within_11': ''}


def measure(trial: Trial) -> figures.Section:
  """Figures of the clips.

  Raises:
    UserError: for subjects that predict neither.
  """
  played, clips = trial.played(trials.CLIPS), trial.clips
  if played.depth is None and played.normals is None:
    raise UserError(
        f'the subject {trial.name} predicts pictures only, no depth or normals'
    )
  section = figures.Section('Geometry: depth and normals')
  if played.depth is not None:
    for alignment, prefix in (('none', 'depth'), ('median', 'scaled_depth')):
      rows = [
          depth_metrics.depth_metrics(
              depth,
              truth.depth[clips.given :],
              truth.exact[clips.given :],
              alignment,
          )
          for depth, truth in _with_truth(played.depth, clips)
      ]
      section.figures += _figures(prefix, DEPTH, rows, clips.maps)
  if played.normals is not None:
    rows = [
        depth_metrics.normal_metrics(
            normals, truth.normals[clips.given :], truth.exact[clips.given :]
        )
        for normals, truth in _with_truth(played.normals, clips)
    ]
    section.figures += _figures('normals', NORMALS, rows, clips.maps)
  return section


def _with_truth(predicted, clips):
  return [(x, clips.geometry(i)) for i, x in enumerate(predicted)]


def _figures(prefix, units, rows, maps):
  return [
      figures.mean(
          f'{prefix}_{name}',
          np.array([row[name] for row in rows]),
          maps,
          unit=unit,
      )
      for name, unit in units.items()
  ]

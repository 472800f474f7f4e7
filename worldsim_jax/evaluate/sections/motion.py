"""Motion: where did the camera go, and where did the points go?

Judged on the film alone, from the last given frame, whose depth is exact:

  odometry  each new frame is aligned with that frame by the movement that
            explains it best (evaluate/alignment.py). Frames of which too little
            is told are left out; the share that is kept is a figure.
  camera    the same as a path from that frame on, which is where the true one
            begins, so nothing is aligned: ATE and RPE against the engine's. A
            subject that predicts cameras is also measured on those, aligned
            by a rigid motion, as their world may be any.
  tracks    points of that frame are searched for around the places where they
            must be (evaluate/block_matching.py), and not beyond: errors end
            at the search's radius. Points that look like their surroundings
            are left out; `track_distinct` is the share that is kept.

The judges err, too: what they say of the true film stands beside every figure,
of the same clips.
"""

import numpy as np

from worldsim_jax.data import correspondence
from worldsim_jax.evaluate import alignment
from worldsim_jax.evaluate import block_matching
from worldsim_jax.evaluate import camera_metrics
from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate import track_metrics
from worldsim_jax.evaluate import trial as trials
from worldsim_jax.evaluate.trial import Trial

MOST_CLIPS = 20  # Alignment takes tens of milliseconds a frame.
AFTER = (1, 4, 8)  # frames: later little of that frame is left in view
PARTS = {'forward': 'map units', 'strafe': 'map units', 'turn': 'degrees'}
GRID = (6, 8)  # points of the last given frame
CAMERA = {
    'ate': 'map units',
    'rpe_translation': 'map units',
    'rpe_rotation': 'degrees',
}
TICS = 4  # per frame, for which alignment.REACH is meant
LEAST_FRAMES = 3  # of a path, the given one included


def measure(trial: Trial) -> figures.Section:
  section = figures.Section('Motion: the camera and points of the scene')
  spread = np.linspace(0, len(trial.clips) - 1, MOST_CLIPS).astype(int)
  chosen = np.unique(spread)
  clips, played = trial.clips.take(chosen), trial.played(trials.CLIPS)
  film = played.rgb[chosen]
  pace = trial.config.data.tics_per_frame / TICS
  reach = tuple(pace * r for r in alignment.REACH)
  ours, real = (
      [_judge(clips, i, shown[i], reach) for i in range(len(clips))]
      for shown in (film, clips.future)
  )
  for name in ours[0]:
    part, unit = name.rsplit('|', 1)
    values, true = ([row[name] for row in rows] for rows in (ours, real))
    true = np.where(np.isfinite(values), true, np.nan)
    # Alignment errs by little or by a lot, hence medians.
    reduce = figures.median if '_error' in part else figures.mean
    section.figures.append(
        reduce(part, values, clips.maps, real=true, unit=unit)
    )
  section.notes.append(
      f'{len(clips)} clips, {min(AFTER[-1], film.shape[1])} frames after the '
      'last given one; frames and steps between them of which too little is '
      'told are left out, of the true film as of the subject.'
  )
  if played.motions is not None:
    rows = [
        _camera(predicted, clips.motions[i, clips.given :], 'se3')
        for i, predicted in enumerate(played.motions[chosen])
    ]
    section.figures += [
        figures.mean(
            f'predicted_camera_{name}',
            [row[name] for row in rows],
            clips.maps,
            unit=unit,
        )
        for name, unit in CAMERA.items()
    ]
  return section


def _judge(clips, number, film, reach) -> dict[str, float]:
  """All figures of one clip, by 'name|unit'; NaN where nothing is told."""
  camera, geometry = clips.cameras[number], clips.geometry(number)
  last = clips.given - 1
  # Where sprites are the depth is that of what they hide.
  depth = np.where(geometry.exact[last], geometry.depth[last], np.inf)
  known = (camera, clips.rgb[number, last], depth)
  film = film[: AFTER[-1]]
  path = alignment.follow(
      *known, film, reach=reach, motion=geometry.motions[last]
  )
  true = geometry.motions[clips.given : clips.given + len(film)]
  told = {}
  moved = alignment.movements_of(true, geometry.motions[last])
  for after in (h for h in AFTER if h <= len(film)):
    accepted = path.accepted[after - 1]
    error = np.abs(path.movements[after - 1] - moved[after - 1])
    for index, (part, unit) in enumerate(PARTS.items()):
      told[f'{part}_error_{after}|{unit}'] = (
          error[index] if accepted else np.nan
      )
    told[f'odometry_accepted_{after}|'] = float(accepted)
  begin = geometry.motions[last : last + 1]
  camera_rows = _camera(
      np.concatenate([begin, path.motions]),
      np.concatenate([begin, true]),
      'none',
      known=np.append(True, path.accepted),
  )
  told |= {
      f'camera_{name}|{unit}': camera_rows[name]
      for name, unit in CAMERA.items()
  }
  return told | _tracks(clips, number, film, depth)


def _camera(predicted, true, alignment, known=None) -> dict[str, float]:
  frames = len(true) if known is None else np.sum(known)
  if frames < LEAST_FRAMES:
    return dict.fromkeys(CAMERA, np.nan)
  return camera_metrics.camera_metrics(
      predicted, true, alignment=alignment, known=known
  )


def _tracks(clips, number, film, depth) -> dict[str, float]:
  camera, geometry = clips.cameras[number], clips.geometry(number)
  last = clips.given - 1
  rows, columns = GRID
  uv = np.stack(
      np.meshgrid(
          (np.arange(columns) + 0.5) * camera.width / columns,
          (np.arange(rows) + 0.5) * camera.height / rows,
      ),
      -1,
  ).reshape(-1, 2)
  positions, visible = correspondence.tracks(geometry, last, uv)
  new = slice(clips.given, clips.given + len(film))
  positions, visible = positions[new], visible[new]
  found = block_matching.match(
      camera,
      film,
      positions,
      frame=clips.rgb[number, last],
      uv_frame=uv,
      motion=geometry.motions[last],
      motions=geometry.motions[new],
      depth=depth,
      normals=geometry.normals[last],
  )
  sure = found.distinct & visible
  f1 = track_metrics.visibility(found.found, visible, found.judged)['f1']
  return {
      'track_end_point_error|px': (
          track_metrics.end_point_error(found.uv, positions, sure)
      ),
      'track_visibility_f1|': f1,
      'track_distinct|': sure.sum() / max(1, visible.sum()),
  }

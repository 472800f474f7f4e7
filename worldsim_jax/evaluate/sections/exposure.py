"""Exposure bias: what a model loses by living on its own frames.

Frames are predicted from ever more true ones, and at ever larger distances from
them: rows of the table are the true context, columns the horizon. Horizon 1 is
the teacher-forced next frame, the number that GameNGen reports
(Valevski et al. 2024, arXiv 2408.14837: 29.4 dB on its own recordings of Doom,
of other maps, another resolution and another player, so a rough comparison).
What a column of the table loses to its first is the price of the model's own
mistakes; what a row gains over the one above is worth a longer past.
"""

import dataclasses

import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import clips as clips_lib
from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate import image_metrics
from worldsim_jax.evaluate.trial import Trial
from worldsim_jax.models import build

HORIZONS = (1, 4, 16)


def measure(trial: Trial) -> figures.Section:
  """The table, for subjects that are a causal model.

  Raises:
    UserError: for other subjects.
  """
  if trial.world is None:
    raise UserError(
        f'the subject {trial.name} cannot be given a context of any length'
    )
  section = figures.Section('Exposure bias: true context against own frames')
  contexts = lengths(trial.world)
  longest = pixel_frames(trial.world, contexts[-1])
  horizon = trial.config.evaluate.horizon
  clips = _clips(trial, longest + horizon)
  horizons = [h for h in HORIZONS if h <= horizon]
  rows, curves = [], {}
  for context in contexts:
    shown = pixel_frames(trial.world, context)
    film = trial.subject(_given(clips, longest, shown)).rgb
    psnr = image_metrics.psnr(film, clips.future)
    row = [
        figures.mean(
            f'psnr_{h}_after_{shown}_true_frames',
            psnr[:, h - 1],
            clips.maps,
            unit='dB',
        )
        for h in horizons
    ]
    section.figures += row
    rows.append([shown, *(f.value for f in row)])
    curves[f'{shown} true frames'] = figures.curve(
        np.arange(1, horizon + 1), psnr, clips.maps
    )
  # The next frame after the longest true context.
  section.figures.append(
      dataclasses.replace(
          section.figures[-len(horizons)], name='teacher_forced_next_frame_psnr'
      )
  )
  section.tables.append(
      (
          'PSNR (dB) by true context and horizon',
          ['true frames', *(f'frame {h}' for h in horizons)],
          rows,
      )
  )
  section.plots.append(
      dict(
          title='Horizon by true context',
          series=curves,
          x_label='frame after the last true one',
          y_label='PSNR (dB)',
      )
  )
  return section


def lengths(world) -> list[int]:
  """Latent frames of true context: powers of two chunks, and all of the past.

  That is a full window; a state has no end, and gets what it was trained on.
  """
  config, student = world.config, world.config.student
  chunk, room = student.chunk, student.window
  if build.is_recurrent(config):
    room = config[config.stages[-1]].clip_frames
  longest = room // chunk * chunk
  doubled = [chunk * 2**k for k in range(room.bit_length())]
  least = student.context_frames if world.model.image else chunk
  return sorted({n for n in doubled if least <= n < longest} | {longest})


def pixel_frames(world, latent_frames: int) -> int:
  return 1 + world.vae.time_stride * (latent_frames - 1)


def _clips(trial, num_frames):
  """Like the trial's clips, with a longer beginning."""
  config = trial.config
  given = num_frames - config.evaluate.horizon
  return clips_lib.of_test_split(config, trial.frames_dir, given)


def _given(clips, longest, shown):
  """The clips without their first frames: only `shown` are given."""
  skipped = longest - shown
  return clips.last_frames(clips.rgb.shape[1] - skipped, given=shown)

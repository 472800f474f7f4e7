"""Exact replay: what a model makes against what truly happened.

The embedded world is deterministic, so for any recorded actions the true future
is known. Test clips give their first frames and all actions; each player
continues them, and is compared with the truth frame by frame:

  student   the causal few-step student, as it streams
  teacher   the bidirectional model, window by window, over many steps
  copy      the last given frame for ever
  vae       the truth through the tokenizer: what no latent model can exceed
  wrong     the student under negated actions: what obeying is worth

Only clips that move count: a still picture is a prize for copying.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.data import pipeline
from worldsim_jax.data import records
from worldsim_jax.data.actions import ActionSpace
from worldsim_jax.diffusion import flow
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import films
from worldsim_jax.evaluate import image_metrics
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import windows
from worldsim_jax.models import build
from worldsim_jax.models import tiny_vae
from worldsim_jax.models.conditioning import Conditioning

FILM_PLAYERS = {'true future': 'truth', 'teacher': 'teacher',
                'student': 'student'}


def test_clips(config, directory: str, given: int, seed: int = 0):
  """Clips of the test split whose first new frame moves.

  Args:
    config: of the run; evaluate.num_clips, horizon, min_motion (grey levels).
    directory: of the frames' records.
    given: pixel frames that the models are given.
    seed: of the choice.

  Returns:
    {'rgb': uint8 [n, P, H, W, 3], 'actions': [n, P, A], 'caption': n texts},
    P = given + horizon.
  """
  evaluate = config.evaluate
  clips = pipeline.eval_clips(
      records.Source(directory, 'test'), num_clips=evaluate.num_clips,
      clip_frames=given + evaluate.horizon, seed=seed,
      fields=('rgb', 'actions', 'caption'))
  moves = pipeline.motion(clips['rgb'][:, given - 1:given + 1])[:, 1]
  moving = moves >= evaluate.min_motion
  if not moving.any():
    raise UserError(
        f'none of {evaluate.num_clips} test clips moves by '
        f'{evaluate.min_motion} grey levels (config.evaluate.min_motion).')
  return {name: x[moving] for name, x in clips.items()}


def play(world, teacher_params, clips) -> dict[str, np.ndarray]:
  """Every player's continuation of the clips, uint8 [n, horizon, H, W, 3]."""
  given = world.context_frames
  rgb, actions = clips['rgb'], clips['actions']
  captions = list(clips['caption'])
  student = lambda actions: np.asarray(
      world.continue_videos(rgb[:, :given], actions, captions))
  truth = rgb[:, given:]
  wrong = actions.copy()
  wrong[:, given:] *= -1
  return {
      'truth': truth,
      'student': student(actions),
      'wrong': student(wrong),
      'teacher': np.asarray(teacher_continuation(world, teacher_params, clips)),
      'copy': np.repeat(rgb[:, given - 1:given], truth.shape[1], axis=1),
      'vae': np.asarray(_reconstruct(world, rgb))[:, given:],
  }


def teacher_continuation(world, params, clips, seed: int = 0):
  """The bidirectional model's continuation, uint8."""
  config, vae = world.config, world.vae
  evaluate, given = config.evaluate, config.student.context_frames
  num_new = (clips['rgb'].shape[1] - world.context_frames) // vae.time_stride
  sigmas = flow.sampling_sigmas(evaluate.teacher_steps, config.student.shift)
  velocity_fn = build.velocity_fn(world.model)

  @jax.jit
  def run(params, variables, frames, actions, text):
    z, _ = vae.apply(variables, tiny_vae.to_float(frames), method='encode')
    conditioning = Conditioning(
        text=text, actions=batches.group_actions(actions, vae.time_stride))
    new = windows.extend(
        velocity_fn, params, z, conditioning, jax.random.key(seed), sigmas,
        num_frames=num_new, window=evaluate.teacher_window,
        guidance_scale=evaluate.guidance_scale)
    _, carry = vae.apply(variables, z, method='decode')
    video, _ = vae.apply(variables, new, carry, method='decode')
    return tiny_vae.to_uint8(video)

  given_frames = clips['rgb'][:, :world.context_frames]
  return run(params, world.vae_variables, given_frames,
             ActionSpace().normalise(clips['actions']),
             world.encode_texts(list(clips['caption'])))


def score(played: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """PSNR in dB of every player against the truth, [n, horizon]."""
  return {name: image_metrics.psnr(film, played['truth'])
          for name, film in played.items() if name != 'truth'}


def summarise(scores: dict[str, np.ndarray], horizon: int = 16):
  """The numbers of a report.

  Returns:
    (summary, drift): flat figures by name, and for each player the curve
    (frame, mean, low, high) with 95 % intervals over clips.
  """
  summary = {'test_clips': len(scores['student'])}
  drift = {}
  for name, psnr in scores.items():
    mean, low, high = image_metrics.bootstrap_mean(psnr)
    drift[name] = (np.arange(1, psnr.shape[1] + 1), mean, low, high)
    summary[f'{name}_psnr_next_frame'] = float(mean[0])
    summary[f'{name}_psnr_{horizon}_frames'] = float(mean[:horizon].mean())
  for baseline in ('copy', 'wrong'):
    gain = (scores['student'] - scores[baseline])[:, 0]
    mean, low, high = image_metrics.bootstrap_mean(gain)
    summary[f'student_gain_over_{baseline}_next_frame'] = float(mean)
    summary[f'student_gain_over_{baseline}_next_frame_low'] = float(low)
    summary[f'student_gain_over_{baseline}_next_frame_high'] = float(high)
  return summary, drift


def film(played: dict[str, np.ndarray], clips, given: int, num_clips: int,
         scale: int = 3) -> np.ndarray:
  """Clips as rows, players as columns, after the given frames."""
  rows = []
  for index in range(min(num_clips, len(clips['rgb']))):
    before = clips['rgb'][index, :given]
    columns = {label: np.concatenate([before, played[name][index]])
               for label, name in FILM_PLAYERS.items()}
    captions = ['given' if p < given else describe(action)
                for p, action in enumerate(clips['actions'][index])]
    rows.append(films.side_by_side(columns, scale, captions))
  return films.grid(rows)


def describe(action) -> str:
  """An action in words: 'forward 24, turn left 8'."""
  forward, strafe, turn = (float(x) for x in action)
  words = [(forward, 'forward', 'back'),
           (strafe, 'strafe left', 'strafe right'),
           (turn, 'turn left', 'turn right')]
  said = [f'{positive if x > 0 else negative} {abs(x):.0f}'
          for x, positive, negative in words if abs(x) >= .5]
  return ', '.join(said) or 'stand'


def _reconstruct(world, rgb):
  @jax.jit
  def run(variables, frames):
    z, _ = world.vae.apply(
        variables, tiny_vae.to_float(frames), method='encode')
    video, _ = world.vae.apply(variables, z, method='decode')
    return tiny_vae.to_uint8(video)

  return run(world.vae_variables, rgb)

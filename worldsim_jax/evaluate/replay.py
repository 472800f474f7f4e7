"""Exact replay: what a model makes against what truly happened.

The embedded world is deterministic, so for any recorded actions the true future
is known. Test clips give their first frames and all actions; each player
continues them, and is compared with the truth frame by frame:

  student        the causal few-step student, as it streams
  undistilled    the same before its last stage, in as many steps
  teacher        the bidirectional model, window by window, over many steps
  copy           the last given frame for ever
  vae            the truth through the tokenizer: what no latent model exceeds
  wrong          the student under negated actions: what obeying is worth
  wrong_forward  the student with this component negated, the others right; and
                 so for each component that the clips command
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.data.actions import ActionSpace
from worldsim_jax.diffusion import samplers
from worldsim_jax.evaluate import films
from worldsim_jax.evaluate import image_metrics
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.clips import Clips
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import schedules
from worldsim_jax.forcing import windows
from worldsim_jax.models import build
from worldsim_jax.models import pixels
from worldsim_jax.models.conditioning import Conditioning

LONG, SHORT = 16, 8  # frames that figures are means over


def play(world, trained, clips: Clips) -> dict[str, np.ndarray]:
  """Every player's continuation of the clips, uint8 [n, horizon, H, W, 3].

  Args:
    world: the student's.
    trained: parameters by name: 'teacher', and maybe 'undistilled'.
    clips: world.context_frames of them are given.
  """
  given, actions, truth = clips.given, clips.actions, clips.future
  student = lambda actions, params=None: student_continuation(
      world, dataclasses.replace(clips, actions=actions), params)
  played = {
      'truth': truth,
      'student': student(actions),
      'teacher': teacher_continuation(world, trained['teacher'], clips),
      'copy': subjects.copy(clips).rgb,
      'vae': reconstruct(world, clips.rgb)[:, given:],
  }
  if 'undistilled' in trained:
    played['undistilled'] = student(actions, trained['undistilled'])
  for name, components in _mistakes(actions[:, given:]).items():
    wrong = actions.copy()
    wrong[:, given:, components] *= -1
    played[name] = student(wrong)
  return played


def _mistakes(actions_BPA) -> dict[str, list[int]]:
  """Which components each wrong player negates."""
  names = ActionSpace().names
  commanded = [i for i, _ in enumerate(names) if np.any(actions_BPA[..., i])]
  single = {f'wrong_{names[i]}': [i] for i in commanded}
  return {'wrong': list(range(len(names)))} | single


def student_continuation(world, clips: Clips, params=None, seed: int = 0):
  """The world's own continuation, uint8 [n, horizon, H, W, 3].

  Args:
    world: the student's; one that is bidirectional continues window by window.
    clips: any number of given frames that are whole chunks.
    params: of another student, instead of the world's own.
    seed: of its noise.
  """
  if not world.is_causal:
    return teacher_continuation(
        world, world.params if params is None else params, clips, seed,
        world.config.stages[-1])
  return np.asarray(world.continue_videos(
      clips.rgb[:, :clips.given], clips.actions, clips.captions, seed, params))


def teacher_continuation(world, params, clips: Clips, seed: int = 0,
                         stage: str = ''):
  """A bidirectional model's continuation, uint8 [n, horizon, H, W, 3].

  Args:
    world: of its run.
    params: of the model.
    clips: to continue.
    seed: of its noise.
    stage: of which it is; default: config.evaluate.teacher.
  """
  config, evaluate = world.config, world.config.evaluate
  num_new = clips.horizon // world.vae.time_stride
  # Runs of before it could be chosen have no key.
  sampler = samplers.SAMPLERS[evaluate.get('teacher_sampler', 'euler')]
  sigmas = sampler.sigmas(evaluate.teacher_steps, config.student.shift)

  def extend(velocity_fn, params, z, conditioning, rng):
    return windows.extend(
        velocity_fn, params, z, conditioning, rng, sigmas, num_frames=num_new,
        window=evaluate.teacher_window, guidance_scale=evaluate.guidance_scale,
        sample=sampler.sample)

  return _in_windows(
      world, params, clips, stage or evaluate.teacher, extend, seed)


def matrix_continuation(world, params, clips: Clips, stage: str,
                        seed: int = 0):
  """A causal network's, by a sampling matrix (forcing/schedules.py).

  Windows are as long as the clips that the stage was trained on.

  Args:
    world: of a run; its config has evaluate.matrix, matrix_delay, the levels
      (student.timesteps) and, as student.context_sigma, the one at which clean
      frames are seen.
    params: of the network.
    clips: to continue.
    stage: which network, see `build.for_network`.
    seed: of its noise.
  """
  config = world.config
  evaluate, student = config.evaluate, config.student
  new = config[stage].clip_frames - student.context_frames
  rows = schedules.matrix(
      evaluate.matrix, build.student_sigmas(config), new // student.chunk,
      delay=evaluate.matrix_delay)

  def extend(velocity_fn, params, z, conditioning, rng):
    return schedules.extend(
        velocity_fn, params, z, conditioning, rng, rows, chunk=student.chunk,
        num_frames=clips.horizon // world.vae.time_stride,
        stabilisation_sigma=student.context_sigma,
        guidance_scale=evaluate.guidance_scale)

  return _in_windows(world, params, clips, stage, extend, seed)


def _in_windows(world, params, clips, stage: str, extend, seed: int):
  """The continuation by `extend` in latents, uint8 [n, horizon, H, W, 3]."""
  vae = world.vae
  velocity_fn = build.velocity_fn(
      build.denoiser(build.for_network(world.config, stage)))

  @jax.jit
  def run(params, variables, frames, actions, text):
    z, _ = vae.apply(variables, pixels.to_float(frames), method='encode')
    conditioning = Conditioning(
        text=text, actions=batches.group_actions(actions, vae.time_stride))
    new = extend(velocity_fn, params, z, conditioning, jax.random.key(seed))
    _, carry = vae.apply(variables, z, method='decode')
    video, _ = vae.apply(variables, new, carry, method='decode')
    return pixels.to_uint8(video)

  return np.asarray(run(
      params, world.vae_variables, clips.rgb[:, :clips.given],
      ActionSpace().normalise(clips.actions),
      world.encode_texts(clips.captions)))


def score(played: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """PSNR in dB of every player against the truth, [n, horizon]."""
  return {name: image_metrics.psnr(film, played['truth'])
          for name, film in played.items() if name != 'truth'}


def summarise(scores: dict[str, np.ndarray], actions_BPA, maps):
  """The numbers of a report.

  Args:
    scores: from `score`.
    actions_BPA: that led to the frames that were scored.
    maps: [n], which map each clip is of.

  Returns:
    (summary, drift): flat figures by name, and for each player the curve
    (frame, mean, low, high). Intervals are of 95 % and resample maps: clips
    of one map are not independent.
  """
  summary = {'test_clips': len(scores['student']),
             'test_maps': len(set(maps))}
  drift = {}
  for name, psnr in scores.items():
    mean, low, high = image_metrics.bootstrap_mean(psnr, maps)
    if not name.startswith('wrong_'):
      drift[name] = (np.arange(1, psnr.shape[1] + 1), mean, low, high)
    summary[f'{name}_psnr_next_frame'] = float(mean[0])
    first = mean[:LONG]
    summary[f'{name}_psnr_{len(first)}_frames'] = float(first.mean())
  for baseline in ('copy', 'wrong'):
    gain = (scores['student'] - scores[baseline])[:, 0]
    summary |= _interval(
        f'student_gain_over_{baseline}_next_frame', gain, maps)
  short = actions_BPA[:, :SHORT]
  for index, component in enumerate(ActionSpace().names):
    # Clips in which it is commanded most of the time.
    clips = np.mean(short[..., index] != 0, axis=1) > 0.5
    if f'wrong_{component}' in scores and clips.any():
      cost = scores['student'] - scores[f'wrong_{component}']
      summary[f'clips_with_{component}'] = int(clips.sum())
      summary |= _interval(
          f'cost_of_wrong_{component}_{short.shape[1]}_frames',
          cost[clips, :SHORT].mean(axis=1), maps[clips])
  return summary, drift


def _interval(name: str, values, maps) -> dict[str, float]:
  """A mean with the ends of its 95 % interval."""
  mean, low, high = image_metrics.bootstrap_mean(values, maps)
  return {name: float(mean), f'{name}_low': float(low),
          f'{name}_high': float(high)}


def film(columns: dict[str, np.ndarray], clips: Clips, num_clips: int,
         scale: int = 3) -> np.ndarray:
  """Clips as rows, continuations as columns, after the given frames.

  Args:
    columns: by label, uint8 [n, horizon, H, W, 3].
    clips: that they continue.
    num_clips: at most so many rows.
    scale: whole number by which pixels are repeated.
  """
  rows, given = [], clips.given
  for index in range(min(num_clips, len(clips))):
    before = clips.rgb[index, :given]
    shown = {label: np.concatenate([before, film[index]])
             for label, film in columns.items()}
    captions = ['given' if p < given else describe(action)
                for p, action in enumerate(clips.actions[index])]
    rows.append(films.side_by_side(shown, scale, captions))
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


def reconstruct(world, rgb) -> np.ndarray:
  """Films uint8 [n, P, H, W, 3] through the tokenizer and back."""
  @jax.jit
  def run(variables, frames):
    z, _ = world.vae.apply(
        variables, pixels.to_float(frames), method='encode')
    video, _ = world.vae.apply(variables, z, method='decode')
    return pixels.to_uint8(video)

  return np.asarray(run(world.vae_variables, rgb))

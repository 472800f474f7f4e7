"""Films made at once, shot beside shot, by a bidirectional world.

All frames are denoised together over many steps; what each reads of the others
is what it read in training (forcing/mixtures.py). The first frames are given.
Shots are as long as one another, but for a frame, and are decoded one by one:
the first latent frame of each is one pixel frame.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.data.actions import ActionSpace
from worldsim_jax.diffusion import samplers
from worldsim_jax.errors import UserError
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import mixtures
from worldsim_jax.forcing import windows
from worldsim_jax.models import build
from worldsim_jax.models import pixels
from worldsim_jax.models.conditioning import Conditioning


class Plan(NamedTuple):
  """A film before it is made.

  Attributes:
    shot_F: int, the shot of each latent frame.
    lengths: latent frames of each shot.
    frames: pixel frames of each shot.
  """
  shot_F: np.ndarray
  lengths: list[int]
  frames: list[int]


def plan(world, num_shots: int | None = None) -> Plan:
  """How a world's films are cut: as many shots as its clips had at most.

  Raises:
    UserError: for more shots than that.
  """
  stage = world.config[world.config.stages[-1]]
  most = stage.get('shots', 1)
  num_shots = num_shots or most
  if not 1 <= num_shots <= most:
    raise UserError(
        f'a film of {num_shots} shots: this world makes 1 to {most} '
        f'(config.{world.config.stages[-1]}.shots).')
  shot_F = np.arange(stage.clip_frames) * num_shots // stage.clip_frames
  lengths = np.bincount(shot_F).tolist()
  stride = world.vae.time_stride
  return Plan(shot_F, lengths, [1 + stride * (n - 1) for n in lengths])


def make(world, prompts=(), *, num_shots: int | None = None, frames=None,
         actions=None, seed: int = 0):
  """A film.

  Args:
    world: a bidirectional one.
    prompts: for models with text: of each shot, or one for all of them.
    num_shots: default: of the prompts, if there are several, else as many as
      there can be.
    frames: uint8 [P, H, W, 3], world.context_frames to begin with; default: one
      of the world's starts, chosen by the seed.
    actions: physical units, [frames of the film, 3]; default: stand still.
      Where they are too few the last one goes on.
    seed: of everything random.

  Returns:
    uint8 [frames, H, W, 3], the given ones included.

  Raises:
    UserError: if the world makes no such films.
  """
  per_shot = world.model.text_dim and world.config.text.get('per_shot')
  if len(prompts) > 1:
    if not per_shot:
      raise UserError(f'{len(prompts)} prompts, but this world reads one for a '
                      'whole film (config.text.per_shot).')
    num_shots = len(prompts)
  cut = plan(world, num_shots)
  text = None
  if world.model.text_dim:
    text = world.encode_texts(prompts or [''])
    if per_shot:
      text = jnp.broadcast_to(text, (len(cut.lengths), *text.shape[1:]))[None]
  elif prompts:
    world.encode_text(prompts[0])  # It says why it cannot.
  actions = _fitted(np.zeros((1, build.NUM_ACTIONS))
                    if actions is None else actions, sum(cut.frames))
  grouped = np.concatenate([
      batches.group_actions(shot[None], world.vae.time_stride)
      for shot in np.split(ActionSpace().normalise(actions),
                           np.cumsum(cut.frames)[:-1])], axis=1)
  latents = jax.jit(sampler(world, cut))(
      world.variables, world.first_frames(frames, seed)[None],
      Conditioning(text=text, actions=jnp.asarray(grouped)),
      jax.random.key(seed))
  decode = jax.jit(lambda variables, z: pixels.to_uint8(world.vae.apply(
      variables, z, method='decode')[0]))
  shots = np.split(latents, np.cumsum(cut.lengths)[:-1], axis=1)
  return np.concatenate(
      [np.asarray(decode(world.vae_variables, shot)[0]) for shot in shots])


def sampler(world, cut: Plan):
  """(variables, frames [B, P, H, W, 3], conditioning, rng) -> latents; pure."""
  config, evaluate = world.config, world.config.evaluate
  velocity = with_context(world, cut)
  solver = samplers.SAMPLERS[evaluate.teacher_sampler]
  sigmas = solver.sigmas(evaluate.teacher_steps, config.student.shift)

  def run(variables, frames_BPHWC, conditioning, rng):
    given, _ = world.vae.apply(
        variables['vae'], pixels.to_float(frames_BPHWC), method='encode')
    new = windows.continue_window(
        velocity, variables['student'], given, conditioning, rng, sigmas,
        window=len(cut.shot_F), guidance_scale=evaluate.guidance_scale,
        sample=solver.sample)
    return jnp.concatenate([given, new], axis=1)

  return run


def with_context(world, cut: Plan):
  """(params, x, timesteps, conditioning) -> v of a film that is cut so."""
  velocity_fn = build.velocity_fn(world.model)
  context_of = mixtures.of_stage(world.config.stages[-1], world.config)

  def velocity(params, x, timesteps, conditioning):
    shot_BF = jnp.broadcast_to(jnp.asarray(cut.shot_F), x.shape[:2])
    return velocity_fn(params, x, timesteps, conditioning,
                       context_of and context_of(shot_BF))

  return velocity


def _fitted(actions, count: int):
  """So many rows, the last one repeated."""
  actions = np.asarray(actions, np.float32)[:count]
  return np.pad(actions, [(0, count - len(actions)), (0, 0)], mode='edge')

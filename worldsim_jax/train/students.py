"""What distils a student: its videos, who judges them, and the loss of both.

  generator  the student's videos, as the stage's paradigm has them
  judges     the networks that a divergence calls, by role
  matched    one loss of a divergence between those videos and the data

The critic is the one network that a stage trains beside its student. It is a
transformer of the size of what it starts from; where the divergence calls a
discriminator, it also has that one's heads.
"""

import functools
from typing import Any, Callable, NamedTuple

import jax
import numpy as np

from worldsim_jax.distill import divergences
from worldsim_jax.distill import matching
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import one_pass
from worldsim_jax.forcing import rollout
from worldsim_jax.forcing import self_forcing
from worldsim_jax.models import build
from worldsim_jax.models import discriminator
from worldsim_jax.train.state import purpose_key

CRITIC = 'critic'
TEACHER = 'teacher'
LATENT_SPACE = 'latent_space'  # The tokenizer's variables, where they are read.
ONE_PASS = {'teacher_forced': one_pass.teacher_forced,
            'diffusion_forced': one_pass.diffusion_forced}


class Judge(NamedTuple):
  """A network in a role.

  Attributes:
    network: the name of its parameters, TEACHER or CRITIC.
    fn: (params, x_BFHWC, timesteps_BF, conditioning) -> what the role gives,
      see distill/matching.py.
  """
  network: str
  fn: Callable[..., Any]


def divergence(name: str, config) -> divergences.Divergence:
  """That of a stage."""
  return divergences.DIVERGENCES[config[name].divergence]


def critic_start(name: str, config) -> str:
  """The stage whose network the critic starts from."""
  stage = config[name]
  return stage.critic.start_from or stage.teacher or stage.start_from


def judges(name: str, config) -> dict[str, Judge]:
  """All that the stage's divergence calls, by role."""
  stage, needed = config[name], divergence(name, config).networks
  critic = critic_start(name, config)
  makers = {
      'teacher': lambda: Judge(TEACHER, velocity(config, stage.teacher)),
      'critic': lambda: Judge(CRITIC, velocity(config, critic)),
      'discriminator': lambda: Judge(CRITIC, _judging(name, config))}
  return {role: makers[role]() for role in needed}


def critic(name: str, config, params):
  """The critic's first parameters, from those of `critic_start`."""
  if not divergence(name, config).needs_discriminator:
    return params
  model = _critic_model(name, config)
  key = purpose_key(config.seed, 0, 'init')
  return discriminator.with_heads(key, model, _heads(name, config), params)


def generator(name: str, config):
  """(params, batch, rng) -> (video, metrics), by the stage's paradigm.

  `params` has the student's by its name and, if `needs_latent_space`, the
  tokenizer's variables.
  """
  make = _generator(name, config)

  def generate(params, batch, rng):
    first = None
    if needs_latent_space(name, config):
      first = functools.partial(
          _as_first, build.tokenizer(config), params[LATENT_SPACE])
    return make(first)(params[name], batch, rng)

  return generate


def needs_latent_space(name: str, config) -> bool:
  """Whether a student's videos begin in the middle of what it made.

  Tokenizers that compress time make a video's first latent of one pixel frame,
  the others of several, so the one that becomes the first is encoded again.
  """
  stage = config[name]
  num_new = stage.clip_frames - config.student.context_frames
  return (0 < stage.get('gradient_frames', 0) < num_new
          and build.tokenizer(config).time_stride > 1)


def _as_first(vae, variables, video_BFHWC):
  """The last frame of a video as the first of another, [B, H, W, C]."""
  pixels, _ = vae.apply(variables, video_BFHWC, method='decode')
  latents, _ = vae.apply(variables, pixels[:, -1:], method='encode')
  return latents[:, 0]


def _generator(name, config):
  """first_latent -> (the student's params, batch, rng) -> (video, metrics)."""
  stage, student_fn = config[name], velocity(config, name)
  sampling = rollout.of_config(config)
  frames = dict(context_frames=config.student.context_frames)
  if stage.paradigm in ONE_PASS:
    return lambda first_latent: ONE_PASS[stage.paradigm](
        student_fn, levels(name, config), chunk=sampling.chunk, **frames)
  own, student = build.for_network(config, name), config.student
  slots = stage.clip_frames
  if not student.get('recall'):
    slots = self_forcing.cache_slots(
        slots, student.chunk, student.window, student.sink)
  return lambda first_latent: self_forcing.make_generator(
      student_fn, lambda batch: build.new_cache(own, batch, slots), sampling,
      exit_steps=stage.exit_steps, first_latent=first_latent,
      gradient_frames=stage.gradient_frames or None, **frames)


def matched(loss, generate, name: str, config):
  """A loss of a divergence, of the videos of a student.

  Args:
    loss: of distill/, see distill/matching.py.
    generate: see `generator`.
    name: of the student: its stage and its parameters.
    config: of the run.

  Returns:
    (params, batch, rng) -> (loss, metrics).
  """
  given, called = config.student.context_frames, judges(name, config)

  def of_batch(params, batch, rng):
    rng_video, rng_divergence = jax.random.split(rng)
    video, video_metrics = generate(params, batch, rng_video)
    batch = batches.last_frames(batch, video.shape[1])
    sample = matching.Sample(
        video, batch['latents'], batches.conditioning(batch), given)
    networks = {
        role: _seeing_context(
            functools.partial(judge.fn, params[judge.network]), given)
        for role, judge in called.items()}
    value, metrics = loss(networks, sample, rng_divergence, config[name])
    return value, video_metrics | metrics

  return of_batch


def _seeing_context(judge, context_frames: int):
  """A judge of clips, each with the image of its own context.

  The data's clip has another past than the end of a long rollout, which nobody
  is to know.
  """
  return lambda x_BFHWC, timesteps_BF, conditioning: judge(
      x_BFHWC, timesteps_BF, conditioning.with_image(
          *batches.image_before_future(x_BFHWC, context_frames)))


def levels(name: str, config) -> np.ndarray:
  """σ of which a chunk of a true clip, or of a teacher's curve, has one."""
  sigmas = build.student_sigmas(config)
  is_also_clean = config[name].clean_level
  return np.append(sigmas, np.float32(0)) if is_also_clean else sigmas


def velocity(config, network: str):
  """(params, x, timesteps, conditioning, ..) -> v of a stage's network."""
  return build.velocity_fn(
      build.denoiser(build.for_network(config, network)))


def _critic_model(name, config):
  return build.denoiser(
      build.for_network(config, critic_start(name, config)))


def _heads(name, config) -> discriminator.Heads:
  return discriminator.heads(
      _critic_model(name, config), **config[name].critic.discriminator)


def _judging(name, config):
  return discriminator.judging_fn(
      _critic_model(name, config), _heads(name, config))

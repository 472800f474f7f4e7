"""A training step of Self Forcing beside one of Teacher Forcing.

Both students are distilled by DMD on the same clips, with the same networks and
as many new frames; they differ in how the video is made that is matched:

  teacher forcing  one pass over [clean; noisy] frames, nearly twice the clip,
                   each chunk noised to a random level of the student's
  self forcing     the rollout: per chunk 1 to K passes without gradient and one
                   that is clean, then the exit steps with gradient

Rows, from the part that differs to the whole. Each is a gradient; optimisers,
the same for both, are left out, which makes the ratio no smaller.

  student passes    the video, and its gradient in the student's parameters
  generator update  the same with teacher (guided) and critic
  critic update     the video without gradient, and the critic's gradient
  step              what the paper's comparison is about, as we read it: seconds
                    per iteration of the whole training, a critic update and,
                    every `generator_every` steps, a generator update

A timed repeat of Self Forcing takes every exit step once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks import train_step
from worldsim_jax.attention import context as contexts
from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import objective
from worldsim_jax.distill import dmd
from worldsim_jax.distill import matching
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import rollout
from worldsim_jax.forcing import self_forcing
from worldsim_jax.models import build

STUDENT, STAGE = 'student', 'self_forcing'
KINDS = ('teacher_forcing', 'self_forcing')


def benchmark(options):
  """A row per part of a step, then the step."""
  config = options.config
  stage = config[STAGE]
  samples = measure(config, options.repeats)
  every = stage.generator_every
  samples['step'] = {
      kind: samples['critic update'][kind]
            + samples['generator update'][kind] / every for kind in KINDS}
  return [_row(part, seconds, config) for part, seconds in samples.items()]


def measure(config, repeats: int):
  """Seconds of each turn, part -> kind -> [repeats]."""
  stage = config[STAGE]
  params, velocities = _networks(config)
  batch = jax.tree.map(jnp.asarray, train_step.latent_batch(
      config, stage.batch_size, stage.clip_frames))
  sampling = rollout.Sampling(
      build.student_sigmas(config), config.student.chunk,
      config.student.context_sigma)
  generators = {
      'teacher_forcing': _teacher_forced(velocities[STUDENT], config),
      'self_forcing': _self_forced(velocities[STUDENT], config, sampling)}
  samples, keys = {}, None
  for part, (loss_of, network) in PARTS.items():
    gradients = {
        kind: _gradient(loss_of(
            generate, velocities, stage, config.student.context_frames),
                        network)
        for kind, generate in generators.items()}
    keys = keys or _keys_of_exit_steps(functools.partial(
        gradients['self_forcing'], params, batch), len(sampling.sigmas))
    seconds = timing.seconds({
        kind: functools.partial(_each, gradient, params, batch, keys)
        for kind, gradient in gradients.items()}, repeats)
    samples[part] = {
        kind: np.array(seconds[kind]) / len(keys) for kind in KINDS}
  return samples


def _networks(config):
  """Untrained parameters and velocity functions, by role."""
  stage = config[STAGE]
  roles = {STUDENT: STAGE, 'teacher': stage.teacher,
           'critic': stage.critic.start_from or stage.teacher}
  params, velocities = {}, {}
  for role, name in roles.items():
    own = build.for_network(config, name)
    model = build.transformer(own)
    params[role] = jax.jit(model.init)(
        jax.random.key(0), *build.example_inputs(own))['params']
    velocities[role] = build.velocity_fn(model)
  return params, velocities


def _self_forced(velocity_fn, config, sampling):
  student, frames = config.student, config[STAGE].clip_frames
  own = build.for_network(config, STAGE)
  slots = self_forcing.cache_slots(
      frames, student.chunk, student.window, student.sink)
  return self_forcing.make_generator(
      velocity_fn, lambda batch: build.new_cache(own, batch, slots), sampling,
      context_frames=student.context_frames)


def _teacher_forced(velocity_fn, config):
  """generate(params, batch, rng) -> (video, {}) in one pass."""
  given, chunk = config.student.context_frames, config.student.chunk
  sigmas = build.student_sigmas(config)

  def generate(params, batch, rng):
    rng_sigma, rng_eps = jax.random.split(rng)
    x0 = batch['latents']
    frames = x0.shape[1]
    context = contexts.teacher_forcing(frames, chunk, given)
    level = jax.random.randint(
        rng_sigma, (len(x0), (frames - given) // chunk), 0, len(sigmas))
    sigma_BF = jnp.repeat(jnp.asarray(sigmas)[level], chunk, axis=1)
    x, _ = objective.noised(rng_eps, x0[:, given:], sigma_BF)
    clean = x0[:, :-chunk]
    told = jnp.concatenate([jnp.zeros(clean.shape[:2]), sigma_BF], axis=1)
    condition = batches.conditioning(batch).with_image(
        *batches.image_before_chunks(x0, chunk))
    v = velocity_fn(
        params, jnp.concatenate([clean, x], axis=1), flow.timesteps(told),
        condition.at_frames(context.positions), context)[:, clean.shape[1]:]
    made = flow.x0_from_velocity(x, v, sigma_BF)
    return jnp.concatenate([x0[:, :given], made], axis=1), {}

  return generate


def _student_passes(generate, *unused):
  def loss(params, batch, rng):
    video, metrics = generate(params[STUDENT], batch, rng)
    return jnp.mean((video - batch['latents'])**2), metrics

  return loss


def _matched(divergence, generate, velocities, stage, given: int):
  """The student's or the critic's loss, as stages have it."""
  def loss(params, batch, rng):
    video, metrics = generate(params[STUDENT], batch, rng)
    image = batches.image_before_future(batch['latents'], given)
    sample = matching.Sample(
        video, batch['latents'], batches.conditioning(batch).with_image(*image),
        given)
    networks = {role: functools.partial(velocity, params[role])
                for role, velocity in velocities.items()}
    rng_divergence = jax.random.fold_in(rng, 1)
    return divergence(networks, sample, rng_divergence, stage)[0], metrics

  return loss


# The part of a step, whose loss it is, and the network that it trains.
PARTS = {
    'student passes': (_student_passes, STUDENT),
    'generator update': (
        functools.partial(_matched, dmd.generator_loss), STUDENT),
    'critic update': (functools.partial(_matched, dmd.critic_loss), 'critic'),
}


def _gradient(loss, network: str):
  """Jitted (params, batch, rng) -> (gradient in one network, metrics)."""
  def of_network(own, params, batch, rng):
    return loss(params | {network: own}, batch, rng)

  gradient = jax.grad(of_network, has_aux=True)
  return jax.jit(lambda params, batch, rng: gradient(
      params[network], params, batch, rng))


def _each(gradient, params, batch, keys):
  return [gradient(params, batch, key) for key in keys]


def _keys_of_exit_steps(rollout_gradient, num_steps: int):
  """Keys with which the rollout leaves at steps 0, 1, .. K-1."""
  keys = {}
  for key in jax.random.split(jax.random.key(0), 100 * num_steps):
    _, metrics = rollout_gradient(key)
    keys.setdefault(int(metrics['exit_step']), key)
    if len(keys) == num_steps:
      break
  return [keys[step] for step in range(num_steps)]


def _row(part: str, seconds, config):
  stage = config[STAGE]
  ratios = timing.ratios(*(seconds[kind] for kind in reversed(KINDS)))
  row = {'part': part, 'batch': stage.batch_size, 'frames': stage.clip_frames,
         'chunk': config.student.chunk, 'steps': len(config.student.timesteps)}
  for kind in KINDS:
    row[f'{kind}_seconds_median'] = float(np.median(seconds[kind]))
  return row | timing.spread('ratio_to_teacher_forcing', ratios)

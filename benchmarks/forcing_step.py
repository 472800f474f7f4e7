"""A training step of Self Forcing beside one of Teacher Forcing.

Both students are distilled by DMD on the same clips, with the same networks and
as many new frames; they differ in how the video is made that is matched:

  teacher forcing  one pass over [clean; noisy] frames, nearly twice the clip,
                   each chunk noised to a random level of the student's
  self forcing     the rollout: per chunk 1 to K passes without gradient and one
                   that is clean, then the exit steps with gradient

Rows, from the part that differs to the whole. The first three are gradients
alone, without optimisers; a timed repeat takes every exit step once.

  student passes    the video, and its gradient in the student's parameters
  generator update  the same with teacher (guided) and critic
  critic update     the video without gradient, and the critic's gradient
  step              what the paper's comparison is about, as we read it: seconds
                    per iteration of the whole training, through the code that
                    trains: a critic update and, every `generator_every` steps,
                    a generator update; the mean of CYCLES such rounds, with
                    exit steps as they come
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks import train_step
from worldsim_jax.distill import dmd
from worldsim_jax.models import build
from worldsim_jax.train import students

STUDENT = 'self_forcing'  # the stage
KINDS = ('teacher_forced', 'self_forcing')
CYCLES = 4


def benchmark(options):
  """A row per part of a step, then the step."""
  config = options.config
  samples = measure(config, options.repeats)
  samples['step'] = measure_steps(config, options.repeats)
  return [_row(part, seconds, config) for part, seconds in samples.items()]


def measure_steps(config, repeats: int):
  """Seconds of a training step, kind -> [repeats]."""
  steps = {}
  for kind in KINDS:
    own, trained = _of_paradigm(config, kind), {}
    for name in own.stages[:own.stages.index(STUDENT) + 1]:
      stage = train_step.untrained_stage(name, own, trained)
    steps[kind] = train_step.Steps(stage, trained, own)
    count = CYCLES * train_step.cycle_of(stage)
  seconds = timing.seconds(
      {kind: functools.partial(steps[kind].run, count) for kind in KINDS},
      repeats)
  return {kind: np.array(seconds[kind]) / count for kind in KINDS}


def measure(config, repeats: int):
  """Seconds of each turn, part -> kind -> [repeats]."""
  stage = config[STUDENT]
  params = _networks(config)
  batch = jax.tree.map(jnp.asarray, train_step.latent_batch(
      config, stage.batch_size, stage.clip_frames))
  samples, keys = {}, None
  for part, (loss_of, network) in PARTS.items():
    gradients = {
        kind: _gradient(loss_of(students.generator(
            STUDENT, _of_paradigm(config, kind)), STUDENT, config),
                        network) for kind in KINDS}
    keys = keys or _keys_of_exit_steps(functools.partial(
        gradients['self_forcing'], params, batch), len(
            config.student.timesteps))
    seconds = timing.seconds({
        kind: functools.partial(_each, gradient, params, batch, keys)
        for kind, gradient in gradients.items()}, repeats)
    samples[part] = {
        kind: np.array(seconds[kind]) / len(keys) for kind in KINDS}
  return samples


def _networks(config):
  """Untrained parameters, by role."""
  stage = config[STUDENT]
  roles = {STUDENT: STUDENT, 'teacher': stage.teacher,
           'critic': students.critic_start(STUDENT, config)}
  params = {}
  for role, name in roles.items():
    own = build.for_network(config, name)
    model = build.denoiser(own)
    params[role] = jax.jit(model.init)(
        jax.random.key(0), *build.example_inputs(own))['params']
  return params


def _of_paradigm(config, paradigm: str):
  config = config.copy_and_resolve_references()
  config[STUDENT].paradigm = paradigm
  return config


def _student_passes(generate, *unused):
  def loss(params, batch, rng):
    video, metrics = generate(params, batch, rng)
    return jnp.mean((video - batch['latents'])**2), metrics

  return loss


# The part of a step, whose loss it is, and the network that it trains.
PARTS = {
    'student passes': (_student_passes, STUDENT),
    'generator update': (
        functools.partial(students.matched, dmd.generator_loss), STUDENT),
    'critic update': (
        functools.partial(students.matched, dmd.critic_loss), 'critic'),
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
  stage = config[STUDENT]
  ratios = timing.ratios(*(seconds[kind] for kind in reversed(KINDS)))
  row = {'part': part, 'batch': stage.batch_size, 'frames': stage.clip_frames,
         'chunk': config.student.chunk, 'steps': len(config.student.timesteps)}
  for kind in KINDS:
    row[f'{kind}_seconds_median'] = float(np.median(seconds[kind]))
  return row | timing.spread('ratio_to_teacher_forced', ratios)

"""Checks of a student's config: how it is initialised, distilled and watched.

Part of `validation`; every message is one line and names the key to change.
"""

import jax
import jax.numpy as jnp

from worldsim_jax.attention import attend
from worldsim_jax.attention import sequence
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.diffusion import objective
from worldsim_jax.distill import divergences
from worldsim_jax.distill import dmd
from worldsim_jax.distill import gan
from worldsim_jax.errors import UserError
from worldsim_jax.forcing import mixtures
from worldsim_jax.forcing import ode
from worldsim_jax.forcing import paradigms
from worldsim_jax.forcing import schedules
from worldsim_jax.forcing import self_forcing
from worldsim_jax.models import build
from worldsim_jax.parallel import layout
from worldsim_jax.train import students

_CHOICES = {
    'weight': objective.WEIGHTS,
    'critic_weight': objective.WEIGHTS,
    'frozen_dtype': ('float32', 'bfloat16'),
    'divergence': divergences.DIVERGENCES,
    'score_weight': dmd.SCORE_WEIGHTS,
    'adversarial': gan.ADVERSARIAL,
    'penalty': gan.PENALTIES,
    'exit_steps': self_forcing.EXIT_STEPS,
    'past': mixtures.PASTS,
}


def check_keys(name, stage):
  """Raises UserError for a word that means nothing."""
  for key, known in _CHOICES.items():
    if key in stage and stage[key] not in known:
      raise UserError(f'config.{name}.{key}={stage[key]!r} is not one of '
                      f'{tuple(known)}.')


def check_counts(where, settings, keys):
  """Raises UserError unless these are at least 1, where they are given."""
  for key in keys:
    if settings.get(key, 1) < 1:
      raise UserError(f'{where}.{key}={settings[key]} must be at least 1.')


def needs_teacher(stage) -> bool:
  """Whether a stage cannot be without one."""
  if stage.paradigm in paradigms.DISTILLED:
    return divergences.DIVERGENCES[stage.divergence].needs_teacher
  return stage.paradigm in paradigms.INITIALISED


def check(config):
  """Raises UserError, or ValueError with a line to show, for all students.

  Their stages, and all that these start from, are known to exist.
  """
  for name in config.stages:
    stage = config[name]
    _check_recurrent(name, config)
    if needs_teacher(stage):
      _check_guidance(name, config)
    if stage.paradigm in paradigms.DISTILLED:
      _check_gradients(name, config)
      students.judges(name, config)  # Heads that do not fit raise.
    if stage.paradigm == 'self_forcing':
      _check_gradient_frames(name, config)
  _check_initialisation(config)
  _check_monitors(config)
  _check_recall(config)
  if config.evaluate.get('matrix'):
    schedules.matrix(config.evaluate.matrix, build.student_sigmas(config), 2,
                     delay=config.evaluate.matrix_delay)


def _check_recall(config):
  """What a student recalls of its cache."""
  student = config.student
  if not student.get('recall'):
    return
  settings, own = student.recall, build.student(config)
  if build.is_recurrent(own):
    raise UserError("config.student.recall cannot be: config.model.kind="
                    "'recurrent' has no past to choose from.")
  if student.window % student.chunk:
    raise UserError(
        f'config.student.window={student.window} must be a multiple of '
        f'config.student.chunk={student.chunk} for a student that recalls.')
  try:
    jax.eval_shape(lambda: build.new_cache(own, 1))
    moc.chosen(settings.implementation, own.model.dim // own.model.num_heads,
               jnp.dtype(own.model.dtype))
  except ValueError as e:
    raise UserError(
        str(e).replace('config.moc', 'config.student.recall')) from e
  for name in config.stages:
    clip = config[name].clip_frames
    if (config[name].paradigm == 'self_forcing'
        and clip <= student.window + student.sink):
      raise UserError(
          f'config.{name}.clip_frames={clip} leaves nothing to recall beside '
          f'config.student.window={student.window} and config.student.sink='
          f'{student.sink}.')


def check_mesh(config, sizes):
  """Raises UserError for a mesh on which a student cannot recall.

  Args:
    config: of a run.
    sizes: of the mesh's axes.
  """
  if not config.student.get('recall'):
    return
  for name in config.stages:
    stage, own = config[name], build.for_network(config, name)
    streams = (stage.paradigm == 'self_forcing'
               or stage.get('monitor', {}).get('every'))
    if streams:  # Others read the whole clip at once.
      _check_heads(f'config.{name}', own, sizes)


def check_stream_mesh(config, sizes):
  """The same for a mesh on which it shall stream."""
  if config.student.get('recall'):
    _check_heads('a stream', build.student(config), sizes)


def _check_heads(who: str, own, sizes):
  heads = sequence.own_heads(build.num_heads(own), sizes)
  if heads % sizes['context']:
    raise UserError(
        f'config.mesh.context={sizes["context"]} must divide the {heads} heads '
        f'of a device, for {who} recalls from a cache '
        f'(config.model.num_heads={own.model.num_heads}, config.mesh.tensor).')


def _check_recurrent(name, config):
  """What a model with a state cannot be: it has no past to choose from."""
  stage = config[name]
  if stage.paradigm == 'tokenizer' or not build.is_recurrent(
      build.for_network(config, name)):
    return
  if stage.paradigm in ('teacher_forcing', 'teacher_forced', 'consistency'):
    raise UserError(
        f'config.{name}.paradigm={stage.paradigm!r} reads a clean past beside '
        "noisy frames, which config.model.kind='recurrent' cannot: take "
        "'diffusion_forcing' or 'self_forcing'.")


def _check_guidance(name, config):
  """Guidance needs something to drop, and a teacher that has seen it gone."""
  stage = config[name]
  scale = f'config.{name}.guidance_scale={stage.guidance_scale}'
  if stage.guidance_scale == 1.:
    return
  if not config.text.dim and not config.data.actions:
    raise UserError(f'{scale} guides by text or actions, and there are '
                    'neither (config.text.dim, config.data.actions): set it '
                    'to 1.')
  teacher = config[stage.teacher]
  is_trained = not teacher.get('weights') and not teacher.start_from
  if is_trained and not teacher.get('guidance_dropout', 1.):
    raise UserError(
        f'{scale} needs a teacher that knows no condition, but config.'
        f'{stage.teacher}.guidance_dropout=0 never shows it one: set that '
        'above 0, or the scale to 1.')


def _check_gradients(name, config):
  """What a divergence differentiates must have the derivative."""
  stage = config[name]
  divergence = students.divergence(name, config)
  if divergence.through_teacher:
    _check_differentiable(name, config)
  exact = stage.get('penalty') == 'exact' and stage.get('penalty_weight')
  kernel = config.model.get('attention', 'auto')
  if (divergence.needs_discriminator and exact and kernel != 'xla'
      and layout.platform() != 'cpu'):
    raise UserError(
        f"config.{name}.penalty='exact' differentiates a gradient, which "
        f'config.model.attention={kernel!r} may not be able to: take '
        "'xla' there, or penalty='finite'.")


def _check_differentiable(name, config):
  """That d(teacher)/dx exists, without computing anything."""
  stage = config[name]
  own = build.for_network(config, stage.teacher)
  model, velocity = build.denoiser(own), students.velocity(
      config, stage.teacher)
  x, *others = build.example_inputs(own)

  def total(x, rng):
    params = model.init(rng, x, *others)['params']
    return jnp.sum(velocity(params, x, *others))

  try:
    jax.eval_shape(jax.grad(total), x, jax.random.key(0))
  except Exception as e:  # Whatever a network without a derivative raises.
    reason = str(e).strip().split('\n', maxsplit=1)[0]
    raise UserError(
        f'config.{name}.divergence={stage.divergence!r} passes the gradient '
        f'through config.{name}.teacher={stage.teacher!r}, which has none '
        f'({reason}): take another attention (config.model.attention, one of '
        f"{attend.IMPLEMENTATIONS}), or divergence='dmd'.") from e


def _check_gradient_frames(name, config):
  stage, student = config[name], config.student
  new = stage.clip_frames - student.context_frames
  if stage.gradient_frames % student.chunk or stage.gradient_frames > new:
    raise UserError(
        f'config.{name}.gradient_frames={stage.gradient_frames} must be a '
        f'multiple of config.student.chunk={student.chunk}, at most the {new} '
        'new frames of a clip, or 0 for all of them.')


def _check_initialisation(config):
  for name in config.stages:
    stage = config[name]
    if stage.paradigm == 'ode_regression':
      ode.grid_with(build.student_sigmas(config), stage.ode_steps,
                    config.student.shift, f'config.{name}.ode_steps')
    if stage.paradigm == 'consistency':
      if stage.ema is None:
        raise UserError(
            f'config.{name}.ema must be set: its target is the average.')
      if config[stage.teacher].paradigm not in paradigms.CAUSAL:
        raise UserError(
            f'config.{name}.teacher={stage.teacher!r} is bidirectional, but '
            'causal consistency distillation reads a clean past.')


def _check_monitors(config):
  given = config.student.context_frames
  for name in config.stages:
    monitor = config[name].get('monitor')
    if not monitor or not monitor.every:
      continue
    where, trained = f'config.{name}.monitor', config[name].clip_frames
    check_counts(where, monitor, ('every', 'num_clips'))
    if monitor.clip_frames <= trained:
      raise UserError(
          f'{where}.clip_frames={monitor.clip_frames} must be more than the '
          f'{trained} of config.{name}.clip_frames: drift is what comes after.')
    if (monitor.clip_frames - given) % config.student.chunk:
      raise UserError(
          f'{where}.clip_frames={monitor.clip_frames} less the {given} given '
          'ones must be a multiple of config.student.chunk='
          f'{config.student.chunk}.')
    if monitor.max_contrast and monitor.max_contrast <= 1:
      raise UserError(f'{where}.max_contrast={monitor.max_contrast} must be '
                      'more than 1, or 0 for none.')

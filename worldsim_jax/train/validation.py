"""Checks of a config before anything is allocated or written.

Every message is one line and names the key to change.
"""

from worldsim_jax.diffusion import flow
from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.train import stages


def check(config):
  """Raises UserError for a config that cannot run."""
  try:
    _check_stages(config)
    _check_shapes(config)
  except UserError:
    raise
  except ValueError as e:
    raise UserError(str(e)) from e


def _check_stages(config):
  trained = []
  for name in config.stages:
    if name not in config:
      raise UserError(f'config.stages names {name!r}, but config.{name} does '
                      'not exist.')
    stage = config[name]
    if stage.paradigm not in stages.PARADIGMS:
      raise UserError(
          f'config.{name}.paradigm={stage.paradigm!r} is not one of '
          f'{tuple(stages.PARADIGMS)}.')
    for key in ('start_from', 'teacher'):
      needed = stage.get(key)
      if needed and needed not in trained:
        raise UserError(
            f'config.{name}.{key}={needed!r} is not a stage before it '
            f'({tuple(trained)}; config.stages).')
    trained.append(name)


def _check_shapes(config):
  model, student, data = config.model, config.student, config.data
  build.latent_size(config)
  if model.dim % model.num_heads:
    raise UserError(f'config.model.dim={model.dim} must be a multiple of '
                    f'config.model.num_heads={model.num_heads}.')
  flow.few_step_sigmas(tuple(student.timesteps), student.shift)
  stride = build.tiny_vae(config).time_stride
  if student.context_frames % student.chunk:
    raise UserError(
        f'config.student.chunk={student.chunk} must divide '
        f'config.student.context_frames={student.context_frames}.')
  if student.window < max(student.chunk, student.context_frames):
    raise UserError(
        f'config.student.window={student.window} must hold at least '
        f'config.student.chunk={student.chunk} and '
        f'config.student.context_frames={student.context_frames} frames.')
  horizon = config.evaluate.horizon
  if horizon % (student.chunk * stride):
    raise UserError(
        f'config.evaluate.horizon={horizon} must be a multiple of '
        f'{student.chunk * stride} frames: config.student.chunk='
        f'{student.chunk} times the stride {stride} of config.vae.')
  available = data.num_frames
  for name in config.stages:
    stage = config[name]
    if stage.clip_frames > available:
      raise UserError(f'config.{name}.clip_frames={stage.clip_frames} is more '
                      f'than config.data.num_frames={available}.')
    causal = stage.paradigm in ('teacher_forcing', 'self_forcing')
    if causal and stage.clip_frames % student.chunk:
      raise UserError(
          f'config.student.chunk={student.chunk} must divide '
          f'config.{name}.clip_frames={stage.clip_frames}.')
    given = stage.get('max_context_frames', 0)
    if given >= stage.clip_frames:
      raise UserError(
          f'config.{name}.max_context_frames={given} must be less than '
          f'config.{name}.clip_frames={stage.clip_frames}.')
    if (stage.paradigm != 'tokenizer'
        and stage.clip_frames <= student.context_frames):
      raise UserError(
          f'config.{name}.clip_frames={stage.clip_frames} must be more than '
          f'config.student.context_frames={student.context_frames}.')

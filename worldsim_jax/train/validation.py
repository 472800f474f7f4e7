"""Checks of a config before anything is allocated or written.

Every message is one line and names the key to change.
"""

import math

import jax

from worldsim_jax.data import worlds
from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import samplers
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import suite
from worldsim_jax.forcing import paradigms
from worldsim_jax.models import build
from worldsim_jax.models import text_encoder
from worldsim_jax.models import tiny_vae
from worldsim_jax.parallel import layout
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.storage import paths
from worldsim_jax.streaming import files
from worldsim_jax.train import film_checks
from worldsim_jax.train import optimizers
from worldsim_jax.train import pretrained
from worldsim_jax.train import stages
from worldsim_jax.train import student_checks
from worldsim_jax.train.student_checks import check_counts

OFFLOADABLE = ('opt_state', 'ema')
# What is counted, and so must be there at least once.
_STAGE_COUNTS = ('batch_size', 'accumulate', 'clip_frames',
                 'generator_every')
_FROM_WEIGHTS = (
    "config.vae.kind='wan' is never trained but read from weights: leave the "
    'tokenizer out of config.stages, and name in config.data.latents a latent '
    'set that a converted world made (--mode=record --tokenizer=WORLD).')
_EVALUATE_COUNTS = ('num_clips', 'horizon', 'teacher_steps', 'film_clips')


def check_run(config):
  """Raises UserError for a config that cannot be run from data to report."""
  for key in ('dir', 'records', 'latents'):
    paths.must_be_local(config.data[key], f'config.data.{key}')
  worlds.check_config(config.data)
  check(config)
  _check_order(config)
  check_mesh(config)
  _check_text(config)
  pretrained.check(config)


def check(config):
  """Raises UserError for stages and models that cannot be."""
  try:
    _check_stages(config)
    _check_student(config)
    _check_clips(config)
    _check_evaluation(config)
    student_checks.check(config)
    film_checks.check(config)
    _check_loop(config)
    _check_models(config)
  except UserError:
    raise
  except (ValueError, TypeError) as e:
    raise UserError(str(e)) from e


def _check_stages(config):
  models = []
  for index, name in enumerate(config.stages):
    if name in config.stages[:index]:
      raise UserError(f'config.stages names {name!r} twice.')
    if name not in config:
      raise UserError(f'config.stages names {name!r}, but config.{name} does '
                      'not exist.')
    stage = config[name]
    if stage.paradigm not in stages.PARADIGMS:
      raise UserError(
          f'config.{name}.paradigm={stage.paradigm!r} is not one of '
          f'{tuple(stages.PARADIGMS)}.')
    check_counts(f'config.{name}', stage, _STAGE_COUNTS)
    _check_steps(name, stage)
    if stage.paradigm == 'tokenizer' and not _is_trainable(config):
      raise UserError(f'config.stages trains {name!r}, but {_FROM_WEIGHTS}')
    student_checks.check_keys(name, stage)
    _check_networks(name, stage, models)
    _check_optimizers(name, stage)
    if stage.paradigm != 'tokenizer':
      models.append(name)


def _is_trainable(config) -> bool:
  return isinstance(build.tokenizer(config), tiny_vae.TinyVAE)


def _check_steps(name, stage):
  if stage.num_steps < bool(not stage.get('weights')):
    raise UserError(
        f'config.{name}.num_steps={stage.num_steps} must be at least 1, or 0 '
        f'for a network that is used as config.{name}.weights has it.')
  if stage.get('weights') and stage.start_from:
    raise UserError(f'config.{name}.weights={stage.weights} cannot be: it '
                    f'starts from {stage.start_from!r} (config.{name}.'
                    'start_from).')


def _check_networks(name, stage, models):
  """What a stage starts from, and what it adds to config.model."""
  critic = stage.get('critic', {}).get('start_from')
  for key, needed in (('start_from', stage.get('start_from')),
                      ('teacher', stage.get('teacher')),
                      ('critic.start_from', critic)):
    # Other paradigms may start from nothing, a critic from the teacher.
    is_needed = {
        'start_from': stage.paradigm in paradigms.DISTILLED,
        'teacher': student_checks.needs_teacher(stage)}.get(key, False)
    if (needed or is_needed) and needed not in models:
      raise UserError(
          f'config.{name}.{key}={needed!r} is not a model among the stages '
          f'before it, {tuple(models)} (config.stages).')
  if stage.get('start_from') and stage.get('model'):
    raise UserError(
        f'config.{name}.model={stage.model.to_dict()} cannot be: it starts '
        f'from {stage.start_from!r}, whose network it has.')
  unknown = set(stage.get('offload', ())) - set(OFFLOADABLE)
  if unknown:
    raise UserError(f'config.{name}.offload: {sorted(unknown)[0]!r} is not one '
                    f'of {OFFLOADABLE}.')


def _check_optimizers(name, stage):
  if not stage.num_steps:
    return
  networks = [(name, stage, stage.get('generator_every', 1))]
  if 'critic' in stage:
    networks.append((f'{name}.critic', stage.critic, 1))
  for network, settings, every in networks:
    try:
      optimizers.make(settings.optimizer, -(-stage.num_steps // every))
    except ValueError as e:
      raise UserError(f'config.{network}: {e}') from e


def _check_models(config):
  build.latent_size(config)
  for name in config.stages:
    if config[name].paradigm != 'tokenizer':
      _check_model(build.for_network(config, name))
  # All that the modules themselves check.
  try:
    jax.eval_shape(lambda: files.initial_variables(config))
    jax.eval_shape(lambda: build.new_cache(build.student(config), batch=1))
  except TypeError as e:
    raise UserError(f'config.model or config.vae: {e}') from e


def _check_model(config):
  model = config.model
  if 'num_heads' in model and model.dim % model.num_heads:
    raise UserError(f'config.model.dim={model.dim} must be a multiple of '
                    f'config.model.num_heads={model.num_heads}.')
  try:
    jax.eval_shape(lambda: build.denoiser(config).init(
        jax.random.key(0), *build.example_inputs(config)))
  except TypeError as e:
    raise UserError(f'config.model: {e}') from e


def _check_student(config):
  student = config.student
  check_counts('config.student', student, ('chunk', 'context_frames'))
  if student.sink < 0:
    raise UserError(f'config.student.sink={student.sink} must be at least 0.')
  flow.few_step_sigmas(tuple(student.timesteps), student.shift)
  if student.context_frames % student.chunk:
    raise UserError(
        f'config.student.chunk={student.chunk} must divide '
        f'config.student.context_frames={student.context_frames}.')
  if student.window < max(student.chunk, student.context_frames):
    raise UserError(
        f'config.student.window={student.window} must hold at least '
        f'config.student.chunk={student.chunk} and '
        f'config.student.context_frames={student.context_frames} frames.')


def _check_clips(config):
  """Clips are pixel frames for the tokenizer, latent frames for models."""
  student, stride = config.student, build.tokenizer(config).time_stride
  for name in config.stages:
    stage = config[name]
    key = f'config.{name}.clip_frames={stage.clip_frames}'
    if stage.paradigm == 'tokenizer':
      _check_available(config, key, stage.clip_frames)
      if (stage.clip_frames - 1) % stride:
        raise UserError(f'{key} must be 1 + {stride} n, as config.vae merges '
                        f'{stride} frames.')
      continue
    if stage.get('shots', 1) == 1:
      _check_available(config, key, 1 + stride * (stage.clip_frames - 1))
    if stage.clip_frames <= student.context_frames:
      raise UserError(f'{key} must be more than config.student.'
                      f'context_frames={student.context_frames}.')
    given = stage.get('max_context_frames', 0)
    if given >= stage.clip_frames:
      raise UserError(
          f'config.{name}.max_context_frames={given} must be less than {key}.')
    causal = stage.paradigm in paradigms.CAUSAL
    if causal and stage.clip_frames % student.chunk:
      raise UserError(
          f'config.student.chunk={student.chunk} must divide {key}.')
    # A stream would see more frames at once than it ever has in training.
    if (stage.paradigm == 'self_forcing' and
        student.window + student.sink > stage.clip_frames):
      raise UserError(
          f'config.student.window={student.window} plus config.student.sink='
          f'{student.sink} must be at most {key}.')


def _check_available(config, key, frames):
  """How long a user's own records are is not known before they are read."""
  if not config.data.records and frames > config.data.num_frames:
    raise UserError(f'{key} needs {frames} frames, more than '
                    f'config.data.num_frames={config.data.num_frames}.')


def _check_evaluation(config):
  evaluate, student = config.evaluate, config.student
  check_counts('config.evaluate', evaluate, _EVALUATE_COUNTS)
  suite.check_config(evaluate)
  sampler = evaluate.get('teacher_sampler', 'euler')
  if sampler not in samplers.SAMPLERS:
    raise UserError(f'config.evaluate.teacher_sampler={sampler!r} is not one '
                    f'of {tuple(samplers.SAMPLERS)}.')
  stride = build.tokenizer(config).time_stride
  if evaluate.horizon % (student.chunk * stride):
    raise UserError(
        f'config.evaluate.horizon={evaluate.horizon} must be a multiple of '
        f'{student.chunk * stride} frames: config.student.chunk='
        f'{student.chunk} times the stride {stride} of config.vae.')
  given = 1 + stride * (student.context_frames - 1)
  _check_available(
      config, f'config.evaluate.horizon={evaluate.horizon} after the {given} '
      'given frames', given + evaluate.horizon)
  if evaluate.teacher_window <= student.context_frames:
    raise UserError(
        f'config.evaluate.teacher_window={evaluate.teacher_window} must be '
        'more than config.student.context_frames='
        f'{student.context_frames}.')


def _check_loop(config):
  loop = config.loop
  check_counts('config.loop', loop, set(loop.keys()) - {'keep_every'})
  if loop.keep_every < 0 or loop.keep_every % loop.save_every:
    raise UserError(
        f'config.loop.keep_every={loop.keep_every} must be 0 or a multiple of '
        f'config.loop.save_every={loop.save_every}.')


def _check_text(config):
  """Benchmarks have text of any size without an encoder."""
  text = config.text
  text_encoder.check(text.encoder, text.length, text.path)
  made = text_encoder.channels(text.encoder, text.path)
  if text.dim not in (0, made):
    raise UserError(
        f'config.text.dim={text.dim} must be 0{f" or {made}" if made else ""} '
        f'for config.text.encoder={text.encoder!r}.')


def check_mesh(config, devices=None):
  """Whether batches and tokens can be split as config.mesh wants."""
  mesh = meshes.make_mesh(config.mesh, devices)
  parts = math.prod(mesh.shape[axis] for axis in layout.BATCH)
  for name in config.stages:
    stage = config[name]
    if stage.batch_size % (parts * stage.accumulate):
      times = f' times config.{name}.accumulate={stage.accumulate}'
      raise UserError(
          f'config.{name}.batch_size={stage.batch_size} must be a multiple of '
          f'the {parts} devices that share a batch'
          f'{times if stage.accumulate > 1 else ""}.')
  tokens, context = build.tokens_per_frame(config), mesh.shape['context']
  if tokens % context:
    raise UserError(f'config.mesh.context={context} must divide the {tokens} '
                    'tokens of a frame (config.data, config.vae, '
                    'config.model.patch).')
  student_checks.check_mesh(config, dict(mesh.shape))


def _check_order(config):
  for name in config.stages:
    stage = config[name]
    if config.data.latents and stage.paradigm == 'tokenizer':
      raise UserError(
          f'config.data.latents brings its tokenizer: leave {name!r} out of '
          'config.stages.')
    if not config.data.latents and not _is_trainable(config):
      raise UserError(f'config.data.latents is empty, but {_FROM_WEIGHTS}')
    is_first = name == config.stages[0] and not config.data.latents
    if (stage.paradigm == 'tokenizer') != is_first:
      raise UserError(
          f'config.{name}.paradigm={stage.paradigm!r}: the first of '
          'config.stages trains the tokenizer, and no other does.')
  models = config.stages if config.data.latents else config.stages[1:]
  if config.evaluate.teacher not in models:
    raise UserError(
        f'config.evaluate.teacher={config.evaluate.teacher!r} is not a model '
        f'among config.stages={tuple(config.stages)}.')

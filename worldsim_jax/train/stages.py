"""The stages of a run, from config: what each trains and where it starts.

A stage's config has a `paradigm`; that is all that tells stages apart. They are
listed in forcing/paradigms.py; that of `tokenizer` is TAEHV's training on
frames. `start_from` names the stage whose network initialises this one;
networks that start from nothing may have sizes of their own,
`config.<stage>.model`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from worldsim_jax.attention import context as contexts
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.forcing import diffusion
from worldsim_jax.forcing import mixtures
from worldsim_jax.forcing import ode
from worldsim_jax.forcing import paradigms
from worldsim_jax.forcing import rollout
from worldsim_jax.models import build
from worldsim_jax.models import tiny_vae
from worldsim_jax.parallel import distributed
from worldsim_jax.train import monitor as monitors
from worldsim_jax.train import optimizers
from worldsim_jax.train import pretrained
from worldsim_jax.train import students
from worldsim_jax.train.loop import Stage
from worldsim_jax.train.monitor import Monitor
from worldsim_jax.train.state import purpose_key
from worldsim_jax.train.state import Update


class Inputs(NamedTuple):
  """What a stage is built from.

  Attributes:
    config: of the run.
    batches: as `datasets.Batches`: stage config -> () -> iterator.
    films: () -> some training films, uint8 [1, P, H, W, 3] each.
  """
  config: Any
  batches: Any
  films: Any


def tokenizer(name: str, inputs: Inputs) -> Stage:
  """TAEHV on real frames."""
  config, stage = inputs.config, inputs.config[name]
  vae = build.tokenizer(config)
  reconstruction = tiny_vae.reconstruction_loss(
      vae, power=stage.power, edge_weight=stage.edge_weight,
      latent_noise=stage.latent_noise)

  def loss(params, batch, rng):
    return reconstruction(params[name], {'video': batch['rgb']}, rng)

  def init(unused_trained):
    video = jnp.zeros((1, 1, config.data.height, config.data.width, 3))
    key = purpose_key(config.seed, 0, 'init')
    return {name: vae.init(key, video)['params']}

  def fit(params):
    if not vae.shortcut:
      return params
    fitted = tiny_vae.fit_shortcut(vae, params[name], inputs.films())
    return {name: distributed.same_everywhere(fitted)}

  frames = stage.batch_size * stage.clip_frames
  return Stage(
      name, stage.num_steps, (_update(name, loss, stage, stage),),
      init, _nothing, inputs.batches(stage),
      frames * build.tokens_per_frame(config), fit=fit)


def full_sequence(name: str, inputs: Inputs) -> Stage:
  """A bidirectional model on whole clips, or on films of several shots."""
  stage = inputs.config[name]
  loss = diffusion.full_sequence_loss(
      students.velocity(inputs.config, name), stage, name,
      context_of=mixtures.of_stage(name, inputs.config))
  return _denoiser(name, inputs, loss, frames=stage.clip_frames)


def teacher_forcing(name: str, inputs: Inputs) -> Stage:
  """A causal model with a clean past; its sequence is nearly twice the clip."""
  stage, chunk = inputs.config[name], inputs.config.student.chunk
  loss = diffusion.teacher_forcing_loss(
      students.velocity(inputs.config, name), stage, name, chunk=chunk,
      context_frames=stage.context_frames)
  sequence = contexts.teacher_forcing(
      stage.clip_frames, chunk, stage.context_frames).positions
  return _denoiser(name, inputs, loss, frames=len(sequence))


def diffusion_forcing(name: str, inputs: Inputs) -> Stage:
  """A causal model with a past as noisy as anything."""
  stage = inputs.config[name]
  loss = diffusion.diffusion_forcing_loss(
      students.velocity(inputs.config, name), stage, name,
      chunk=inputs.config.student.chunk, context_frames=stage.context_frames,
      context_of=mixtures.of_past(name, inputs.config))
  return _denoiser(name, inputs, loss, frames=stage.clip_frames)


def ode_regression(name: str, inputs: Inputs) -> Stage:
  """A causal model that jumps to where the teacher's ODE leads.

  Curves are integrated anew in every step, from the batch's own clips.
  """
  config, stage = inputs.config, inputs.config[name]
  student, is_causal = config.student, _is_causal(config, stage.teacher)
  levels = students.levels(name, config)
  common = dict(context_frames=student.context_frames)
  trajectories = ode.make_trajectories(
      students.velocity(config, stage.teacher), levels, stage,
      shift=student.shift, chunk=student.chunk if is_causal else None, **common)
  regression = ode.regression_loss(
      students.velocity(config, name), levels, name, chunk=student.chunk,
      clean_past=is_causal, **common)

  def loss(params, batch, rng):
    rng_curve, rng_level = jax.random.split(rng)
    record = trajectories(params['teacher'], batch, rng_curve)
    return regression(params, jax.lax.stop_gradient(record), rng_level)

  return _denoiser(name, inputs, loss, frames=stage.clip_frames,
                   frozen=_teacher(stage))


def consistency(name: str, inputs: Inputs) -> Stage:
  """A causal model that agrees with itself along a causal teacher's ODE."""
  config, stage = inputs.config, inputs.config[name]
  loss = ode.consistency_loss(
      students.velocity(config, name),
      students.velocity(config, stage.teacher), stage, name, 'teacher',
      chunk=config.student.chunk,
      context_frames=config.student.context_frames)
  return _denoiser(name, inputs, loss, frames=stage.clip_frames,
                   frozen=_teacher(stage))


def distillation(name: str, inputs: Inputs) -> Stage:
  """A causal model whose videos are matched to a distribution.

  That of a teacher, or, where the divergence has none, the data's. Student,
  teacher and critic may be of three sizes (Self Forcing has a teacher of 14
  billion parameters and a critic of the student's 1.3).
  """
  config, stage = inputs.config, inputs.config[name]
  divergence = students.divergence(name, config)
  critic_start = students.critic_start(name, config)
  loss_of = functools.partial(
      students.matched, generate=students.generator(name, config), name=name,
      config=config)
  updates = (
      _update(name, loss_of(divergence.generator_loss), stage, stage,
              every=stage.generator_every, start=stage.critic_warmup),
      _update(students.CRITIC, loss_of(divergence.critic_loss), stage.critic,
              stage))

  def init(trained):
    return {name: _copy(trained[stage.start_from]),
            students.CRITIC: _copy(students.critic(
                name, config, trained[critic_start]))}

  def frozen(trained):
    found = _teacher(stage)(trained) if divergence.needs_teacher else {}
    if students.needs_latent_space(name, config):
      found[students.LATENT_SPACE] = trained[students.LATENT_SPACE]
    return found

  passes = rollout.mean_passes(rollout.of_config(config))
  return Stage(
      name, stage.num_steps, updates, init, frozen,
      inputs.batches(stage), _tokens(config, stage, stage.clip_frames),
      rollout_steps=passes if stage.paradigm == 'self_forcing' else 0.,
      monitor=_monitor(name, inputs))


def _monitor(name, inputs) -> Monitor | None:
  """That of a distilled student, as config.<stage>.monitor describes it."""
  config, stage = inputs.config, inputs.config[name]
  settings = stage.monitor
  if not settings.every:
    return None
  own = build.for_network(config, name)
  measure = monitors.continuation(
      students.velocity(config, name),
      lambda batch: build.new_cache(own, batch), rollout.of_config(config),
      context_frames=config.student.context_frames,
      trained_frames=stage.clip_frames)
  return Monitor(
      name, settings.every, measure,
      lambda: inputs.batches.test_clips(
          settings.num_clips, settings.clip_frames),
      settings.max_contrast)


# How model FLOPs are counted: no recomputation, and products that are seen.
COUNTED = dict(remat='none', attention='xla')
PARADIGMS = {
    'tokenizer': tokenizer,
    'full_sequence': full_sequence,
    'teacher_forcing': teacher_forcing,
    'diffusion_forcing': diffusion_forcing,
    'ode_regression': ode_regression,
    'consistency': consistency,
    'self_forcing': distillation,
    'teacher_forced': distillation,
    'diffusion_forced': distillation,
}


def make(name: str, inputs: Inputs) -> Stage:
  """A stage of the config; its FLOPs are those of the same without remat."""
  paradigm = PARADIGMS[inputs.config[name].paradigm]
  plain = paradigm(name, inputs._replace(config=counted(inputs.config)))
  return dataclasses.replace(
      paradigm(name, inputs), counted_updates=plain.updates)


def counted(config, model=COUNTED):
  """The config of a program that is never run: its products can be counted."""
  plain = config.copy_and_resolve_references()
  plain.model.update({k: v for k, v in model.items() if k in plain.model})
  for name in plain.stages:
    if plain[name].get('moc'):
      plain[name].moc.implementation = moc.COUNTED
  if plain.student.get('recall'):
    plain.student.recall.implementation = moc.COUNTED
  return plain


def _teacher(stage):
  """trained -> the frozen networks of a stage that has a teacher."""
  return lambda trained: {
      'teacher': _cast(trained[stage.teacher], stage.frozen_dtype)}


def _is_causal(config, name: str) -> bool:
  return config[name].paradigm in paradigms.CAUSAL


def _nothing(unused_trained):
  return {}


def _denoiser(name, inputs, loss, frames: int, frozen=_nothing) -> Stage:
  """A stage that trains one transformer by regression, `frames` at a time."""
  config, stage = inputs.config, inputs.config[name]
  own = build.for_network(config, name)

  def init(trained):
    if stage.start_from:
      return {name: _copy(trained[stage.start_from])}
    key = purpose_key(config.seed, 0, 'init')
    params = build.denoiser(own).init(
        key, *build.example_inputs(own))['params']
    return {name: pretrained.laid_over(
        params, trained.get(pretrained.key(name), {}))}

  return Stage(
      name, stage.num_steps, (_update(name, loss, stage, stage),),
      init, frozen, inputs.batches(stage), _tokens(config, stage, frames))


def _update(network, loss, settings, stage, every: int = 1,
            start: int = 0) -> Update:
  """One network's share of a stage; `settings` are the network's own."""
  update = Update(
      network, loss, optimizer=None, every=every, start=start,
      ema=settings.ema, ema_start=settings.ema_start,
      accumulate=stage.accumulate, offload=tuple(stage.offload))
  turns = update.turns(stage.num_steps)
  return dataclasses.replace(
      update, optimizer=optimizers.make(settings.optimizer, turns))


def _tokens(config, stage, frames: int) -> int:
  return stage.batch_size * frames * build.tokens_per_frame(config)


def _cast(params, dtype: str):
  """What is only read may be kept in fewer bits."""
  return jax.tree.map(lambda x: jnp.asarray(x, dtype), params)


def _copy(params):
  # Stages donate their state: what they start from must stay readable. Weights
  # that were not trained may have fewer bits than optimisers want.
  return jax.tree.map(lambda x: jnp.array(x, jnp.float32), params)

"""One training step of each stage, through the code that trains.

Batches are random arrays of the right shapes and networks are untrained, so
neither data nor a renderer is needed. A timed repeat is one whole cycle of the
stage's updates: in self forcing the generator is trained in one step of five,
with a rollout of random length, so its repeats differ in work.

MFU is model FLOP/s over the device's dense bf16 peak, whatever the dtype.
"""

import dataclasses

import chex
import jax
import numpy as np

from benchmarks import timing
from worldsim_jax.models import build
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import loop
from worldsim_jax.train import metrics
from worldsim_jax.train import stages as stage_lib
from worldsim_jax.train import state as train_state

TERA = 1e12


def benchmark(options):
  """A row per stage of the config, in order; of one that fails, its error."""
  rows, trained = [], {}
  for name in options.config.stages:
    stage = untrained_stage(name, options.config, trained)
    try:
      rows.append(_measure(stage, trained, options))
    except jax.errors.JaxRuntimeError as e:  # Mostly memory; others may fit.
      rows.append({'stage': name, 'error': str(e).splitlines()[0]})
  return rows


def untrained_stage(name: str, config, trained):
  """A stage; its network is added to those that later stages start from."""
  inputs = stage_lib.Inputs(
      config, synthetic_batches(config),
      films=tuple)  # None: what is fitted to them is not timed.
  stage = dataclasses.replace(stage_lib.make(name, inputs), fit=None)
  trained[name] = stage.init(trained)[name]
  return stage


class Steps:
  """Steps of a stage through the code that trains, on a mesh of all devices.

  Attributes:
    state: after the steps so far.
    flops: model FLOPs of a step.
  """

  def __init__(self, stage, trained, config):
    self._mesh = meshes.make_mesh(config.mesh)
    self._step = train_state.make_train_step(stage.updates, config.seed)
    with jax.set_mesh(self._mesh):
      self.state = meshes.place(
          self._mesh, loop.initial_state(stage, trained))
      self._fixed = (
          meshes.place(self._mesh, stage.frozen(trained)),
          meshes.place_batch(self._mesh, next(stage.batches())))
      self.flops = loop.model_flops(
          stage, self._step, self.state, *self._fixed)

  def run(self, count: int):
    """So many more of them; returns the state."""
    with jax.set_mesh(self._mesh):
      for _ in range(count):  # The step consumes the state.
        self.state, _ = self._step(self.state, *self._fixed)
    return self.state


def synthetic_batches(config):
  """As train.datasets.Batches: (stage config) -> () -> iterator."""
  def of_stage(stage):
    is_tokenizer = stage.paradigm == 'tokenizer'
    make = frame_batch if is_tokenizer else latent_batch
    batch = make(config, stage.batch_size, stage.clip_frames)

    def batches():
      while True:
        yield batch

    return batches

  return of_stage


def frame_batch(config, batch_size: int, frames: int):
  """Frames as rendered, uint8."""
  shape = (batch_size, frames, config.data.height, config.data.width, 3)
  rng = np.random.default_rng(0)
  return {'rgb': rng.integers(0, 256, shape, np.uint8),
          'actions': _normal(rng, (batch_size, frames, build.NUM_ACTIONS))}


def latent_batch(config, batch_size: int, frames: int):
  """Latents with grouped actions and, for models with it, text."""
  model, rng = build.denoiser(config), np.random.default_rng(0)
  leading = (batch_size, frames)
  batch = {'latents': _normal(
      rng, (*leading, *build.latent_size(config), model.latent_channels))}
  if model.action_dim:
    batch['actions'] = _normal(rng, (*leading, model.action_dim))
  if model.text_dim:
    batch['text'] = _normal(
        rng, (batch_size, config.text.length, model.text_dim))
  return batch


def _normal(rng, shape):
  return rng.standard_normal(shape, np.float32)


def _measure(stage, trained, options):
  """Times the stage's step."""
  steps, cycle = Steps(stage, trained, options.config), cycle_of(stage)
  first = timing.call(lambda: steps.run(1))
  samples = timing.seconds(
      {stage.name: lambda: steps.run(cycle)}, options.repeats)
  chex.assert_tree_all_finite(steps.state.params)  # NaNs are not training.
  return _row(stage, steps.state, first, np.array(samples[stage.name]) / cycle,
              steps.flops)


def cycle_of(stage) -> int:
  """Steps after which all of its networks have had their turn."""
  return max(update.every for update in stage.updates)


def _row(stage, state, first_step_seconds, seconds, step_flops):
  median = float(np.median(seconds))
  peak = metrics.device_peak_flops(jax.devices()[0].device_kind)
  rate = step_flops / median
  sizes = [x.size for x in jax.tree.leaves(state.params)]
  return {
      'stage': stage.name,
      'trained_parameters_million': sum(sizes) / 1e6,
      'tokens_per_step': stage.tokens_per_step,
      **timing.spread('seconds_per_step', seconds),
      'tokens_per_second': stage.tokens_per_step / median,
      'model_tflop_per_step': step_flops / TERA,
      'model_tflop_per_second': rate / TERA,
      'mfu': peak and rate / peak / jax.device_count(),
      'first_step_seconds': first_step_seconds,  # It compiles.
  }

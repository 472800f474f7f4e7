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
    inputs = stage_lib.Inputs(
        options.config, synthetic_batches(options.config),
        films=tuple)  # None: what is fitted to them is not timed.
    stage = dataclasses.replace(stage_lib.make(name, inputs), fit=None)
    # What later stages start from: the same shapes as after training.
    trained[name] = stage.init(trained)[name]
    try:
      rows.append(_measure(stage, trained, options))
    except jax.errors.JaxRuntimeError as e:  # Mostly memory; others may fit.
      rows.append({'stage': name, 'error': str(e).splitlines()[0]})
  return rows


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
  """Times the stage's step on a mesh of all devices."""
  mesh = meshes.make_mesh(options.config.mesh)
  with jax.set_mesh(mesh):
    return _measure_on(mesh, stage, trained, options)


def _measure_on(mesh, stage, trained, options):
  step_fn = train_state.make_train_step(stage.updates, options.config.seed)
  state = meshes.place(mesh, loop.initial_state(stage, trained))
  frozen = meshes.place(mesh, stage.frozen(trained))
  batch = meshes.place_batch(mesh, next(stage.batches()))
  cycle = max(update.every for update in stage.updates)
  step_flops = loop.model_flops(stage, step_fn, state, frozen, batch)

  def steps(count):
    nonlocal state  # The step consumes it.
    for _ in range(count):
      state, _ = step_fn(state, frozen, batch)
    return state

  first = timing.call(lambda: steps(1))
  samples = timing.seconds({stage.name: lambda: steps(cycle)}, options.repeats)
  chex.assert_tree_all_finite(state.params)  # NaNs are not training.
  return _row(stage, state, first, np.array(samples[stage.name]) / cycle,
              step_flops)


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

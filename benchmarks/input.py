"""Does the host keep up? A training step with real input, beside synthetic.

The records of a stage are written to a temporary folder (frames or latents of
the config's sizes, random, as compression is no help to real ones either) and
read as training reads them. Each turn takes some steps with

  synthetic   the same batch again and again
  in_memory   episodes held in memory, clips cut from them
  streamed    every clip's episode read and decoded anew

one after the other, for a quarter of a second or one step. As in the loop, a
batch is fetched and placed while the device computes, and results are read one
step late.

On a CPU, where devices and input share the cores, input costs all its processor
time; elsewhere what shows is only what the device has to wait for. Others who
use the machine disturb wall time: `ratio_..._cpu` compares the processor time
of this process, and `pipeline_...` is the input alone, what it could deliver.
"""

import contextlib
import dataclasses
import itertools
import tempfile
import time

import jax
import numpy as np

from benchmarks import timing
from benchmarks import train_step
from worldsim_jax.data import pipeline
from worldsim_jax.data import records
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import datasets
from worldsim_jax.train import loop
from worldsim_jax.train import stages as stage_lib
from worldsim_jax.train import state as train_state

STAGES = ('tokenizer', 'full_sequence')  # paradigms: on frames, on latents
TURN_SECONDS = 0.25
TURNS = 8  # for each of --repeats
BATCHES = 50  # of the input alone
RESAMPLED = 1000


def benchmark(options):
  """A row per stage and kind of input."""
  config, rows = options.config, []
  for name in config.stages:
    inputs = stage_lib.Inputs(
        config, train_step.synthetic_batches(config), films=tuple)
    if config[name].paradigm in STAGES:
      with tempfile.TemporaryDirectory() as folder:
        # What is fitted to films is not timed.
        stage = dataclasses.replace(stage_lib.make(name, inputs), fit=None)
        rows += _measure(stage, options, folder)
  return rows


def write(config, stage, folder: str) -> tuple[records.Source, tuple[str, ...]]:
  """Episodes as long as the config's; returns them and what a batch holds."""
  is_tokenizer = stage.paradigm == 'tokenizer'
  make = train_step.frame_batch if is_tokenizer else train_step.latent_batch
  batch = make(config, 1, config.data.num_frames)
  episode = {name: x[0] for name, x in batch.items()}

  def different():
    for number in range(episodes(config.data)):
      yield {name: np.roll(x, number, -1) for name, x in episode.items()}

  directory = records.write(folder, 'input', {'train': different})
  fields = (datasets.FRAME_FIELDS if is_tokenizer else
            datasets.latent_fields(config))
  return records.Source(directory, 'train'), fields


def episodes(data) -> int:
  """As many as the config renders: shuffling a few costs more, in grain."""
  maps = len(data.train_maps) + data.generated_train_maps
  return maps * data.train_episodes


def interval(ratios) -> tuple[float, float]:
  """95 % of the medians of resampled turns."""
  dice = np.random.default_rng(0)
  medians = np.median(
      dice.choice(ratios, (RESAMPLED, len(ratios))), axis=1)
  return tuple(float(x) for x in np.quantile(medians, (0.025, 0.975)))


def _measure(stage, options, folder):
  config = options.config
  settings = config[stage.name]
  source, fields = write(config, settings, folder)

  def read(in_memory):
    return pipeline.make_iterator(
        source, batch_size=settings.batch_size, seed=0, fields=fields,
        clip_frames=settings.clip_frames, in_memory=in_memory)

  inputs = {'synthetic': itertools.repeat(next(read(True))),
            'in_memory': read(True), 'streamed': read(False)}
  processor = {name: [] for name in inputs}
  with _steps(stage, config) as steps:
    steps(inputs['synthetic'], 1)  # It compiles.
    second = timing.call(lambda: steps(inputs['synthetic'], 1))
    count = max(1, round(TURN_SECONDS / second))

    def turn(name):
      start = time.process_time()
      jax.block_until_ready(steps(inputs[name], count))
      processor[name].append((time.process_time() - start) / count)

    wall = timing.seconds(
        {name: lambda name=name: turn(name) for name in inputs},
        TURNS * options.repeats)
  wall = {name: np.array(turns) / count for name, turns in wall.items()}
  processor = {name: turns[1:] for name, turns in processor.items()}
  return [_row(stage, name, batches, wall, processor)
          for name, batches in inputs.items()]


@contextlib.contextmanager
def _steps(stage, config):
  """Yields (batches, count) -> what to wait for, training steps."""
  mesh = meshes.make_mesh(config.mesh)
  with jax.set_mesh(mesh):
    step_fn = train_state.make_train_step(stage.updates, config.seed)
    state = meshes.place(mesh, loop.initial_state(stage, trained={}))
    frozen = meshes.place(mesh, stage.frozen({}))

    def steps(batches, count):
      nonlocal state  # The step consumes it.
      last = {}
      for _ in range(count):
        batch = meshes.place_batch(mesh, next(batches))
        state, metrics = step_fn(state, frozen, batch)
        jax.device_get(last)
        last = metrics
      return state

    yield steps


def _row(stage, name, batches, wall, processor):
  row = {'stage': stage.name, 'input': name,
         **timing.spread('seconds_per_step', wall[name]),
         'cpu_seconds_per_step_median': float(np.median(processor[name]))}
  if name == 'synthetic':
    return row
  for suffix, samples in (('', wall), ('_cpu', processor)):
    ratios = timing.ratios(samples[name], samples['synthetic'])
    low, high = interval(ratios)
    row |= {f'ratio_to_synthetic{suffix}_median': float(np.median(ratios)),
            f'ratio_to_synthetic{suffix}_low': low,
            f'ratio_to_synthetic{suffix}_high': high}
  alone, alone_cpu = _alone(batches)
  return row | {
      'pipeline_seconds_per_batch': alone,
      'pipeline_cpu_seconds_per_batch': alone_cpu,
      'pipeline_batches_per_step': float(
          np.median(wall['synthetic']) / alone)}


def _alone(batches) -> tuple[float, float]:
  """Wall and processor seconds of a batch, with nothing else to do."""
  for _ in range(BATCHES):  # What was read ahead is no measure.
    next(batches)
  wall, processor = time.perf_counter(), time.process_time()
  for _ in range(BATCHES):
    next(batches)
  return ((time.perf_counter() - wall) / BATCHES,
          (time.process_time() - processor) / BATCHES)

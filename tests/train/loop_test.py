"""The loop with the smallest real stage: exact resume, and a stop on NaN."""

import dataclasses
import functools
import json
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import quickstart
from worldsim_jax.data import pipeline
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import checkpoints
from worldsim_jax.train import loop
from worldsim_jax.train import stages
from worldsim_jax.train import state as train_state
from worldsim_jax.train.metrics import NonFiniteLoss
from worldsim_jax.train.monitor import Monitor

NUM_STEPS = 6
MAKE_TRAIN_STEP = functools.cache(train_state.make_train_step)


class Interrupted(Exception):
  """Stands for whatever ends a process."""


class Batches:
  """An iterator that remembers what it gave, and may fail or give NaN.

  The loop counts FLOPs with one batch that it gives back: what is asked for
  here are numbers of steps.
  """

  def __init__(self, batches, fail_at=None, nan_at=None):
    self._batches, self._fail_at, self._nan_at = batches, fail_at, nan_at
    self.get_state, self.set_state = batches.get_state, batches.set_state
    self.given = []

  def __next__(self):
    steps = len(self.given) - 1
    if steps == self._fail_at:
      raise Interrupted
    rgb = next(self._batches)['rgb'].astype(np.float32) / 255
    self.given.append(np.full_like(rgb, np.nan) if steps == self._nan_at
                      else rgb)
    return {'rgb': self.given[-1]}


@functools.cache
def films():
  dice = np.random.default_rng(0)
  films = dice.integers(0, 256, (20, 6, 16, 24, 3), dtype=np.uint8)
  return [{'rgb': rgb} for rgb in films]


def config():
  small = quickstart.get_config('smoke')
  small.data.update(dict(height=16, width=24))
  small.tokenizer.update(dict(num_steps=NUM_STEPS, clip_frames=2))
  small.loop.update(dict(log_every=1, save_every=2))
  return small


@functools.cache
def tokenizer_stage() -> loop.Stage:
  return stages.tokenizer('tokenizer', stages.Inputs(
      config(), lambda unused_stage: None,
      lambda: (film['rgb'][None] for film in films())))


class ToyBatches:
  """Ones, but zeros in the step at which the gradient is to be NaN."""

  def __init__(self, nan_at):
    self._nan_at, self._step = nan_at, 0

  def __next__(self):
    self._step += 1
    return {'x': np.full(8, self._step - 1 != self._nan_at, np.float32)}

  def get_state(self):
    return {'step': self._step}

  def set_state(self, state):
    self._step = state['step']


@functools.cache
def toy_update() -> train_state.Update:
  def loss(params, batch, unused_rng):
    # The slope of a root at 0 is infinite, its value is not.
    w = params['toy']['w']
    loss = jnp.mean(w**2) + jnp.sqrt(jnp.sum((w * batch['x'].mean())**2))
    return loss, {'loss': loss}

  return train_state.Update('toy', loss, optax.adam(1e-2))


def toy_stage(nan_at) -> loop.Stage:
  return loop.Stage(
      'toy', NUM_STEPS, (toy_update(),),
      lambda trained: {'toy': {'w': jnp.ones(3)}}, lambda trained: {},
      lambda: ToyBatches(nan_at), 1)


class LoopTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    # One program for all, on one device: what the loop does around it is tested
    # here. See run_test for processes, mesh_test for devices.
    one = meshes.make_mesh(devices=jax.devices()[:1])
    self.enter_context(mock.patch.object(meshes, 'make_mesh', lambda: one))
    self.enter_context(
        mock.patch.object(train_state, 'make_train_step', MAKE_TRAIN_STEP))
    self.fitted = 0

  def train(self, workdir, save_every=2, **trouble):
    """Runs or resumes the stage; self.batches is what it was given."""

    def batches():
      self.batches = Batches(pipeline.make_iterator(
          films(), batch_size=8, clip_frames=2, seed=0, fields=('rgb',),
          num_threads=1), **trouble)
      return self.batches

    def fit(params):
      self.fitted += 1
      return tokenizer_stage().fit(params)

    settings = config().loop
    settings.save_every = save_every
    return loop.train(
        dataclasses.replace(tokenizer_stage(), batches=batches, fit=fit), {},
        settings, seed=0, workdir=workdir, fingerprint={})

  def folder(self):
    return epath.Path(self.create_tempdir().full_path)

  @pytest.mark.slow
  def test_a_run_that_was_interrupted_ends_as_one_that_was_not(self):
    whole, parts = self.folder(), self.folder()
    expected = self.train(whole)
    uninterrupted = self.batches.given[1:]
    self.assertLen(uninterrupted, NUM_STEPS)
    # The batch of which FLOPs are counted is the first one, given back.
    np.testing.assert_array_equal(self.batches.given[0], uninterrupted[0])
    self.assertEqual(self.fitted, 1)

    with self.assertRaises(Interrupted):
      self.train(parts, fail_at=3)
    self.assertEqual(self.fitted, 2)
    resumed = self.train(parts)
    self.assertEqual(self.fitted, 2, 'a resumed stage is not fitted again')
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)
    # From the checkpoint on, step 2, the data are the same too.
    np.testing.assert_array_equal(self.batches.given[1:], uninterrupted[2:])
    steps = [json.loads(line)['step'] for line in (
        parts / 'metrics.jsonl').read_text().splitlines()]
    self.assertEqual(steps, list(range(NUM_STEPS)))

    # Done is done: nothing but the count of FLOPs asks for data.
    again = self.train(parts)
    jax.tree.map(np.testing.assert_array_equal, again, expected)
    self.assertLen(self.batches.given, 1)

  def test_what_stays_on_the_host_is_made_there(self):
    stage = toy_stage(nan_at=None)
    stage = dataclasses.replace(stage, updates=(dataclasses.replace(
        toy_update(), offload=('opt_state',)),))
    state = loop.initial_state(stage, {}, meshes.make_mesh())
    kinds = lambda tree: {x.sharding.memory_kind
                          for x in jax.tree.leaves(tree) if x.ndim}
    self.assertEqual(kinds(state.opt_state), {'pinned_host'})
    self.assertNotIn('pinned_host', kinds(state.params))

  @pytest.mark.slow
  def test_nan_stops_with_stage_and_step_and_is_not_saved(self):
    workdir = self.folder()
    with self.assertRaisesRegex(
        NonFiniteLoss, 'tokenizer: loss is nan at step 3'):
      self.train(workdir, save_every=1, nan_at=3)
    self.assertTrue((workdir / 'tokenizer' / '3').exists())
    self.assertFalse((workdir / 'tokenizer' / '4').exists())
    # It can be resumed from there, so what was saved is finite.
    state = self.train(workdir)
    for leaf in jax.tree.leaves(state):
      self.assertTrue(np.isfinite(leaf).all())

  def watched(self, workdir, errors, contrasts=(1.,) * NUM_STEPS):
    """Trains the toy, whose monitor finds these errors, step by step."""
    values = jnp.array([errors, contrasts])

    def measure(params, batch, unused_rng):
      # What is measured is the network: its distance from where it began.
      step = jnp.argmin(jnp.abs(batch['w'] - params['w'][0]))
      return dict(zip(('error', 'contrast'), values[:, step]))

    monitor = Monitor('toy', 1, measure, lambda: {'w': self.ways}, 2.)
    return loop.train(
        dataclasses.replace(toy_stage(None), monitor=monitor), {},
        config().loop, seed=0, workdir=workdir, fingerprint={})

  @functools.cached_property
  def ways(self):
    """The toy's parameter after each step."""
    step, state = MAKE_TRAIN_STEP((toy_update(),), 0), loop.initial_state(
        toy_stage(None), {})
    ways = []
    for _ in range(NUM_STEPS):
      state, _ = step(state, {}, {'x': np.ones(8, np.float32)})
      ways.append(float(state.params['toy']['w'][0]))
    return np.array(ways, np.float32)

  def test_what_was_best_on_held_out_clips_is_kept(self):
    state = self.watched(self.folder(), (5., 3., 4., 1., 2., 6.))
    self.assertEqual(state.best_params('toy')['w'][0], self.ways[3])
    self.assertEqual(state.params['toy']['w'][0], self.ways[-1])

  def test_a_collapsed_student_ends_its_stage_for_good(self):
    workdir = self.folder()
    errors, contrasts = (5., 3., 4., 1., 2., 6.), (1., 1.9, .6, 2.1, 1., 1.)
    state = self.watched(workdir, errors, contrasts)
    self.assertEqual(state.step, NUM_STEPS)
    self.assertEqual(state.params['toy']['w'][0], self.ways[3])
    again = self.watched(workdir, errors, contrasts)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    step, params = checkpoints.newest_params(workdir / 'toy', 'toy')
    self.assertEqual(step, NUM_STEPS)
    self.assertEqual(params['w'][0], self.ways[3])

  @parameterized.parameters(.4, float('nan'))
  def test_a_grey_or_broken_student_has_collapsed_too(self, contrast):
    state = self.watched(
        self.folder(), (3., 1., 2., 0., 0., 0.), (1., 1., contrast, 1., 1., 1.))
    self.assertEqual(state.best_params('toy')['w'][0], self.ways[1])

  @parameterized.parameters(*range(NUM_STEPS))
  def test_what_a_nan_gradient_does_to_parameters_is_never_saved(self, nan_at):
    workdir, settings = self.folder(), config().loop
    train = lambda nan_at: loop.train(
        toy_stage(nan_at), {}, settings, seed=0, workdir=workdir,
        fingerprint={})
    with self.assertRaisesRegex(
        NonFiniteLoss, f'toy: grad_norm is nan at step {nan_at}'):
      train(nan_at)
    with checkpoints.Checkpoints(workdir / 'toy', {}) as saved:
      good = nan_at // settings.save_every * settings.save_every
      self.assertEqual(saved.latest_step() or 0, good)
    for leaf in jax.tree.leaves(train(None)):  # From that checkpoint on.
      self.assertTrue(np.isfinite(leaf).all())


if __name__ == '__main__':
  absltest.main()

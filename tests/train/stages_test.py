"""Every paradigm's stage, built from a config, takes a step."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from tests.streaming import tiny_world
from worldsim_jax.models import build
from worldsim_jax.train import loop
from worldsim_jax.train import stages
from worldsim_jax.train import state as train_state

FILMS = [np.random.default_rng(k).integers(
    0, 256, (1, 5, 24, 32, 3), dtype=np.uint8) for k in range(4)]


def config():
  small = tiny_world.config()
  small.self_forcing.generator_every = 2
  return small


def make_stage(name):
  settings = config()[name]
  inputs = stages.Inputs(
      config(), lambda stage: ('batches of', stage), FILMS.copy)
  return stages.PARADIGMS[settings.paradigm](name, inputs)


@functools.cache
def network(seed):
  """Parameters of a model, as an earlier stage would leave them."""
  return jax.tree.map(jax.numpy.asarray, tiny_world.random_variables(
      config(), seed)['student'])


def batch_of(name):
  dice, settings = np.random.default_rng(0), config()[name]
  clips = (settings.batch_size, settings.clip_frames)
  if settings.paradigm == 'tokenizer':
    return {'rgb': dice.integers(0, 256, (*clips, 24, 32, 3), dtype=np.uint8)}
  size = (*build.latent_size(config()), 4)
  return {'latents': dice.normal(size=(*clips, *size)).astype(np.float32),
          'actions': dice.normal(size=(*clips, 3)).astype(np.float32)}


def run(stage, num_steps, trained=None, batch=None):
  """(parameters before and after every step, metrics of every step)."""
  trained = trained or {}
  batch = batch or batch_of(stage.name)
  step_fn = train_state.make_train_step(stage.updates, seed=0)
  state = loop.initial_state(stage, trained)
  params, metrics = [jax.tree.map(np.array, state.params)], []
  for step in range(num_steps):
    state, new = step_fn(state, stage.frozen(trained), batch)
    params.append(jax.tree.map(np.array, state.params))
    metrics.append(train_state.trained_metrics(
        jax.device_get(new), stage.updates, step))
  return params, metrics


def is_equal(one, other):
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


class FastCompilation(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    # XLA then compiles twice as fast, and speed is not what is tested.
    before = jax.config.read('jax_disable_most_optimizations')
    jax.config.update('jax_disable_most_optimizations', True)
    self.addCleanup(
        jax.config.update, 'jax_disable_most_optimizations', before)

  def assertFinite(self, tree):
    for leaf in jax.tree.leaves(tree):
      self.assertTrue(np.isfinite(leaf).all())


@pytest.mark.slow
class StagesTest(FastCompilation):

  def test_the_tokenizer_learns_around_the_shortcut_that_was_fitted(self):
    stage = make_stage('tokenizer')
    (before, after), (metrics,) = run(stage, 1)
    self.assertFinite([after, metrics])
    self.assertContainsSubset(['loss', 'psnr_db', 'grad_norm'], metrics)
    fresh = stage.init({})['tokenizer']
    for half in ('encoder', 'decoder'):
      fitted = before['tokenizer'][half]['shortcut']
      self.assertFalse(is_equal(fitted, fresh[half]['shortcut']))
      # config.tokenizer.optimizer.frozen
      self.assertTrue(is_equal(fitted, after['tokenizer'][half]['shortcut']))
    self.assertFalse(is_equal(before, after))

  def test_the_teacher_starts_from_nothing_but_the_seed(self):
    stage = make_stage('teacher')
    (before, after), (metrics,) = run(stage, 1)
    self.assertTrue(is_equal(before, jax.jit(stage.init)({})))
    self.assertFalse(is_equal(before, after))
    self.assertFinite([after, metrics])
    self.assertIn('loss', metrics)

  def test_teacher_forcing_starts_from_the_teacher_and_leaves_it_whole(self):
    teacher = network(1)
    stage = make_stage('teacher_forcing')
    (before, after), (metrics,) = run(stage, 1, {'teacher': teacher})
    self.assertTrue(is_equal(before['teacher_forcing'], teacher))
    self.assertFalse(is_equal(before, after))
    self.assertFinite([after, metrics])
    # The step donates its state; the teacher's arrays were copied before.
    self.assertTrue(is_equal(teacher, tiny_world.random_variables(
        config(), 1)['student']))

  def test_self_forcing_trains_the_critic_always_and_the_student_at_its_pace(
      self):
    trained = {'teacher': network(1), 'teacher_forcing': network(2)}
    stage = make_stage('self_forcing')
    params, metrics = run(stage, 3, trained)
    self.assertFinite([params, metrics])
    self.assertTrue(is_equal(params[0], {
        'self_forcing': network(2), 'critic': network(1)}))
    changed = lambda name: [
        not is_equal(a[name], b[name]) for a, b in zip(params, params[1:])]
    self.assertEqual(changed('self_forcing'), [True, False, True])
    self.assertEqual(changed('critic'), [True, True, True])
    for step in range(3):
      self.assertIn('critic/loss', metrics[step])
      self.assertEqual('self_forcing/dmd_gradient_rms' in metrics[step],
                       step % 2 == 0)
    # The frozen teacher, and where the networks started, are as they were.
    jax.tree.map(
        self.assertIs, stage.frozen(trained)['teacher'], trained['teacher'])
    for name, seed in ('teacher', 1), ('teacher_forcing', 2):
      self.assertTrue(is_equal(trained[name], tiny_world.random_variables(
          config(), seed)['student']))


class BuiltTest(parameterized.TestCase):

  @parameterized.parameters(
      # Clips of 4 frames of 3x4 tokens, 8 at a time; pixels count as tokens of
      # the latents that they become; teacher forcing sees all frames but the
      # last clean, and all but the first noisy.
      ('tokenizer', 8 * 4 * 12), ('teacher', 8 * 4 * 12),
      ('teacher_forcing', 8 * 6 * 12), ('self_forcing', 8 * 4 * 12))
  def test_it_is_what_its_config_says(self, name, tokens):
    stage = make_stage(name)
    self.assertEqual(stage.name, name)
    self.assertEqual(stage.num_steps, 6)
    self.assertEqual(stage.tokens_per_step, tokens)
    self.assertEqual(stage.batches, ('batches of', config()[name]))
    self.assertEqual(stage.updates[0].network, name)

  def test_the_frozen_teacher_may_be_kept_in_fewer_bits(self):
    settings = config()
    settings.self_forcing.frozen_dtype = 'bfloat16'
    teacher = {'w': np.ones(3, np.float32)}
    stage = stages.make('self_forcing', stages.Inputs(
        settings, lambda stage: None, None))
    trained = {'teacher': teacher, 'teacher_forcing': teacher}
    self.assertEqual(stage.frozen(trained)['teacher']['w'].dtype, 'bfloat16')
    for network in stage.init(trained).values():
      self.assertEqual(network['w'].dtype, np.float32)

  def test_self_forcing_has_the_pace_and_the_average_of_its_config(self):
    stage = make_stage('self_forcing')
    student, critic = stage.updates
    self.assertEqual((student.every, student.ema), (2, 0.9))
    self.assertEqual((critic.network, critic.every, critic.ema),
                     ('critic', 1, None))
    self.assertEqual(stage.rollout_steps, 2.5)  # One or two, and a clean pass.


if __name__ == '__main__':
  absltest.main()

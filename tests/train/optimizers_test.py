"""The optimiser does what its config says."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import ml_collections
import numpy as np
import optax

from worldsim_jax.errors import UserError
from worldsim_jax.train import optimizers

NUM_UPDATES = 10


def config(**changes):
  return ml_collections.ConfigDict(
      dict(
          learning_rate=0.1,
          warmup_steps=0,
          schedule='constant',
          b1=0.0,
          b2=0.5,
          weight_decay=0.0,
          clip_norm=1e9,
          frozen=(),
      )
      | changes
  )


def steps(gradients, params=1.0, **changes):
  """What each gradient in turn moves a parameter by."""
  optimizer = optimizers.make(config(**changes), NUM_UPDATES)

  @jax.jit
  def run(params, gradients):
    def body(state, gradient):
      move, state = optimizer.update(gradient, state, params)
      return state, move

    return jax.lax.scan(body, optimizer.init(params), gradients)[1]

  return run(np.float32(params), np.float32(gradients))


def first_update(optimizer, gradient, params):
  return jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p))(
      gradient, params
  )


class OptimizersTest(parameterized.TestCase):

  def test_a_constant_gradient_moves_by_the_learning_rate(self):
    # Adam's normalised gradient is 1 up to its ε of 1e-8.
    np.testing.assert_allclose(steps([2.0] * 3), [-0.1] * 3, rtol=1e-5)

  def test_warm_up_rises_from_a_tenth(self):
    np.testing.assert_allclose(
        steps([2.0] * 5, warmup_steps=3),
        [-0.01, -0.04, -0.07, -0.1, -0.1],
        rtol=1e-5,
    )

  def test_cosine_ends_at_zero_with_the_updates(self):
    moves = steps([2.0] * NUM_UPDATES, schedule='cosine', warmup_steps=2)
    angle = np.pi * np.arange(NUM_UPDATES - 2) / (NUM_UPDATES - 2)
    np.testing.assert_allclose(
        moves[2:], -0.1 * (1 + np.cos(angle)) / 2, rtol=1e-5
    )

  def test_weight_decay_is_decoupled_from_the_gradient(self):
    np.testing.assert_allclose(
        steps([0.0], params=3.0, weight_decay=0.01),
        [-0.1 * 0.01 * 3.0],
        rtol=1e-5,
    )

  def test_gradients_are_clipped_by_their_global_norm(self):
    optimizer = optimizers.make(config(clip_norm=1.0), NUM_UPDATES)
    params = {'a': np.zeros(3, np.float32), 'b': np.zeros(4, np.float32)}
    gradient = {name: x + 5 for name, x in params.items()}
    _, state = first_update(optimizer, gradient, params)
    # Adam's second moment is (1 - b2) g², and seven equal g of norm 1 are 1/√7.
    moment = optax.tree.get(state, 'nu')
    np.testing.assert_allclose(moment['a'], 0.5 / 7, rtol=1e-5)

  def test_frozen_parameters_neither_move_nor_count_in_the_norm(self):
    params = {
        'encoder': {'w': np.ones(2, np.float32)},
        'decoder': {'w': np.ones(2, np.float32)},
    }
    gradient = {
        'encoder': {'w': np.full(2, 1e6, np.float32)},
        'decoder': {'w': np.full(2, 0.1, np.float32)},
    }
    optimizer = optimizers.make(
        config(frozen=('encoder',), weight_decay=0.01, clip_norm=1.0),
        NUM_UPDATES,
    )
    moves, state = first_update(optimizer, gradient, params)
    np.testing.assert_array_equal(moves['encoder']['w'], 0)
    self.assertTrue(np.all(moves['decoder']['w'] < 0))
    # Not clipped: 0.1 twice has a norm below 1.
    moments = optax.tree.get(state, 'nu')['decoder']['w']
    np.testing.assert_allclose(moments, 0.5 * 0.1**2, rtol=1e-5)

  def test_a_frozen_name_that_matches_nothing_is_said(self):
    optimizer = optimizers.make(config(frozen=('enkoder',)), NUM_UPDATES)
    with self.assertRaisesRegex(UserError, "'enkoder' .*optimizer.frozen"):
      optimizer.init({'encoder': np.ones(2, np.float32)})

  def test_an_unknown_schedule_names_the_key(self):
    with self.assertRaisesRegex(ValueError, "'linear'.*optimizer.schedule"):
      optimizers.make(config(schedule='linear'), NUM_UPDATES)

  def test_a_warm_up_longer_than_training_names_the_key(self):
    with self.assertRaisesRegex(ValueError, '11 .*10 .*warmup_steps'):
      optimizers.make(config(warmup_steps=11), NUM_UPDATES)


if __name__ == '__main__':
  absltest.main()

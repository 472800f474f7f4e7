"""Physics: scenes in which a monster moves, and what they are worth."""

import functools
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import physics_iq
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.sections import physics


@functools.cache
def scenes():
  """Two of them, made by the engine once."""
  with mock.patch.object(physics, 'SCENES', 3):
    return physics.scenes(tiny_trial.make(horizon=16))


def measured(play):
  trial, takes = tiny_trial.of(play, horizon=16), scenes()
  with mock.patch.object(physics, 'scenes', lambda unused_trial: takes):
    section = physics.measure(trial)
  return tiny_trial.figures_of(section), section


class PhysicsTest(absltest.TestCase):

  def test_the_player_stands_still_and_a_monster_moves(self):
    self.assertGreaterEqual(len(scenes()), 2)
    for one, other in scenes():
      self.assertEqual(np.ptp(one['pose'], axis=0).max(), 0)
      np.testing.assert_array_equal(one['pose'], other['pose'])
      moving = physics_iq.motion_masks(one['rgb']).mean()
      self.assertGreaterEqual(moving, physics.LEAST_MOVING)

  def test_takes_begin_alike_and_part(self):
    apart = lambda one, other, t: np.abs(
        one['rgb'][t].astype(int) - other['rgb'][t]).mean()
    first, last = (np.mean([apart(*takes, t) for takes in scenes()])
                   for t in (0, -1))
    self.assertLess(first, .9 * last)

  def test_the_truth_has_all_points(self):
    found, section = measured(subjects.truth)
    self.assertEqual(found['physics_iq'].value, 100)
    self.assertEqual(found['physics_mse'].value, 0)
    self.assertBetween(found['physics_spatial_iou'].real, .05, .95)
    self.assertLen(section.films, 1)

  @pytest.mark.slow
  def test_a_still_film_has_some_points_which_stand_beside(self):
    found, _ = measured(subjects.copy)
    self.assertEqual(found['physics_spatial_iou'].value, 0)
    still = found['copy_physics_iq']
    self.assertEqual(found['physics_iq'].value, still.value)
    self.assertBetween(still.value, 1, 60)
    self.assertBetween(still.value, still.low, still.high)

  def test_where_nothing_moves_the_key_is_named(self):
    with (mock.patch.object(physics, 'SCENES', 1),
          mock.patch.object(physics, 'TRIES', 1),
          mock.patch.object(physics, 'LEAST_MOVING', 2.),
          self.assertRaisesRegex(UserError, 'config.data.generated_test_maps')):
      physics.scenes(tiny_trial.make())


if __name__ == '__main__':
  absltest.main()

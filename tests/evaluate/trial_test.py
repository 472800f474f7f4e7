"""What a subject is asked to continue: its maps, its actions, its length."""

import dataclasses
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.data import splits
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import subjects


class TrialTest(absltest.TestCase):

  @pytest.mark.slow
  def test_all_films_are_of_test_maps(self):
    trial = tiny_trial.make()
    for what in ('clips', 'other', 'walks'):
      for name in trial.films(what).maps:
        self.assertEqual(splits.split_of(name), 'test')

  @pytest.mark.slow
  def test_walks_are_long_new_and_the_same_again(self):
    one, two = (tiny_trial.make().walks for _ in range(2))
    self.assertEqual(one.rgb.shape, (2, 66, 48, 64, 3))
    np.testing.assert_array_equal(one.rgb, two.rgb)
    other = tiny_trial.make(seed=1).walks
    self.assertTrue(np.any(one.pose[:, 0] != other.pose[:, 0]))
    self.assertLen(set(one.maps), 2)

  def test_the_other_actions_are_opposite_or_those_of_the_next_clip(self):
    trial = tiny_trial.make()
    ours, theirs = trial.clips.actions[:, 2:], trial.other.actions[:, 2:]
    still = ~np.any(ours, axis=(1, 2))
    np.testing.assert_array_equal(theirs[~still], -ours[~still])
    np.testing.assert_array_equal(
        trial.other.rgb[:, :2], trial.clips.rgb[:, :2]
    )
    self.assertGreater(
        np.abs(trial.other.future.astype(int) - trial.clips.future).mean(), 4
    )

  def test_a_subject_plays_once_however_many_sections_look(self):
    trial = tiny_trial.make()
    with mock.patch.object(subjects, 'copy', wraps=subjects.copy) as played:
      trial = tiny_trial.Trial(
          trial.config, 'copy', subjects.copy, trial.frames_dir, trial.given
      )
      self.assertIs(trial.played('clips'), trial.played('clips'))
    self.assertEqual(played.call_count, 1)

  def test_a_training_map_is_never_walked(self):
    with self.assertRaisesRegex(UserError, "walk_maps has 'gen:3', a map of t"):
      _ = tiny_trial.make(walk_maps=('gen:3',)).walks

  def test_walks_shorter_than_a_step_of_the_model_are_told(self):
    trial = tiny_trial.make(walk_frames=3)
    trial = dataclasses.replace(trial, frames_per_step=4)
    with self.assertRaisesRegex(UserError, 'walk_frames=3 is less than the 4'):
      _ = trial.walks

  def test_a_map_that_is_not_in_the_wheel_is_named(self):
    with self.assertRaisesRegex(UserError, "there is no map 'MAP77'"):
      _ = tiny_trial.make(walk_maps=('MAP77',)).walks


if __name__ == '__main__':
  absltest.main()

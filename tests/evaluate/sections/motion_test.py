"""Motion: of films, and of cameras that a subject predicts."""

import functools

from absl.testing import absltest
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.sections import motion


def with_cameras(clips, change):
  """The true film, with true cameras that are changed."""
  played = subjects.truth(clips)
  return subjects.Played(played.rgb, motions=change(played.motions.copy()))


def figures_of(change):
  """Of few clips: alignment takes its time."""
  play = functools.partial(with_cameras, change=change)
  return tiny_trial.figures_of(
      motion.measure(tiny_trial.of(play, num_clips=2, horizon=4)))


@pytest.mark.slow
class MotionTest(absltest.TestCase):

  def test_cameras_are_compared_up_to_where_they_all_are(self):
    turned = np.eye(4)
    turned[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    turned[:3, 3] = 7, 8, 9
    found = figures_of(lambda motions: turned @ motions)
    for name in ('ate', 'rpe_translation', 'rpe_rotation'):
      self.assertLess(found[f'predicted_camera_{name}'].value, 1e-3, name)

  def test_a_camera_that_turns_too_far_is_told_by_its_angle(self):
    def too_far(motions):
      for t in range(motions.shape[1]):
        angle = np.radians(3 * t)
        more = np.eye(4)
        more[0, 0] = more[2, 2] = np.cos(angle)
        more[0, 2], more[2, 0] = np.sin(angle), -np.sin(angle)
        motions[:, t] = motions[:, t] @ more
      return motions

    found = figures_of(too_far)
    self.assertAlmostEqual(
        found['predicted_camera_rpe_rotation'].value, 3, places=3)
    self.assertLess(found['predicted_camera_rpe_translation'].value, 30)
    # The film is the true one, whatever cameras the subject believes in.
    self.assertEqual(found['track_end_point_error'].value,
                     found['track_end_point_error'].real)
    self.assertEqual(found['turn_error_1'].value, found['turn_error_1'].real)
    self.assertLess(found['turn_error_1'].real, 1)

  def test_on_the_true_film_the_judges_hardly_err(self):
    found = figures_of(lambda motions: motions)
    self.assertGreater(found['odometry_accepted_1'].value, .9)
    # Pixels of pictures that are 64 wide.
    self.assertLess(found['track_end_point_error'].value, .5)
    self.assertGreater(found['track_visibility_f1'].value, .8)


if __name__ == '__main__':
  absltest.main()

"""The search finds what is far away, where a step downhill would not."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from tests.evaluate import photometric_test
from tests.evaluate import walks
from worldsim_jax.evaluate import alignment
from worldsim_jax.evaluate import cylinder_search

CAMERA = photometric_test.CAMERA


class SearchTest(parameterized.TestCase):

  @parameterized.parameters(
      ((20.0, -12.0, 16.0, 0.0), (0, 0, 0, 0)),
      ((-24.0, 8.0, -20.0, 0.0), (0, 0, 0, 0)),
      ((40.0, 4.0, 34.0, 0.0), (32.0, 0.0, 20.0, 0.0)),
  )
  def test_the_best_guess_is_near_the_true_movement(self, true, centre):
    frame, depth = photometric_test.view((0, 0, 0, 0))
    later, _ = photometric_test.view(true)
    found = cylinder_search.search(
        CAMERA, frame, depth, later, reach=(32.0, 24.0), count=3, centre=centre
    )
    # Half a step of the grid is 4 map units and a degree, and the smooth paint
    # is known to half a cell.
    gap = np.abs(found[0] - true)
    self.assertLess((gap / (8, 8, 3, 1)).max(), 1)

  def test_real_frames_have_a_guess_from_which_the_answer_is_reached(self):
    episode, geometry = walks.walk()
    for t in (5, 9):
      true = alignment.movements_of(
          geometry.motions[t + 4], geometry.motions[t]
      )
      found = cylinder_search.search(
          geometry.camera,
          episode['rgb'][t],
          geometry.depth[t],
          episode['rgb'][t + 4],
          reach=(64.0, 32.0),
          count=12,
      )
      gap = np.abs(found - true) / (9, 9, 3, 99)
      self.assertLess(gap.max(1).min(), 1)

  def test_guesses_are_within_reach_and_no_more_than_asked_for(self):
    episode, geometry = walks.walk()
    found = cylinder_search.search(
        geometry.camera,
        episode['rgb'][0],
        geometry.depth[0],
        episode['rgb'][3],
        reach=(20.0, 10.0),
        count=4,
    )
    self.assertLessEqual(len(found), 4)
    self.assertLessEqual(np.abs(found[:, :2]).max(), 20)
    self.assertLessEqual(np.abs(found[:, 2]).max(), 10)

  def test_without_known_depths_there_is_no_guess(self):
    frame, depth = photometric_test.view((0, 0, 0, 0))
    found = cylinder_search.search(
        CAMERA, frame, np.full_like(depth, np.inf), frame, reach=(9, 9), count=4
    )
    self.assertEqual(found.shape, (0, 4))


if __name__ == '__main__':
  absltest.main()

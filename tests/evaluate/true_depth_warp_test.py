"""One frame and exact geometry: better than copying, if they are exact."""

import dataclasses

from absl.testing import absltest
import numpy as np

from tests.evaluate import walks
from worldsim_jax.data import scene
from worldsim_jax.evaluate import image_metrics
from worldsim_jax.evaluate import true_depth_warp


class ReplayTest(absltest.TestCase):

  def replay(self, given=6, **changes):
    episode, geometry = walks.walk()
    geometry = dataclasses.replace(geometry, **changes)
    truth = episode['rgb'][given:]
    film = true_depth_warp.replay(episode['rgb'][given - 1], geometry, given)
    self.assertEqual(film.shape, truth.shape)
    self.assertEqual(film.dtype, np.uint8)
    return image_metrics.psnr(film, truth), film, truth

  def test_it_beats_a_copy_by_far(self):
    scores, _, truth = self.replay()
    episode, _ = walks.walk()
    copy = image_metrics.psnr(
        np.broadcast_to(episode['rgb'][5], truth.shape), truth
    )
    # 7 dB on this map after one frame; what comes into view later is not known.
    self.assertGreater(scores[0], copy[0] + 4)
    self.assertGreater(scores.mean(), copy.mean() + 2)

  def test_wrong_motions_or_depths_make_it_worse(self):
    _, geometry = walks.walk()
    right = self.replay()[0][:4].mean()
    backwards = geometry.motions.copy()
    backwards[6:] = backwards[6:][::-1]
    turned = geometry.motions.copy()
    turned[6:] = turned[:-6]
    for motions in (backwards, turned):
      wrong = self.replay(motions=motions)[0][:4].mean()
      self.assertLess(wrong, right - 2)
    wrong = self.replay(depth=0.5 * geometry.depth)[0][:4].mean()
    self.assertLess(wrong, right - 1)

  def test_a_camera_that_stands_still_keeps_its_picture(self):
    episode, geometry = walks.walk()
    still = [
        np.repeat(x[5:6], 9, 0)
        for x in (geometry.motions, geometry.depth, geometry.surface)
    ]
    geometry = dataclasses.replace(
        geometry, motions=still[0], depth=still[1], surface=still[2]
    )
    film = true_depth_warp.replay(episode['rgb'][5], geometry, 1)
    np.testing.assert_array_equal(film, np.repeat(episode['rgb'][5:6], 8, 0))

  def test_the_sky_turns_with_the_camera(self):
    episode, geometry = walks.walk()
    film = true_depth_warp.replay(episode['rgb'][0], geometry, 1)
    sky = (geometry.surface[:4] == scene.SKY).all(0)  # It turns by 18 degrees.
    self.assertGreater(sky.sum(), 50)
    gap = lambda x: np.abs(x.astype(int) - episode['rgb'][3])[sky].mean()
    self.assertLess(gap(film[2]), 0.7 * gap(episode['rgb'][0]))

  def test_all_or_no_frames_given(self):
    episode, geometry = walks.walk()
    self.assertEmpty(true_depth_warp.replay(episode['rgb'][-1], geometry, 16))
    with self.assertRaisesRegex(ValueError, '0 given frames of 16'):
      true_depth_warp.replay(episode['rgb'][0], geometry, 0)


if __name__ == '__main__':
  absltest.main()

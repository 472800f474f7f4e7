"""Subjects made of the truth: each has its one fault and no other."""

import dataclasses

from absl.testing import absltest
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import subjects

FPS = 17.5


def clips():
  return tiny_trial.make().clips


def sorted_frames(film):
  return sorted(frame.tobytes() for frame in film)


class SubjectsTest(absltest.TestCase):

  @pytest.mark.slow
  def test_the_truth_has_the_cameras_and_the_depth_of_its_frames(self):
    played = subjects.truth(clips())
    np.testing.assert_array_equal(played.rgb, clips().future)
    np.testing.assert_array_equal(
        played.motions, clips().motions[:, clips().given:])
    np.testing.assert_array_equal(
        played.depth[0], clips().geometry(0).depth[clips().given:])
    self.assertEqual(played.normals.shape, (*played.depth.shape, 3))

  def test_copy_knows_the_given_frames_only(self):
    film = subjects.copy(clips()).rgb
    self.assertEqual(film.shape, clips().future.shape)
    for t in range(clips().horizon):
      np.testing.assert_array_equal(
          film[:, t], clips().rgb[:, clips().given - 1])

  def test_shuffled_shows_the_same_frames_in_another_order(self):
    film = subjects.shuffled(clips(), seed=0).rgb
    for ours, true in zip(film, clips().future):
      self.assertEqual(sorted_frames(ours), sorted_frames(true))
    self.assertTrue(np.any(film != clips().future))
    other = subjects.shuffled(clips(), seed=1).rgb
    self.assertTrue(np.any(film != other))

  def test_noise_has_its_deviation_and_its_seed(self):
    grey = np.full_like(clips().rgb, 128)
    flat = dataclasses.replace(clips(), rgb=grey)
    film = subjects.noise(flat, seed=0).rgb.astype(float) - 128
    self.assertAlmostEqual(film.std(), subjects.NOISE, delta=.1)
    np.testing.assert_array_equal(
        subjects.noise(clips(), 3).rgb, subjects.noise(clips(), 3).rgb)

  def test_gain_darkens_by_two_per_cent_a_second(self):
    grey = np.full_like(clips().rgb, 200)
    flat = dataclasses.replace(clips(), rgb=grey)
    film = subjects.gain(flat, FPS / clips().horizon).rgb
    # The last frame is one "second" of so few frames later.
    self.assertEqual(film[0, -1, 0, 0, 0], round(
        200 * .98**(clips().horizon / (FPS / clips().horizon))))
    self.assertTrue(np.all(np.diff(film[0, :, 0, 0, 0].astype(int)) <= 0))

  @pytest.mark.slow
  def test_wrong_actions_lead_elsewhere_from_the_same_place(self):
    played = subjects.wrong_actions(clips())
    turned = clips().commanded(-clips().actions)
    np.testing.assert_array_equal(played.rgb, turned.future)
    np.testing.assert_array_equal(
        turned.pose[:, :clips().given], clips().pose[:, :clips().given])
    self.assertGreater(
        np.abs(played.rgb.astype(int) - clips().future).mean(), 2)

  def test_forgetful_is_true_until_a_place_comes_back(self):
    walks = tiny_trial.make(walks=1, walk_frames=240).walks
    film = subjects.forgetful(walks, FPS).rgb
    wrong = np.any(film != walks.future, axis=(0, 2, 3, 4))
    first = int(np.argmax(wrong))
    self.assertTrue(wrong.any())
    # A revisit is five seconds after a first visit at the earliest.
    self.assertGreater(first, subjects.FORGETS_AFTER * FPS - walks.given)
    self.assertGreater(wrong[first:].mean(), .9)

  def test_forgetful_forgets_nothing_where_nothing_comes_back(self):
    film = subjects.forgetful(clips(), FPS).rgb
    np.testing.assert_array_equal(film, clips().future)

  def test_films_without_a_world_cannot_be_forgotten(self):
    users = dataclasses.replace(clips(), recipes=None, pose=None)
    with self.assertRaisesRegex(UserError, 'forgetful needs films of the emb'):
      subjects.forgetful(users, FPS)

  def test_only_generated_maps_have_other_walls(self):
    self.assertEqual(subjects.redecorated('gen:7'), 'gen:7,decor=1')
    with self.assertRaisesRegex(UserError, 'config.data.generated_test_maps'):
      subjects.redecorated('MAP21')


if __name__ == '__main__':
  absltest.main()

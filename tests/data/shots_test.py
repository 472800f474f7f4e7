"""Clips begin where they do not meet a cut."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.data import shots


def film(*shot_id):
  return dict(shot_id=np.array(shot_id, np.int32), caption='')


class ShotsTest(parameterized.TestCase):

  @parameterized.parameters(
      (1, [0, 1, 2, 3, 4, 5]), (2, [0, 1, 3]), (3, [0]), (4, []), (9, [])
  )
  def test_a_clip_begins_where_no_cut_is_within_it(self, frames, expected):
    for episode in (film(0, 0, 0, 1, 1, 2), film(5, 5, 5, 0, 0, 5)):
      self.assertEqual(shots.starts(episode, frames).tolist(), expected)
      self.assertEqual(shots.longest(episode), 3)

  def test_without_shot_id_all_is_one_shot(self):
    episode = dict(rgb=np.zeros((5, 2, 2, 3)), text=np.zeros((3, 8)), recipe='')
    self.assertEqual(shots.starts(episode, 4).tolist(), [0, 1])
    self.assertEqual(shots.longest(episode), 5)
    self.assertEqual(shots.longest(dict(caption='')), 0)

  def test_a_latent_frame_of_two_shots_belongs_to_neither(self):
    # Latent frames are 0 | 0 0 | 0 1 | 1 1 | 1 1 | 2 2 | 2 2.
    shot_id = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2])
    latent = shots.grouped(shot_id, 2)
    self.assertEqual(shots.starts(film(*latent), 2).tolist(), [0, 3, 5])
    np.testing.assert_array_equal(shots.grouped(shot_id, 1), 2 * shot_id)

  def test_a_shot_shorter_than_a_latent_frame_parts_its_neighbours(self):
    latent = shots.grouped(np.array([0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2]), 4)
    self.assertEqual(shots.starts(film(*latent), 2).tolist(), [0])


if __name__ == '__main__':
  absltest.main()

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

  def test_a_clip_of_several_shots_begins_with_one(self):
    episode = film(3, 3, 7, 7, 7, 8)
    self.assertEqual(shots.starts(episode, 3, most=2).tolist(), [0, 2])
    self.assertEqual(shots.starts(episode, 4, most=2).tolist(), [0, 2])
    self.assertEqual(shots.starts(episode, 6, most=2).tolist(), [])
    self.assertEqual(shots.starts(episode, 6, most=3).tolist(), [0])

  def test_a_film_is_split_at_its_cuts(self):
    episode = film(3, 3, 7, 8, 8) | dict(rgb=np.arange(5), caption='all')
    parts = shots.split(episode)
    self.assertEqual([part['rgb'].tolist() for part in parts],
                     [[0, 1], [2], [3, 4]])
    self.assertEqual({part['caption'] for part in parts}, {'all'})
    whole, = shots.split(film(1, 1))
    self.assertEqual(whole['shot_id'].tolist(), [1, 1])


if __name__ == '__main__':
  absltest.main()

"""Memory: the true film has it, and forgetting and inventing are told apart."""

import dataclasses

from absl.testing import absltest
import numpy as np

from tests.evaluate import walks
from worldsim_jax.evaluate import revisit_memory

HALF = 8
PAIRS = [(k, 2 * HALF - k) for k in range(HALF)]


def measure(film=None, **changes):
  episode, geometry = walks.there_and_back()
  geometry = dataclasses.replace(geometry, **changes)
  film = episode['rgb'] if film is None else film
  return revisit_memory.measure(film, episode['rgb'], geometry, PAIRS)


class RevisitMemoryTest(absltest.TestCase):

  def test_the_true_film_is_correct_and_as_consistent_as_warping_allows(self):
    found = measure()
    np.testing.assert_array_equal(found.correctness, 100)  # the cap: equal
    np.testing.assert_array_equal(found.whole, 100)
    np.testing.assert_array_equal(found.consistency, found.floor)
    # It turned back to the same view; turns are rounded to 360 / 65536.
    self.assertGreater(found.floor.min(), 35)
    self.assertEqual(found.share.shape, (HALF,))

  def test_views_from_elsewhere_are_warped_before_they_are_compared(self):
    episode, geometry = walks.there_and_back()
    nearby = [(2, 3), (4, 6)]
    warped = revisit_memory.measure(
        episode['rgb'], episode['rgb'], geometry, nearby
    )
    still = dataclasses.replace(
        geometry,
        motions=np.repeat(geometry.motions[:1], len(geometry.depth), 0),
    )
    copied = revisit_memory.measure(
        episode['rgb'], episode['rgb'], still, nearby
    )
    self.assertGreater(warped.floor.min(), copied.floor.max() + 3)

  def test_a_forgotten_room_is_neither_consistent_nor_correct(self):
    episode, _ = walks.there_and_back()
    other, _ = walks.walk('gen:1048579')
    film = episode['rgb'].copy()
    film[HALF + 1 :] = other['rgb'][: len(film) - HALF - 1]
    found, true = measure(film), measure()
    self.assertLess(found.consistency.max(), true.floor.min() - 10)
    self.assertLess(found.correctness.max(), 20)
    np.testing.assert_array_equal(found.floor, true.floor)

  def test_an_invented_room_that_stays_is_consistent_but_not_correct(self):
    episode, _ = walks.there_and_back()
    found, true = measure(episode['rgb'][..., ::-1]), measure()
    # The same pixels in other colours: as far apart as the true ones.
    np.testing.assert_allclose(found.consistency, true.floor, atol=1e-6)
    self.assertLess(found.correctness.max(), 40)

  def test_sprites_and_skies_do_not_count(self):
    episode, geometry = walks.there_and_back()
    share = measure().share
    covered = np.ones((1, 48, 64), bool)
    covered[:, :, 32:] = False
    hidden = measure(sprites=covered, exact=geometry.exact & ~covered)
    self.assertLess(hidden.share.max(), 0.52)
    self.assertLess(share.max(), 1.0)
    none = measure(exact=np.zeros_like(geometry.exact))
    self.assertTrue(np.isnan(none.consistency).all())
    self.assertTrue(np.isnan(none.correctness).all())
    np.testing.assert_array_equal(none.whole, 100)

  def test_what_is_no_revisit_is_refused(self):
    episode, geometry = walks.there_and_back()
    rgb = episode['rgb']
    for pairs in ([(3, 3)], [(5, 2)], [(0, 17)], [(-1, 3)]):
      with self.assertRaisesRegex(ValueError, 'i < j of 17'):
        revisit_memory.measure(rgb, rgb, geometry, pairs)
    with self.assertRaisesRegex(ValueError, 'one length'):
      revisit_memory.measure(rgb[:5], rgb[:5], geometry, [(0, 1)])


if __name__ == '__main__':
  absltest.main()

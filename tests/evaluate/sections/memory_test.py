"""Memory: of what is the same place again, and is it the same?"""

import dataclasses
import functools

from absl.testing import absltest
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.sections import memory

WALK = dict(walks=1, walk_frames=240)


def brighter_later(clips):
  """What can be a second visit is 20 grey levels brighter, or white."""
  film = clips.future.astype(int)
  film[:, 87:] += 20  # 5 s
  return subjects.Played(np.clip(film, 0, 255).astype(np.uint8))


@functools.cache
def of(play):
  return tiny_trial.figures_of(memory.measure(tiny_trial.of(play, **WALK)))


class MemoryTest(absltest.TestCase):

  def test_the_truth_is_right_and_as_consistent_as_warping_can_tell(self):
    found = of(subjects.truth)
    self.assertEqual(found['revisit_correctness_5s'].value, 100)
    consistency = found['revisit_consistency_5s']
    self.assertEqual(consistency.value, consistency.real)
    self.assertGreater(consistency.real, 25)

  def test_a_place_that_has_changed_is_neither_consistent_nor_right(self):
    found, true = of(brighter_later), of(subjects.truth)
    # 20 log10(255 / 20) = 22.1, but for what was white before.
    self.assertBetween(found['revisit_correctness_5s'].value, 22, 23.5)
    self.assertLess(found['revisit_consistency_5s'].value,
                    true['revisit_consistency_5s'].value - 5)

  @pytest.mark.slow
  def test_gaps_that_no_walk_has_are_noted(self):
    section = memory.measure(tiny_trial.make(**WALK))
    self.assertIn('after 60 s: no walk of 240', section.not_measured)

  @pytest.mark.slow
  def test_a_film_that_stands_still_is_as_consistent_as_can_be(self):
    found, true = of(subjects.copy), of(subjects.truth)
    for name in ('copy_revisit_consistency_5s', 'revisit_consistency_5s'):
      self.assertEqual(found[name].value,
                       true['copy_revisit_consistency_5s'].value)

  def test_walks_that_never_come_back_are_told_with_the_key(self):
    with self.assertRaisesRegex(UserError, 'config.evaluate.walk_frames'):
      memory.measure(tiny_trial.make(walks=1, walk_frames=40))

  def test_the_ceiling_is_that_of_the_true_film(self):
    found, true = of(brighter_later), of(subjects.truth)
    self.assertEqual(found['revisit_consistency_5s'].real,
                     true['revisit_consistency_5s'].real)

  @pytest.mark.slow
  def test_what_was_given_is_not_asked_for(self):
    def brighter(clips):
      # Half as bright and 60 more: nothing is clipped.
      return subjects.Played(clips.future // 2 + 60)

    def consistency(play):
      trial = dataclasses.replace(tiny_trial.of(play, **WALK), given=60)
      section = memory.measure(trial)
      return tiny_trial.figures_of(section)['revisit_consistency_5s']

    # Its own frames agree, and all the more as they have half the contrast;
    # with the given ones they do not.
    self.assertGreater(consistency(brighter).value,
                       consistency(subjects.truth).value + 3)


if __name__ == '__main__':
  absltest.main()

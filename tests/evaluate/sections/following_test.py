"""Discrimination of two futures: what counts as obeying."""

from absl.testing import absltest
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.sections import following


def discrimination(trial):
  section = following.measure(trial)
  return tiny_trial.figures_of(section)['action_discrimination'], section


@pytest.mark.slow
class FollowingTest(absltest.TestCase):

  def test_obeying_is_always_right(self):
    figure, section = discrimination(tiny_trial.make())
    self.assertEqual((figure.value, figure.real), (1, 1))
    self.assertLen(section.films, 1)

  def test_doing_the_opposite_is_always_wrong(self):
    figure, _ = discrimination(tiny_trial.make('wrong_actions'))
    self.assertLess(figure.value, .2)

  def test_whoever_does_not_read_the_actions_is_right_half_of_the_time(self):
    figure, _ = discrimination(tiny_trial.make('copy'))
    self.assertEqual((figure.value, figure.low, figure.high), (.5, .5, .5))

  def test_brightness_and_contrast_do_not_count(self):
    darker = lambda clips: subjects.Played(
        (clips.future * .5 + 20).astype(np.uint8))
    self.assertEqual(discrimination(tiny_trial.of(darker))[0].value, 1)

  def test_futures_that_hardly_differ_are_left_out(self):
    trial = tiny_trial.make()
    vars(trial)['other'] = trial.clips  # In place of the cached property.
    figure, section = discrimination(trial)
    self.assertEqual(figure.count, 0)
    self.assertTrue(np.isnan(figure.value))
    self.assertIn(f'0 of {len(trial.clips)} pairs', section.notes[0])

  def test_correlation_is_of_what_differs_from_the_mean(self):
    x = tiny_trial.make().clips.rgb[:2, :4]
    np.testing.assert_allclose(following.correlation(x, x), 1, rtol=1e-5)
    np.testing.assert_allclose(following.correlation(x, 255 - x), -1, rtol=1e-5)
    flat = np.full_like(x, 7)
    np.testing.assert_array_equal(following.correlation(x, flat), 0)

  def test_flicker_does_not_count(self):
    x = tiny_trial.make().clips.rgb[:2, :4] // 2
    flicker = x + np.array([0, 90, 0, 90], np.uint8)[:, None, None, None]
    np.testing.assert_allclose(following.correlation(x, flicker), 1, rtol=1e-5)


if __name__ == '__main__':
  absltest.main()

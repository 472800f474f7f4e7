"""Recall: the truth is right everywhere, and a short memory shows its age."""

import functools
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

from configs import stages
from tests.evaluate import tiny_trial
from tests.streaming import tiny_world
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import told
from worldsim_jax.evaluate.sections import recall

WALK = dict(walks=2, walk_frames=120, sections=('recall',))
SECOND = 18  # frames


@functools.cache
def trial():
  config = tiny_trial.config(**WALK)
  config.student.recall = stages.recall(top_k=2, most=4, slots=256)
  made = tiny_trial.of_world(**WALK)
  return made.__class__(**(vars(made) | dict(
      config=config, world=tiny_world.of_config(config))))


def measured(predict):
  """The section's figures, where `predict` stands for the student."""
  with mock.patch.object(told, 'predict', autospec=True, side_effect=(
      lambda unused_world, walks, unused_seed: predict(walks))):
    return recall.measure(trial())


def chosen(walks, choose):
  """`Told.recalled` by (walk, chunk) -> frames [K, N]."""
  tokens = 6 * 8
  frames = [[choose(n, t) for t in range(walks.given, walks.rgb.shape[1])]
            for n in range(len(walks))]
  frames = np.reshape(frames, (len(walks), walks.horizon, 1, 1, 2, 1, tokens))
  return np.broadcast_to(frames, (*frames.shape[:2], 2, 2, 2, 1, tokens))


def by_geometry(walks, best: bool):
  """Frames that show the most of each token, or the least."""
  student = trial().config.student

  @functools.cache
  def choose(number, t):
    able = np.arange(student.sink, t - student.window)
    if len(able) < 2 or t % 2:  # Half of the frames are enough.
      return np.full((2, 48), told.NEVER)
    shares = told.shares(
        told.visible_before(walks.geometry(number), t), (6, 8))[able]
    order = np.argsort(-shares if best else shares, axis=0, kind='stable')
    return able[order[:2]]

  return chosen(walks, choose)


@pytest.mark.slow
class RecallTest(absltest.TestCase):

  def test_the_truth_is_right_whenever_it_was_seen(self):
    section = measured(lambda walks: told.Told(walks.future, None))
    found = tiny_trial.figures_of(section)
    for name in ('now', '1s', 'never'):
      self.assertAlmostEqual(found[f'told_psnr_{name}'].value, 100)
      self.assertLess(found[f'told_psnr_{name}'].real, 60)  # The tokenizer's.
    self.assertEqual(found['told_elsewhere_psnr'].value, 100)

  def test_who_forgets_after_a_second_is_found_out(self):
    def forgetful(walks):
      film = walks.future.copy()
      for number in range(len(walks)):
        for t, visible in recall._views(trial(), walks, number).items():
          ago = told.last_seen(visible)
          film[number, t - walks.given][(ago > SECOND) | (ago < 0)] = 0
      return told.Told(film, None)

    with mock.patch.object(recall, 'JUDGED', 8):
      found = tiny_trial.figures_of(measured(forgetful))
    self.assertAlmostEqual(found['told_psnr_now'].value, 100)
    self.assertLess(found['told_psnr_1s'].value, 20)

  def test_precision_is_of_frames_that_show_the_same(self):
    best, worst = (
        tiny_trial.figures_of(measured(lambda walks, best=best: told.Told(
            walks.future, by_geometry(walks, best)))) for best in (True, False))
    # Half of the frames recall nothing.
    self.assertBetween(best['recall_precision'].value, .35, .65)
    self.assertLess(worst['recall_precision'].value,
                    best['recall_precision'].value / 2)
    self.assertBetween(best['recall_precision'].real, 0.01, 0.99)

  def test_a_real_student_has_a_precision_and_a_film(self):
    section = recall.measure(trial())
    found = tiny_trial.figures_of(section)
    self.assertBetween(found['recall_precision'].value, 0, 1)
    self.assertLess(found['told_psnr_now'].value, 40)
    film, = section.films.values()
    self.assertLen(film, 120)

  def test_what_does_not_stream_has_no_memory(self):
    with self.assertRaisesRegex(UserError, 'truth does not stream'):
      recall.measure(tiny_trial.make())


if __name__ == '__main__':
  absltest.main()

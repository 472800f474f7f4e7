"""Exposure bias: how much is shown, and what is compared."""

import dataclasses
import functools

from absl.testing import absltest
from configs import diffusion_forcing
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.sections import exposure
from worldsim_jax.streaming import world as streaming


@functools.cache
def measured():
  """With what the subject was shown, by number of given frames."""
  shown = {}

  def play(clips):
    shown[clips.given] = clips
    return subjects.copy(clips)

  trial = dataclasses.replace(tiny_trial.of_world(), subject=play)
  return exposure.measure(trial), shown


class ExposureTest(absltest.TestCase):

  @pytest.mark.slow
  def test_contexts_grow_up_to_a_window(self):
    world = tiny_trial.world()
    lengths = exposure.lengths(world)
    self.assertEqual(lengths, sorted(lengths))
    self.assertEqual(lengths[-1], world.config.student.window)
    self.assertEqual(lengths[0], world.config.student.context_frames)

  def test_contexts_of_a_state_grow_up_to_the_length_of_its_training(self):
    config = diffusion_forcing.get_config('rnn,tiny')
    world = streaming.World(config, {}, {}, np.zeros((0,)))
    self.assertEqual(exposure.lengths(world)[-1],
                     config.diffusion_forcing.clip_frames)

  def test_every_context_is_asked_for_the_same_frames(self):
    _, shown = measured()
    futures = [clips.future for clips in shown.values()]
    self.assertGreater(len(futures), 1)
    for future in futures:
      np.testing.assert_array_equal(future, futures[0])
    for given, clips in shown.items():
      self.assertEqual(clips.rgb.shape[1], given + clips.horizon)

  def test_the_next_frame_after_the_longest_context_is_teacher_forced(self):
    section, shown = measured()
    found = tiny_trial.figures_of(section)
    longest = max(shown)
    self.assertEqual(found['teacher_forced_next_frame_psnr'].value,
                     found[f'psnr_1_after_{longest}_true_frames'].value)
    # This subject shows the last frame for ever, whatever came before.
    values = {found[f'psnr_4_after_{given}_true_frames'].value
              for given in shown}
    self.assertLen(values, 1)
    self.assertGreater(found[f'psnr_1_after_{longest}_true_frames'].value,
                       values.pop())

  def test_the_table_has_a_row_for_each_context(self):
    section, shown = measured()
    [(_, columns, rows)] = section.tables
    self.assertEqual([row[0] for row in rows], sorted(shown))
    self.assertEqual(columns, ['true frames', 'frame 1', 'frame 4'])

  def test_a_subject_that_is_no_model_is_told(self):
    with self.assertRaisesRegex(UserError, 'truth cannot be given a context'):
      exposure.measure(tiny_trial.make())

  def test_teacher_forcing_is_with_the_longest_context(self):
    def learns(clips):
      # Frames without black or white, nearer to the truth the more was given.
      dimmed = dataclasses.replace(clips, rgb=clips.rgb // 2 + 60)
      return subjects.Played(dimmed.future + np.uint8(40 - 4 * clips.given))

    trial = tiny_trial.of_world()
    vars(trial)['subject'] = learns
    found = tiny_trial.figures_of(exposure.measure(trial))
    values = [found[f'psnr_1_after_{frames}_true_frames'].value
              for frames in sorted(measured()[1])]
    self.assertLess(values[0], values[-1])
    self.assertEqual(found['teacher_forced_next_frame_psnr'].value, values[-1])


if __name__ == '__main__':
  absltest.main()

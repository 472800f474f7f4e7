"""--mode=evaluate: which subject, from which workdir, into which folder."""

import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate.subjects import Played
from worldsim_jax.streaming import files
from worldsim_jax.train import datasets
from worldsim_jax.train import evaluation
from worldsim_jax.train import run


def config(**evaluate):
  settings = tiny_trial.config(**dict(sections=('following',)) | evaluate)
  settings.student.window = 3  # With its sink as long as the stages' clips.
  settings.data.records = tiny_trial.records()  # Rendered once for all tests.
  return settings


class EvaluationTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)

  def assertNothingIsRendered(self):
    return self.enter_context(mock.patch.object(
        datasets, 'frames', side_effect=AssertionError('rendered')))

  @pytest.mark.slow
  def test_a_fault_needs_no_training_and_writes_its_folder(self):
    summary = evaluation.evaluate(config(subject='copy'), self.workdir)
    folder = self.workdir / 'evaluation' / 'copy'
    self.assertEqual(summary['action_discrimination'], .5)
    self.assertEqual(json.loads((folder / 'summary.json').read_text()), summary)
    self.assertTrue((folder / 'report.html').exists())
    self.assertEqual(
        [path.name for path in self.workdir.iterdir()], ['evaluation'])

  @parameterized.parameters(
      (dict(subject='oracle'), "subject='oracle' is not one of .*teacher_forc"
       'ing.*student.*truth.*forgetful'),
      (dict(subject='student'), "stages, but 'tokenizer' is not trained"),
      (dict(subject='teacher'), "has no checkpoint of 'teacher' yet"),
      (dict(exports=('oscars',)), "exports: 'oscars' is not one of"),
  )
  def test_what_cannot_be_evaluated_is_told_before_anything_is_rendered(
      self, settings, message):
    self.assertNothingIsRendered()
    with self.assertRaisesRegex(UserError, message):
      evaluation.evaluate(config(**settings), self.workdir)

  @pytest.mark.slow
  def test_the_student_is_the_world_of_a_finished_run(self):
    files.save(tiny_trial.world(), self.workdir / 'world')
    with mock.patch.object(run, 'unfinished_stages', return_value=[]):
      summary = evaluation.evaluate(config(), self.workdir)
    self.assertEqual(summary['subject'], 'student')
    # Of random weights: it does something, and nobody knows what.
    self.assertBetween(summary['action_discrimination'], 0, 1)

  def test_a_world_of_other_frames_is_refused(self):
    files.save(tiny_trial.world(), self.workdir / 'world')
    other = config()
    other.data.height = 24
    self.assertNothingIsRendered()
    with (mock.patch.object(run, 'unfinished_stages', return_value=[]),
          self.assertRaisesRegex(UserError, 'config.data.height=24, but the')):
      evaluation.evaluate(other, self.workdir)

  def test_any_number_of_clips_is_played_in_batches_of_two_sizes(self):
    clips, sizes = tiny_trial.make().clips, []

    def play(batch):
      sizes.append(len(batch))
      return batch.future

    played = evaluation._in_batches(play)
    many = clips.take(np.arange(21) % len(clips))
    self.assertIsInstance(played(many), Played)
    np.testing.assert_array_equal(played(many).rgb, many.future)
    np.testing.assert_array_equal(played(clips.take([0, 1])).rgb,
                                  clips.future[:2])
    self.assertEqual(set(sizes), set(evaluation.BATCHES))


if __name__ == '__main__':
  absltest.main()

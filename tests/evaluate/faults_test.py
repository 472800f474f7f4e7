"""Known faults are caught by the metrics meant for them, and by no others.

Subjects are the true future with one fault each, and the real engine renders
them all. What a metric says of a fault is compared with what it says of the
truth.
"""

import dataclasses
import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.evaluate import packaged_weights
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate import suite
from worldsim_jax.evaluate.sections import motion

SECTIONS = ('fidelity', 'following', 'motion', 'drift', 'memory')

# Of each kind of figure, by how much it must move to count as caught, and how
# much at most where a fault does not matter. Between the two nothing is said.
CAUGHT = {
    'psnr_4': -50.0,
    'lpips_4': 0.05,
    'action_discrimination': -0.5,
    'turn_error_4': 5.0,  # degrees
    'camera_rpe_rotation': 3.0,
    'track_end_point_error': 1.0,  # pixels
    'drift_brightness': -0.1,  # log ratio
    'drift_detail': 0.3,
    'revisit_consistency_5s': -2.0,  # dB
    'revisit_correctness_5s': -50.0,
}
UNMOVED = {
    'action_discrimination': 0.2,
    'turn_error_4': 1.0,
    'camera_rpe_rotation': 0.5,
    'track_end_point_error': 0.25,
    'drift_brightness': 0.05,
    'drift_detail': 0.05,
}
MOTION = 'turn_error_4 camera_rpe_rotation track_end_point_error'
# What each fault is, and is not. Revisits are compared by PSNR: whatever
# changes pixels or paths changes that, so no fault leaves them alone. Clips end
# before `forgetful` forgets: only walks can say what it leaves alone.
FAULTS = {
    'shuffled': (f'psnr_4 lpips_4 {MOTION}', 'drift_brightness drift_detail'),
    'noise': (
        'psnr_4 lpips_4 drift_detail',
        f'action_discrimination {MOTION} drift_brightness',
    ),
    'wrong_actions': (
        f'psnr_4 lpips_4 action_discrimination {MOTION}',
        'drift_brightness drift_detail',
    ),
    'gain': ('drift_brightness', 'drift_detail'),
    # 30 % in the second that clips last, so that there is something to see.
    'strong_gain': (
        'psnr_4 drift_brightness', f'action_discrimination {MOTION}'),
    'forgetful': (
        'revisit_consistency_5s revisit_correctness_5s', 'drift_brightness'),
}
STRONG = .7  # of the brightness, after a second


@functools.cache
def trial_of(subject):
  """What is to be continued is the same for all, and rendered once."""
  trial = tiny_trial.make(
      subject.removeprefix('strong_'), num_clips=8, horizon=16, walks=4,
      walk_frames=320, sections=SECTIONS)
  if subject != 'truth':
    films = ('clips', 'other', 'walks')
    vars(trial).update({name: trial_of('truth').films(name) for name in films})
  return trial


@functools.cache
def figures_of(subject):
  """The figures by name; FVD, which looks are enough for, is left out."""
  trial = trial_of(subject)
  missing = dataclasses.replace(packaged_weights.I3D, package='not-installed')
  rate = STRONG if subject.startswith('strong_') else subjects.GAIN_PER_SECOND
  with (mock.patch.object(packaged_weights, 'I3D', missing),
        mock.patch.multiple(motion, MOST_CLIPS=6, AFTER=(1, 4)),
        mock.patch.object(subjects, 'GAIN_PER_SECOND', rate)):
    return suite.by_name(suite.measure(trial))


@pytest.mark.slow
class FaultsTest(parameterized.TestCase):

  @parameterized.parameters(*FAULTS)
  def test_a_fault_is_caught_by_what_is_meant_for_it(self, subject):
    caught, _ = FAULTS[subject]
    for name in caught.split():
      sign = 1 if CAUGHT[name] > 0 else -1
      self.assertGreater(
          sign * self.moved(subject, name), abs(CAUGHT[name]), name)

  @parameterized.parameters(*FAULTS)
  def test_a_fault_does_not_move_what_it_does_not_touch(self, subject):
    _, untouched = FAULTS[subject]
    for name in untouched.split():
      self.assertLess(abs(self.moved(subject, name)), UNMOVED[name], name)

  def test_every_metric_catches_some_fault_and_leaves_another_alone(self):
    caught = ' '.join(c for c, _ in FAULTS.values()).split()
    untouched = ' '.join(u for _, u in FAULTS.values()).split()
    self.assertCountEqual(set(caught), CAUGHT)
    self.assertCountEqual(set(untouched), UNMOVED)

  def test_the_truth_is_perfect_or_as_good_as_its_judge(self):
    found = figures_of('truth')
    for name, figure in found.items():
      if name.startswith(('copy_', 'warp_')) or figure.real is None:
        continue
      self.assertEqual(figure.value, figure.real, name)
    self.assertEqual(found['psnr_1'].value, 100)
    self.assertEqual(found['lpips_16'].value, 0)
    self.assertEqual(found['action_discrimination'].value, 1)
    self.assertEqual(found['revisit_correctness_5s'].value, 100)
    # How good the judges are that are not exact.
    self.assertLess(found['turn_error_4'].value, 0.5)
    self.assertLess(found['track_end_point_error'].value, 0.5)
    self.assertGreater(found['track_visibility_f1'].value, 0.85)
    self.assertGreater(found['revisit_consistency_5s'].value, 30)

  def moved(self, subject, name):
    return figures_of(subject)[name].value - figures_of('truth')[name].value


if __name__ == '__main__':
  absltest.main()

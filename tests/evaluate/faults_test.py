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
from worldsim_jax.evaluate import suite

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
    'drift_brightness': 0.1,  # log ratio, either way
    'drift_detail': 0.3,
    'revisit_correctness_5s': -50.0,
}
UNMOVED = {
    'psnr_4': 1.0,
    'lpips_4': 0.005,
    'action_discrimination': 0.2,
    'turn_error_4': 1.0,
    'camera_rpe_rotation': 0.5,
    'track_end_point_error': 0.25,
    'drift_brightness': 0.05,
    'drift_detail': 0.05,
    'revisit_correctness_5s': 1.0,
}
# What each fault is, and is not. A revisit's correctness is PSNR against the
# truth: whatever changes pixels changes it, as it changes psnr_4.
FAULTS = {
    'shuffled': (
        'psnr_4 lpips_4 turn_error_4 camera_rpe_rotation track_end_point_error',
        'drift_brightness drift_detail',
    ),
    'noise': (
        'psnr_4 lpips_4 drift_detail',
        'action_discrimination turn_error_4 camera_rpe_rotation '
        'track_end_point_error drift_brightness',
    ),
    'wrong_actions': (
        'psnr_4 lpips_4 action_discrimination turn_error_4 camera_rpe_rotation '
        'track_end_point_error',
        'drift_brightness drift_detail',
    ),
    'gain': (
        'drift_brightness',
        'lpips_4 action_discrimination turn_error_4 camera_rpe_rotation '
        'track_end_point_error drift_detail',
    ),
    'forgetful': (
        'revisit_correctness_5s',
        'psnr_4 lpips_4 action_discrimination turn_error_4 camera_rpe_rotation '
        'track_end_point_error drift_brightness',
    ),
}


@functools.cache
def figures_of(subject):
  """The figures by name; FVD, which looks are enough for, is left out."""
  trial = tiny_trial.make(
      subject, num_clips=8, horizon=16, walks=4, walk_frames=320,
      sections=SECTIONS)
  missing = dataclasses.replace(packaged_weights.I3D, package='not-installed')
  with mock.patch.object(packaged_weights, 'I3D', missing):
    return suite.by_name(suite.measure(trial))


@pytest.mark.slow
class FaultsTest(parameterized.TestCase):

  @parameterized.parameters(*FAULTS)
  def test_a_fault_is_caught_by_what_is_meant_for_it(self, subject):
    caught, _ = FAULTS[subject]
    for name in caught.split():
      moved = self.moved(subject, name)
      if name.startswith('drift'):  # A log ratio: either way.
        self.assertGreater(abs(moved), CAUGHT[name], name)
      else:
        self.assertGreater(
            moved * (1 if CAUGHT[name] > 0 else -1), abs(CAUGHT[name]), name)

  @parameterized.parameters(*FAULTS)
  def test_a_fault_does_not_move_what_it_does_not_touch(self, subject):
    _, untouched = FAULTS[subject]
    for name in untouched.split():
      self.assertLess(abs(self.moved(subject, name)), UNMOVED[name], name)

  def test_every_metric_catches_some_fault_and_leaves_another_alone(self):
    caught = ' '.join(c for c, _ in FAULTS.values()).split()
    untouched = ' '.join(u for _, u in FAULTS.values()).split()
    self.assertCountEqual(set(caught), CAUGHT)
    # Nothing but the truth itself leaves a revisit's PSNR alone.
    self.assertCountEqual(
        set(untouched) | {'revisit_correctness_5s'}, UNMOVED)

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

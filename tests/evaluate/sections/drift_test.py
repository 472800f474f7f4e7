"""Drift: known changes of looks have their numbers, and FVD its conditions."""

import dataclasses
import functools
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.evaluate import i3d
from worldsim_jax.evaluate import packaged_weights
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.sections import drift

NO_I3D = dataclasses.replace(packaged_weights.I3D, package='not-installed')


@functools.cache
def of(subject):
  with mock.patch.object(packaged_weights, 'I3D', NO_I3D):
    return drift.measure(tiny_trial.make(subject))


def figures(subject):
  return tiny_trial.figures_of(of(subject))


class DriftTest(absltest.TestCase):

  @pytest.mark.slow
  def test_the_truth_does_not_drift(self):
    for figure in of('truth').figures:
      self.assertEqual(figure.value, 0, figure.name)

  @pytest.mark.slow
  def test_a_gain_of_two_per_cent_a_second_is_its_slope(self):
    slope = figures('gain')['drift_brightness_slope'].value
    # Of whole grey levels, in a dark world, over 3.7 s.
    self.assertAlmostEqual(slope, np.log(.98), delta=.004)
    self.assertLess(abs(figures('gain')['drift_detail'].value), .05)

  def test_noise_is_detail(self):
    found = figures('noise')
    self.assertGreater(found['drift_detail'].value, .3)
    self.assertLess(abs(found['drift_brightness'].value), .02)

  def test_a_package_that_is_missing_is_named_and_the_rest_is_there(self):
    line = of('noise').not_measured
    self.assertStartsWith(line, 'FVD and KVD: ')
    self.assertIn('not-installed', line)
    self.assertNotIn('fvd_early', figures('noise'))
    self.assertIn('drift_contrast', figures('noise'))
    self.assertLen(of('noise').films, 1)

  def test_walks_that_are_too_short_for_windows_are_named(self):
    section = drift.measure(tiny_trial.make(walks=1, walk_frames=40))
    self.assertRegex(
        section.not_measured,
        'FVD and KVD: a walk of 40 frames .*config.evaluate.walk_frames')

  def test_too_few_walks_are_named(self):
    with mock.patch.object(i3d, 'logits', looks):
      section = drift.measure(tiny_trial.make(walks=1))
    self.assertRegex(
        section.not_measured, 'FVD and KVD: 1 real films are too few')
    self.assertNotIn('fvd_early', tiny_trial.figures_of(section))
    self.assertIn('drift_brightness', tiny_trial.figures_of(section))

  @pytest.mark.slow
  def test_the_truth_is_at_the_floor_and_a_change_of_looks_is_not(self):
    with mock.patch.object(i3d, 'logits', looks):
      true, noisy = (
          tiny_trial.figures_of(drift.measure(tiny_trial.make(name, walks=4)))
          for name in ('truth', 'noise'))
    for name in ('fvd_early', 'fvd_late', 'kvd_early', 'kvd_late'):
      self.assertEqual(true[name].value, true[name].real, name)
      self.assertGreater(noisy[name].value, 2 * abs(true[name].real), name)
      self.assertEqual(noisy[name].count, 4)

  @pytest.mark.slow
  def test_what_is_lost_late_is_told_late(self):
    def late(clips):
      film = clips.future.copy()
      half = film.shape[1] // 2
      film[:, half:] = film[:, half:] // 2 + 100
      return subjects.Played(film)

    with mock.patch.object(i3d, 'logits', looks):
      found, true = (
          tiny_trial.figures_of(drift.measure(tiny_trial.of(play, walks=4)))
          for play in (late, subjects.truth))
    for name in ('fvd', 'kvd'):
      early, later = found[f'{name}_early'], found[f'{name}_late']
      self.assertEqual(early.value, early.real)
      self.assertGreater(later.value, 2 * abs(later.real))
      # The floor is of true films, whatever the subject shows.
      self.assertEqual(later.real, true[f'{name}_late'].real)


def looks(films):
  """In place of I3D's logits: brightness, its deviation, and detail, [n, 3]."""
  grey = films.mean(-1) / 64
  detail = np.abs(np.diff(grey, axis=-1)).mean((1, 2, 3))
  return np.stack([grey.mean((1, 2, 3)), grey.std((1, 2, 3)), 9 * detail], 1)


if __name__ == '__main__':
  absltest.main()

"""Exact replay: whose frames are compared with which, and what is left out."""

import dataclasses
import functools
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.evaluate import image_metrics
from worldsim_jax.evaluate import packaged_weights
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.sections import fidelity


def measured(trial, missing=True):
  """The section; without LPIPS, which costs a compilation."""
  weights = packaged_weights.ALEXNET
  if missing:
    weights = dataclasses.replace(weights, package='not-installed')
  with mock.patch.object(packaged_weights, 'ALEXNET', weights):
    return fidelity.measure(trial)


@functools.cache
def of_noise():
  trial = tiny_trial.make('noise')
  return trial, measured(trial)


@pytest.mark.slow
class FidelityTest(absltest.TestCase):

  def test_a_frame_is_compared_with_the_true_one_of_its_time(self):
    trial, section = of_noise()
    found = tiny_trial.figures_of(section)
    film = trial.played('clips').rgb
    for horizon in (1, 4):
      psnr = image_metrics.psnr(film, trial.clips.future)[:, horizon - 1]
      self.assertAlmostEqual(found[f'psnr_{horizon}'].value, psnr.mean())
    copied = subjects.copy(trial.clips).rgb
    psnr = image_metrics.psnr(copied, trial.clips.future)[:, 3]
    self.assertAlmostEqual(found['copy_psnr_4'].value, psnr.mean())

  def test_longer_horizons_are_those_of_walks(self):
    trial, section = of_noise()
    found = tiny_trial.figures_of(section)
    self.assertEqual(found['psnr_4'].count, len(trial.clips))
    self.assertEqual(found['psnr_64'].count, len(trial.walks))
    film = trial.played('walks').rgb
    psnr = image_metrics.psnr(film, trial.walks.future)[:, 63]
    self.assertAlmostEqual(found['psnr_64'].value, psnr.mean())
    self.assertNotIn('psnr_256', found)

  def test_every_figure_has_its_interval_its_sample_and_its_ceiling(self):
    _, section = of_noise()
    for figure in section.figures:
      self.assertBetween(figure.value, figure.low, figure.high, figure.name)
      self.assertGreaterEqual(figure.count, figure.maps)
      self.assertGreaterEqual(figure.maps, 2)
      self.assertEqual(figure.real, 100 if 'psnr' in figure.name else 1)

  def test_a_true_depth_warp_beats_the_last_frame(self):
    found = tiny_trial.figures_of(of_noise()[1])
    self.assertGreater(
        found['warp_psnr_1'].value, found['copy_psnr_1'].value + 2)

  def test_what_is_not_there_is_noted_and_the_rest_is_measured(self):
    _, section = of_noise()
    line = section.not_measured
    self.assertIn('LPIPS: ', line)
    self.assertIn("pip install 'worldsim_jax[metrics]'", line)
    self.assertIn('the subject noise has no tokenizer', line)
    self.assertNotIn('lpips_1', tiny_trial.figures_of(section))

  def test_without_walks_there_are_the_clips(self):
    section = measured(tiny_trial.make('copy', walk_maps=('MAP77',)))
    self.assertIn("walks: there is no map 'MAP77'", section.not_measured)
    found = tiny_trial.figures_of(section)
    self.assertIn('psnr_4', found)
    self.assertNotIn('psnr_64', found)

  def test_without_clips_there_are_the_walks(self):
    section = measured(tiny_trial.make('copy', min_motion=200.))
    self.assertIn('config.evaluate.min_motion', section.not_measured)
    found = tiny_trial.figures_of(section)
    self.assertEqual(found['psnr_1'].count, 2)

  def test_equal_films_have_no_perceptual_distance(self):
    section = measured(tiny_trial.make(walks=1, walk_frames=16), missing=False)
    found = tiny_trial.figures_of(section)
    self.assertEqual(found['psnr_1'].value, 100)
    self.assertEqual(found['lpips_4'].value, 0)
    self.assertGreater(found['copy_lpips_4'].value, .01)
    self.assertIn('alexnet', ' '.join(section.notes).lower())

  def test_a_world_is_measured_with_the_ceiling_of_its_tokenizer(self):
    found = tiny_trial.figures_of(
        measured(tiny_trial.of_world(walk_maps=('MAP77',))))
    self.assertTrue(np.isfinite(found['vae_psnr_1'].value))
    self.assertNotEqual(found['vae_psnr_1'].value, found['psnr_1'].value)

  def test_a_tokenizer_that_loses_nothing_is_no_limit(self):
    trial = tiny_trial.of_world(walk_maps=('MAP77',))
    vars(trial)['subject'] = subjects.copy  # The world need not play.
    with mock.patch.object(
        fidelity.replay, 'reconstruct', lambda unused_world, films: films):
      found = tiny_trial.figures_of(measured(trial))
    self.assertEqual(found['vae_psnr_1'].value, 100)
    self.assertEqual(found['vae_psnr_4'].value, 100)


if __name__ == '__main__':
  absltest.main()

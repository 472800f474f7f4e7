"""The report: all that can be measured, and a line for what cannot."""

import dataclasses
import functools
import json
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import exports
from worldsim_jax.evaluate import packaged_weights
from worldsim_jax.evaluate import suite

FOLDER = tempfile.TemporaryDirectory()  # Goes with the process.
FAST = ('fidelity', 'following', 'drift', 'memory', 'shape', 'physics',
        'attributes', 'exposure', 'speed')


def without_packages(play):
  """Learned metrics are tested on their own."""
  missing = {name: dataclasses.replace(
      getattr(packaged_weights, name), package='not-installed')
             for name in ('I3D', 'ALEXNET')}
  with mock.patch.multiple(packaged_weights, **missing):
    return play()


def evaluated(subject, **settings):
  """The summary, and its folder."""
  folder = pathlib.Path(tempfile.mkdtemp(dir=FOLDER.name))
  trial = tiny_trial.make(subject, **settings)
  summary = without_packages(
      lambda: suite.evaluate(trial, folder, trial.config))
  return summary, folder


@functools.cache
def of_noise(seed=0):
  return evaluated('noise', sections=FAST, seed=seed)


class SuiteTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_what_cannot_be_measured_says_why_and_the_rest_is_there(self):
    summary, folder = of_noise()
    page = (folder / 'report.html').read_text()
    for name, why in (('shape', 'predicts pictures only'),
                      ('exposure', 'cannot be given a context'),
                      ('speed', 'does not stream')):
      self.assertIn(why, summary[f'{name}_not_measured'])
      self.assertTrue(why in page, why)  # Without printing the page.
    self.assertContainsSubset(
        {'psnr_1', 'action_discrimination', 'drift_detail', 'wall_accuracy'},
        summary)
    # Parts of sections, too.
    self.assertIn('LPIPS: ', summary['fidelity_not_measured'])
    self.assertNotIn('attributes_not_measured', summary)

  @pytest.mark.slow
  def test_an_error_of_ours_is_raised_when_the_rest_is_written(self):
    def broken(unused_trial):
      raise KeyError('oops')

    trial = tiny_trial.make('copy', sections=('speed', 'following'))
    with (mock.patch.dict(suite.SECTIONS, speed=broken),
          self.assertRaisesRegex(KeyError, 'oops')):
      suite.evaluate(trial, self.folder(), trial.config)
    summary = json.loads((self.written / 'summary.json').read_text())
    self.assertEqual(summary['speed_not_measured'], "failed: KeyError: 'oops'")
    self.assertEqual(summary['action_discrimination'], .5)

  def folder(self):
    self.written = pathlib.Path(self.create_tempdir().full_path)
    return self.written

  @pytest.mark.slow
  def test_every_number_has_its_interval_and_sample(self):
    summary, folder = of_noise()
    values = [name for name in summary if f'{name}_n' in summary]
    self.assertGreater(len(values), 30)
    for name in values:
      self.assertIn(f'{name}_low', summary)
      self.assertIn(f'{name}_high', summary)
    read = json.loads((folder / 'summary.json').read_text())
    self.assertEqual(set(read), set(summary))
    self.assertEqual(read['subject'], 'noise')

  @pytest.mark.slow
  def test_films_and_plots_are_in_the_report(self):
    _, folder = of_noise()
    films = sorted(path.name for path in (folder / 'films').iterdir())
    self.assertGreaterEqual(len(films), 3)
    page = (folder / 'report.html').read_text()
    self.assertEqual(page.count('<video'), len(films))
    self.assertGreaterEqual(page.count('<svg'), 4)

  @pytest.mark.slow
  def test_the_same_seed_gives_the_same_bytes_and_another_does_not(self):
    sections = ('fidelity', 'following', 'drift')
    read = lambda seed: (evaluated(
        'shuffled', sections=sections, seed=seed, walks=1, walk_frames=40)[1]
                         / 'summary.json').read_bytes()
    first = read(0)
    self.assertEqual(first, read(0))
    self.assertNotEqual(first, read(1))

  @pytest.mark.slow
  def test_a_map_that_is_not_there_is_named_and_the_clips_are_measured(self):
    summary, _ = evaluated(
        'copy', sections=('fidelity', 'drift', 'memory', 'following'),
        walk_maps=('MAP77',))
    for name in ('drift', 'memory'):
      self.assertIn("there is no map 'MAP77'", summary[f'{name}_not_measured'])
    self.assertIn('psnr_4', summary)
    self.assertIn('action_discrimination', summary)

  @parameterized.parameters(
      (dict(sections=('fidelity', 'beauty')), "sections: 'beauty' is not one "),
      (dict(exports=('vbench', 'oscars')), "exports: 'oscars' is not one of"),
      (dict(walk_policy='stroll'), "walk_policy='stroll' is not one of"),
      (dict(walks=0), 'walks=0 must be at least 1'),
      (dict(walk_frames=-1), 'walk_frames=-1 must be at least 1'),
      (dict(seed=-1), 'seed=-1 must be at least 0'),
  )
  def test_a_config_that_cannot_be_is_told(self, settings, message):
    with self.assertRaisesRegex(UserError, f'config.evaluate.{message}'):
      suite.check_config(tiny_trial.config(**settings).evaluate)


class ExportsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  @pytest.mark.slow
  def test_every_benchmark_gets_every_clip(self):
    trial = tiny_trial.make('truth')
    patterns = {'vbench': 'videos/*.mp4', 'worldmodelbench': 'videos/*.mp4',
                'worldscore': 'worldscore_output/*/*/*/*/*/videos/output.mp4'}
    for name, pattern in patterns.items():
      path = pathlib.Path(exports.write(trial, self.folder, name))
      self.assertLen(list(path.glob(pattern)), len(trial.clips), name)
    # Another time, of other clips: the earlier ones are gone.
    again = tiny_trial.make('truth', num_clips=3)
    path = pathlib.Path(exports.write(again, self.folder, 'vbench'))
    self.assertLen(list(path.glob('videos/*.mp4')), len(again.clips))

  def test_a_film_begins_with_the_last_given_frame_and_says_what_happens(self):
    trial = tiny_trial.make('truth')
    clips, last = trial.clips, trial.clips.given - 1
    for number, clip in enumerate(exports.of_trial(trial)):
      np.testing.assert_array_equal(clip.rgb, clips.rgb[number, last:])
      np.testing.assert_array_equal(
          clip.motions, clips.motions[number, last:])
      self.assertStartsWith(clip.instruction, 'The player ')
      for thing in clip.objects[:2]:
        self.assertIn(thing, clip.caption)

  def test_films_without_a_world_have_no_cameras(self):
    trial = tiny_trial.make('copy')
    vars(trial)['clips'] = dataclasses.replace(
        trial.clips, recipes=None, pose=None)
    exports.write(trial, self.folder, 'vbench')
    with self.assertRaisesRegex(UserError, 'config.data.records have none'):
      exports.write(trial, self.folder, 'worldscore')

  def test_what_cannot_be_written_is_in_the_report(self):
    trial = tiny_trial.make(
        'copy', sections=('shape',), exports=('worldscore', 'vbench'))
    vars(trial)['clips'] = dataclasses.replace(
        trial.clips, recipes=None, pose=None)
    summary = suite.evaluate(trial, self.folder, trial.config)
    self.assertIn('have none', summary['worldscore_not_written'])
    page = (self.folder / 'report.html').read_text()
    self.assertTrue('exports/vbench' in page)


if __name__ == '__main__':
  absltest.main()

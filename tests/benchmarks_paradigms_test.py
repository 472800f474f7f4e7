"""What the runs left becomes a table, a page and a plot.

That the runs themselves work is `benchmarks.run paradigms --quick`, minutes.
"""

import json
import pathlib

from absl.testing import absltest
import numpy as np
import pytest

import benchmarks
from benchmarks import hypotheses
from benchmarks import pages
from benchmarks import paradigms
from benchmarks import paradigms_page
from benchmarks import results
from configs import paradigms as paradigms_config
from worldsim_jax.errors import UserError

SEEDS, HORIZON = 2, 8
MAPS = np.repeat(['A', 'B', 'C'], 2)
STAGES = ['teacher', *paradigms_config.NUM_STEPS]


def leave_a_run(workdir: pathlib.Path, seed: int):
  """The scores and the seconds of a run that has ended."""
  dice = np.random.default_rng(seed)
  (workdir / 'paradigms').mkdir(parents=True)
  for index, name in enumerate((*paradigms.PLAYERS, paradigms.COPY)):
    shape = (len(MAPS), HORIZON)
    np.savez(workdir / 'paradigms' / f'{name}.npz', maps=MAPS,
             psnr=20 + index + dice.normal(size=shape),
             lpips=dice.uniform(0.1, 0.2, size=shape))
  (workdir / paradigms.SECONDS).write_text(json.dumps({
      stage: {'step': 1. + index, 'total': 100. + index}
      for index, stage in enumerate(STAGES)}))


class ParadigmsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    for seed in range(SEEDS):
      leave_a_run(self.workdir / f'seed-{seed}', seed)
    self.options = benchmarks.Options(
        paradigms_config.get_config('tiny'), SEEDS, workdir=str(self.workdir))

  def test_a_row_per_player_of_all_seeds(self):
    rows = {row['player']: row for row in paradigms.benchmark(self.options)}
    self.assertEqual(list(rows), [*paradigms.PLAYERS, 'copy'])
    for index, row in enumerate(rows.values()):
      self.assertAlmostEqual(row['psnr_beyond'], 20 + index, delta=0.7)
      self.assertLess(row['psnr_beyond_low'], row['psnr_beyond_high'])
      self.assertIn('lpips_drift', row)
    seconds = {name: 1 + index for index, name in enumerate(STAGES)}
    ratio = seconds['sf_sid'] / seconds['tf']
    self.assertAlmostEqual(rows['sf_sid']['step_ratio_to_tf'], ratio)
    self.assertEqual(
        rows['sf_sid']['training_seconds'], 99 + seconds['sf_sid'])
    self.assertNotIn('training_seconds', rows['copy'])

  def test_a_step_takes_a_quick_one_and_a_training_all_its_steps(self):
    lines = [{'stage': 'tf', 'step': step, 'time': 0., 'seconds_per_step': each}
             for step, each in enumerate((1., 4., 1.))]
    (self.workdir / 'metrics.jsonl').write_text(
        ''.join(f'{json.dumps(line)}\n' for line in lines))
    found = paradigms.training_seconds(self.options.config, self.workdir)
    self.assertEqual(found, {'tf': {'step': 1., 'total': 6 * 2.}})

  @pytest.mark.slow
  def test_a_run_that_fails_is_named(self):
    (self.workdir / 'seed-1' / paradigms.SECONDS).unlink()
    self.options.config.data.records = 'nowhere'
    with self.assertRaisesRegex(UserError, 'seed-1: .* failed'):
      paradigms.benchmark(self.options)

  def test_details_have_all_claims_and_curves(self):
    found = paradigms.details(self.options)
    self.assertLen(found['hypotheses'], len(hypotheses.CLAIMS) + 2)
    self.assertEqual((found['seeds'], found['maps'], found['clips']), (2, 3, 6))
    self.assertEqual(found['trained_frames'], 2)  # Clips of 4, 2 are given.
    self.assertLen(found['curves']['tf']['psnr']['mean'], HORIZON)

  def test_another_config_is_named(self):
    self.options.config.stages = ('tokenizer', 'teacher')
    with self.assertRaisesRegex(UserError, 'needs configs/paradigms.py'):
      paradigms.benchmark(self.options)

  def test_the_page_has_every_player_and_claim_and_the_plot_is_drawn(self):
    details = paradigms.details(self.options)
    result = json.loads(json.dumps({
        'rows': paradigms.benchmark(self.options),
        'environment': results.environment()} | details))
    page = pages.filled(paradigms_page.PAGE.read_text(), paradigms_page.SCRIPT,
                        paradigms_page.tables(result))
    for name in paradigms_page.NAMES.values():
      self.assertIn(f'| {name} |', page)
    for claim in hypotheses.CLAIMS:
      self.assertIn(f'| {claim.text} | `{claim.figure}` |', page)
    plot = self.workdir / 'plot.png'
    paradigms_page.plot(result, plot)
    self.assertEqual(plot.read_bytes()[1:4], b'PNG')
    self.assertEqual(
        set(paradigms_page.NAMES), {*paradigms.PLAYERS, paradigms.COPY})


if __name__ == '__main__':
  absltest.main()

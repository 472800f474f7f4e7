"""Self Forcing's step is compared with Teacher Forcing's, part by part."""

from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

import benchmarks
from benchmarks import forcing_step
from configs import quickstart

PLAIN = (str, int, float, bool)


def tiny_config():
  config = quickstart.get_config('smoke')
  config.model.update(dict(dim=16, ffn_dim=16, num_heads=1, num_layers=1))
  config.student.timesteps = (1000, 500)
  config.self_forcing.update(dict(batch_size=8, generator_every=4))
  return config


class ForcingStepTest(absltest.TestCase):

  def test_ratios_are_taken_turn_by_turn(self):
    seconds = {part: {'teacher_forced': np.array([1., 1.]),
                      'self_forcing': np.array([2., 4.]) + i}
               for i, part in enumerate(forcing_step.PARTS)}
    with mock.patch.multiple(
        forcing_step, measure=lambda *_: seconds,
        measure_steps=lambda *_: {'teacher_forced': np.array([1., 2.]),
                                  'self_forcing': np.array([3., 4.])}):
      rows = forcing_step.benchmark(benchmarks.Options(tiny_config()))
    self.assertEqual([row['part'] for row in rows],
                     [*forcing_step.PARTS, 'step'])
    self.assertEqual(rows[0]['ratio_to_teacher_forced_median'], 3)
    self.assertEqual(rows[-1]['teacher_forced_seconds_median'], 1.5)
    self.assertEqual(rows[-1]['ratio_to_teacher_forced_min'], 2)
    self.assertEqual(rows[-1]['ratio_to_teacher_forced_max'], 3)

  @pytest.mark.slow
  def test_every_part_of_a_step_is_timed(self):
    with mock.patch.object(forcing_step, 'CYCLES', 1):
      rows = forcing_step.benchmark(
          benchmarks.Options(tiny_config(), repeats=1))
    self.assertLen(rows, 4)
    for row in rows:
      self.assertEqual((row['frames'], row['chunk'], row['steps']), (4, 1, 2))
      self.assertGreater(row['ratio_to_teacher_forced_median'], 0)
      for name, value in row.items():
        self.assertIsInstance(value, PLAIN, name)


if __name__ == '__main__':
  absltest.main()

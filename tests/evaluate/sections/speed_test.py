"""Speed: of a real stream; how fast it is here is nobody's claim."""

from unittest import mock

from absl.testing import absltest
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate.sections import speed
from worldsim_jax.streaming.world import World


class SpeedTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_stream_is_timed_chunk_by_chunk(self):
    trial, world = tiny_trial.of_world(), tiny_trial.world()
    with (mock.patch.object(speed, 'CHUNKS', 5),
          mock.patch.object(
              World, 'step', autospec=True, side_effect=World.step) as step):
      section = speed.measure(trial)
    self.assertEqual(step.call_count, 2 + 1 + 5)  # Compiled, begun, timed.
    found = tiny_trial.figures_of(section)
    self.assertAlmostEqual(
        found['frames_per_second'].value,
        1e3 * world.frames_per_step / found['chunk_ms_median'].value, places=6)
    self.assertGreaterEqual(
        found['chunk_ms_p99'].value, found['chunk_ms_median'].value)
    cache = trial.world.stream().video.cache
    self.assertAlmostEqual(
        found['cache_mib'].value,
        (cache.k.nbytes + cache.v.nbytes + cache.position.nbytes
         + cache.length.nbytes) / 2**20)
    self.assertGreater(found['gflop_per_frame'].value, 0)

  def test_what_does_not_stream_has_no_speed(self):
    with self.assertRaisesRegex(UserError, 'truth does not stream'):
      speed.measure(tiny_trial.make())


if __name__ == '__main__':
  absltest.main()

"""What a stream makes of a true past, and what of it was seen when."""

import dataclasses
import functools

from absl.testing import absltest
import numpy as np
import pytest

from configs import stages
from tests.evaluate import tiny_trial
from tests.streaming import tiny_world
from worldsim_jax.evaluate import clips as clips_lib
from worldsim_jax.evaluate import told

GIVEN, HORIZON, TOP_K = 2, 6, 2


@functools.cache
def world(recalls: bool = False):
  """A window of one frame and a sink; or that, and what it recalls."""
  config = tiny_world.config(student=dict(window=1, sink=1))
  if recalls:
    config.student.recall = stages.recall(top_k=TOP_K, most=4, slots=12)
  return tiny_world.of_config(config)


def films(of: int = 2):
  dice = np.random.default_rng(0)
  size = of, GIVEN + HORIZON
  return clips_lib.Clips(
      rgb=dice.integers(0, 256, (*size, 24, 32, 3), dtype=np.uint8),
      actions=dice.normal(size=(*size, 3)).astype(np.float32) * 8,
      captions=('',) * of, maps=np.arange(of), given=GIVEN)


@pytest.mark.slow
class PredictTest(absltest.TestCase):

  def test_the_first_chunk_is_what_a_stream_makes(self):
    clips = films()
    streamed = world().continue_videos(
        clips.rgb[:, :GIVEN], clips.actions[:, :GIVEN + 1], seed=3)
    found = told.predict(world(), clips, seed=3).rgb
    self.assertEqual(found.shape, clips.future.shape)
    # Two programs: a value between two grey levels may fall to either.
    np.testing.assert_allclose(
        found[:, :1].astype(int), np.asarray(streamed), atol=1)

  def test_a_frame_is_predicted_from_true_ones_before_it(self):
    clips, at = films(), GIVEN + 2
    other = clips.rgb.copy()
    other[0, at] = 255 - other[0, at]
    found, changed = (
        told.predict(world(), c).rgb for c in (
            clips, dataclasses.replace(clips, rgb=other)))
    after = at + 1 - GIVEN
    np.testing.assert_array_equal(found[0, :after], changed[0, :after])
    np.testing.assert_array_equal(found[1], changed[1])
    self.assertGreater(np.mean(found[0, after] != changed[0, after]), 0.3)

  def test_it_tells_what_each_token_recalls(self):
    recalled = told.predict(world(recalls=True), films()).recalled
    self.assertEqual(recalled.shape, (2, HORIZON, 2, 2, TOP_K, 1, 12))
    for chunk in range(HORIZON):
      # Neither the sink nor the window, and each frame once.
      able = range(1, GIVEN + chunk - 1)
      found = np.sort(recalled[:, chunk], axis=3)
      self.assertContainsSubset(
          {told.NEVER, *able} if len(able) < TOP_K else {*able},
          set(found.ravel().tolist()))
      self.assertTrue(
          np.all((found[:, :, :, 0] < found[:, :, :, 1])
                 | (found[:, :, :, 0] == told.NEVER)))
    self.assertIsNone(told.predict(world(), films()).recalled)


class SeenTest(absltest.TestCase):

  def test_a_still_camera_sees_what_it_saw(self):
    clips = tiny_trial.make(num_clips=4, horizon=12).clips
    moved = np.abs(np.diff(clips.pose[:, :2], axis=1)).sum(axis=(1, 2))
    still = clips.take([moved.argmax()]).commanded(
        np.zeros((1, *clips.actions.shape[1:]), np.float32))
    geometry, frame = still.geometry(0), still.rgb.shape[1] - 1
    visible = told.visible_before(geometry, frame)
    self.assertLen(visible, frame)
    # It has come to rest but for a hundredth of a map unit.
    self.assertLess(np.mean(visible[-1] != geometry.exact[frame]), .02)
    self.assertLess(visible[0].mean(), visible[-1].mean() - .02)

  def test_pixels_were_seen_when_they_were_last_visible(self):
    visible = np.zeros((3, 1, 4), bool)
    visible[[0, 1, 2, 0], 0, [0, 1, 2, 2]] = True
    np.testing.assert_array_equal(
        told.last_seen(visible), [[3, 2, 1, told.NEVER]])
    np.testing.assert_array_equal(
        told.last_seen(visible[:0]), np.full((1, 4), told.NEVER))

  def test_a_token_is_its_own_pixels(self):
    visible = np.zeros((2, 4, 6), bool)
    visible[0, :2, 3:] = True  # The second token of the first row.
    visible[1, 2, :3] = True  # Half of the first of the second row.
    np.testing.assert_array_equal(
        told.shares(visible, (2, 2)), [[0, 1, 0, 0], [0, 0, .5, 0]])


class HitsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    # Of five frames the last two cannot be recalled; 0 and 1 show token 0, 1
    # and 4 token 1.
    self.shares = np.array([[1, 0], [.5, 1], [.4, 0], [0, 0], [1, 1]])
    self.able = np.arange(5) < 3

  def hits(self, *frames):
    recalled = np.broadcast_to(
        np.array(frames)[:, None], (1, 1, len(frames), 2))
    return told.hits(recalled, self.shares, self.able)

  def test_only_tokens_with_enough_to_recall_are_asked(self):
    found = self.hits(0, 1)
    self.assertEqual(found.tokens, 1)
    self.assertEqual(found.precision[0, 0], 1)
    self.assertIsNone(self.hits(0, 1, 2))

  def test_what_does_not_show_it_or_is_missing_is_a_miss(self):
    self.assertEqual(self.hits(1, 2).precision[0, 0], .5)
    self.assertEqual(self.hits(0, told.NEVER).precision[0, 0], .5)

  def test_chance_and_the_latest_are_told_beside_it(self):
    found = self.hits(0, 1)
    self.assertAlmostEqual(found.chance, 2 / 3)
    self.assertEqual(found.latest, .5)  # Frames 1 and 2.


if __name__ == '__main__':
  absltest.main()

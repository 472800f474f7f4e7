"""Camera metrics: by hand, invariances, corruptions, paths that stand still."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.evaluate import camera_metrics


def _walk(frames=40, seed=0):
  """A walk of a player: turns, height of the eye changes on stairs."""
  rng = np.random.default_rng(seed)
  yaw = np.cumsum(rng.normal(0, 8, frames))
  ahead = np.stack([np.cos(np.radians(yaw)), np.sin(np.radians(yaw))], -1)
  place = np.cumsum(12 * ahead, 0) + (800, -300)
  height = 41 + 8 * np.arange(frames) // 16
  return camera_lib.camera_to_world(
      np.concatenate([place, height[:, None], yaw[:, None]], -1)
  )


def _straight(frames=10, stride=5.0):
  pose = np.zeros((frames, 4))
  pose[:, 0] = stride * np.arange(frames)
  return camera_lib.camera_to_world(pose)


def _rotation(seed):
  q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
  q = q * np.sign(np.diag(r))
  return q * np.linalg.det(q)


def _moved(motions, scale, rotation, shift):
  """The same path in another world: left multiplied, places scaled."""
  out = motions.copy()
  out[:, :3, :3] = rotation @ motions[:, :3, :3]
  out[:, :3, 3] = scale * motions[:, :3, 3] @ rotation.T + shift
  return out


class CameraMetricsTest(parameterized.TestCase):

  @parameterized.parameters(*camera_metrics.ALIGNMENTS)
  def test_the_truth_is_perfect(self, alignment):
    scores = camera_metrics.camera_metrics(_walk(), _walk(), alignment)
    # Rounding of places of some hundred map units.
    self.assertLess(scores['ate'], 1e-9)
    self.assertLess(scores['rpe_translation'], 1e-9)
    self.assertLess(scores['rpe_rotation'], 1e-9)
    self.assertAlmostEqual(scores['scale'], 1)
    self.assertEqual(scores['degenerate'], '')

  def test_errors_do_not_change_under_a_similarity(self):
    truth, noisy = _walk(), _walk()
    noisy[:, :3, 3] += np.random.default_rng(1).normal(0, 3, (40, 3))
    noisy[:, :3, :3] = (
        noisy[:, :3, :3]
        @ camera_lib.camera_to_world(
            np.random.default_rng(2).normal(0, 1, (40, 4))
        )[:, :3, :3]
    )
    plain = camera_metrics.camera_metrics(noisy, truth)
    self.assertGreater(plain['ate'], 1)
    moved = _moved(noisy, 0.03, _rotation(3), (5.0, 6.0, -7.0))
    scores = camera_metrics.camera_metrics(moved, truth)
    for name in ('ate', 'rpe_translation', 'rpe_rotation'):
      self.assertAlmostEqual(scores[name], plain[name], places=8)
    self.assertAlmostEqual(scores['scale'], plain['scale'] / 0.03)

  def test_a_wrong_scale_is_seen_without_similarity_only(self):
    truth = _walk()
    half = _moved(truth, 0.5, np.eye(3), 0.0)
    self.assertLess(camera_metrics.camera_metrics(half, truth)['ate'], 1e-9)
    rigid = camera_metrics.camera_metrics(half, truth, 'se3')
    place = truth[:, :3, 3]
    spread = np.sqrt(np.mean(np.sum((place - place.mean(0)) ** 2, -1)))
    self.assertAlmostEqual(rigid['ate'], spread / 2)
    self.assertAlmostEqual(rigid['scale'], 1)

  def test_one_place_off_by_hand(self):
    truth = _straight(2, stride=10.0)
    wrong = _straight(2, stride=16.0)
    scores = camera_metrics.camera_metrics(wrong, truth, 'se3')
    # Both ends are 3 off when the middles agree; the step is 6 off.
    self.assertAlmostEqual(scores['ate'], 3)
    self.assertAlmostEqual(scores['rpe_translation'], 6)
    self.assertEqual(scores['degenerate'], 'the truth is a straight line')

  def test_turning_too_little_is_seen_in_degrees(self):
    pose = np.zeros((7, 4))
    pose[:, 0] = np.arange(7) ** 2
    pose[:, 3] = 10 * np.arange(7)
    slow = pose * (1, 1, 1, 0.7)
    truth, turned = map(camera_lib.camera_to_world, (pose, slow))
    scores = camera_metrics.camera_metrics(turned, truth)
    self.assertAlmostEqual(scores['rpe_rotation'], 3)
    self.assertLess(scores['ate'], 1e-9)
    scores = camera_metrics.camera_metrics(turned, truth, step=4)
    self.assertAlmostEqual(scores['rpe_rotation'], 12)

  def test_a_mirrored_path_is_an_error(self):
    truth = _walk()
    mirrored = truth.copy()
    mirrored[:, 1, 3] *= -1
    # Bent paths in space cannot be mirrored by turning.
    truth[:, 2, 3] += 0.05 * np.arange(40) ** 2
    mirrored[:, 2, 3] = truth[:, 2, 3]
    self.assertGreater(camera_metrics.camera_metrics(mirrored, truth)['ate'], 1)

  def test_time_reversed_is_seen(self):
    truth = _walk()
    scores = camera_metrics.camera_metrics(truth[::-1], truth)
    self.assertGreater(scores['ate'], 10)
    self.assertGreater(scores['rpe_rotation'], 5)


class StandingStillTest(parameterized.TestCase):

  def _still(self, frames=40):
    return np.tile(_walk()[:1], (frames, 1, 1))

  def test_a_prediction_of_a_still_truth_has_no_scale(self):
    scores = camera_metrics.camera_metrics(_walk(), self._still())
    self.assertEqual(scores['degenerate'], 'the truth stands still')
    self.assertTrue(np.isnan(scores['ate']))
    self.assertTrue(np.isnan(scores['rpe_translation']))
    self.assertGreater(scores['rpe_rotation'], 1)

  def test_with_metric_scale_its_movement_is_the_error(self):
    walk = _walk()
    scores = camera_metrics.camera_metrics(walk, self._still(), 'se3')
    place = walk[:, :3, 3]
    spread = np.sqrt(np.mean(np.sum((place - place.mean(0)) ** 2, -1)))
    self.assertAlmostEqual(scores['ate'], spread)

  def test_a_prediction_that_stands_still_misses_the_whole_path(self):
    walk = _walk()
    scores = camera_metrics.camera_metrics(self._still(), walk)
    self.assertEqual(scores['degenerate'], 'the prediction stands still')
    place = walk[:, :3, 3]
    spread = np.sqrt(np.mean(np.sum((place - place.mean(0)) ** 2, -1)))
    self.assertAlmostEqual(scores['ate'], spread)

  @parameterized.parameters(*camera_metrics.ALIGNMENTS)
  def test_standing_still_can_be_predicted(self, alignment):
    scores = camera_metrics.camera_metrics(
        self._still(), self._still(), alignment
    )
    self.assertEqual(scores['degenerate'], 'both stand still')
    self.assertLess(scores['ate'], 1e-9)
    self.assertLess(scores['rpe_translation'], 1e-9)

  def test_a_straight_walk_is_measured_and_named(self):
    scores = camera_metrics.camera_metrics(_straight(), _straight())
    self.assertEqual(scores['degenerate'], 'the truth is a straight line')
    self.assertLess(scores['ate'], 1e-9)
    bent = _straight()
    bent[5:, 1, 3] += 2
    self.assertGreater(
        camera_metrics.camera_metrics(bent, _straight())['ate'], 0.1
    )


class TrueWorldTest(absltest.TestCase):

  def test_only_an_aligned_path_may_go_another_way(self):
    ahead = np.tile(np.eye(4), (4, 1, 1))
    ahead[:, 2, 3] = 12 * np.arange(4)
    back = ahead.copy()
    back[:, 2, 3] *= -1
    of = lambda how: camera_metrics.camera_metrics(back, ahead, alignment=how)
    self.assertAlmostEqual(of('se3')['ate'], 0, places=9)
    # 24 times 0, 1, 2 and 3.
    self.assertAlmostEqual(of('none')['ate'], 24 * np.sqrt(14 / 4))
    self.assertAlmostEqual(of('none')['rpe_translation'], 24)

  def test_unknown_frames_and_their_steps_are_left_out(self):
    truth = np.tile(np.eye(4), (5, 1, 1))
    truth[:, 2, 3] = 10 * np.arange(5)
    lost = truth.copy()
    lost[2, 2, 3] = 1e6
    lost[4, 2, 3] += 3
    known = np.arange(5) != 2
    found = camera_metrics.camera_metrics(
        lost, truth, alignment='none', known=known)
    self.assertAlmostEqual(found['ate'], np.sqrt(9 / 4))
    # Steps 0-1 and 3-4; 1-2 and 2-3 are not known.
    self.assertAlmostEqual(found['rpe_translation'], np.sqrt(9 / 2))


class RefusalsTest(parameterized.TestCase):

  def test_tiny_and_large_angles_are_exact(self):
    for degrees in (1e-9, 1.0, 90.0, 179.999999):
      yaw = camera_lib.camera_to_world([(0, 0, 0, 0.0), (0, 0, 0, degrees)])
      relative = yaw[0, :3, :3].T @ yaw[1, :3, :3]
      angle = camera_metrics.rotation_angles(relative)
      # Near half a turn the sine is a difference of numbers near 1e-8.
      self.assertAlmostEqual(angle / degrees, 1, places=6)

  @parameterized.parameters(
      (np.zeros((3, 4)), _walk(3), {}, r'\(3, 4\)'),
      (_walk(3), _walk(4), {}, '3 motions for 4'),
      (2 * _walk(3), _walk(3), {}, 'no rotations'),
      (_walk(3) * [[1, 1, -1, 1]], _walk(3), {}, 'reflections'),
      (_walk(3), _walk(3), {'step': 3}, 'step=3'),
      (_walk(3), _walk(3), {'alignment': 'icp'}, "'icp'"),
      (_walk(3), _walk(3), {'known': [False] * 3}, 'no frame'),
  )
  def test_bad_input_is_refused(self, predicted, truth, options, message):
    with self.assertRaisesRegex(ValueError, message):
      camera_metrics.camera_metrics(predicted, truth, **options)


if __name__ == '__main__':
  absltest.main()

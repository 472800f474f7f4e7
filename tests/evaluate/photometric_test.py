"""Direct alignment on pictures whose colours are functions of position."""

from absl.testing import absltest
import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.evaluate import photometric

CAMERA = camera_lib.Camera(48, 64, 32.0, 32.0, 32.0, 24.0)


def colours(points):
  """Smooth paint in space, [..., 3] of points [..., 3]."""
  waves = np.array([[0.05, 0.03, 0.02], [-0.02, 0.06, 0.03], [0.04, -0.05, 0]])
  return 128 + 80 * np.sin(points @ waves.T)


def view(movement):
  """Frame and depth of a room of painted planes, seen after a movement.

  A back wall at 200, side walls at 90, floor and ceiling at 50 map units.
  """
  forward, strafe, turn, rise = movement
  angle = np.radians(turn)
  uv = CAMERA.pixels()
  x = (uv[..., 0] - CAMERA.cx) / CAMERA.fx
  y = (uv[..., 1] - CAMERA.cy) / CAMERA.fy
  ray = np.stack(
      [
          np.cos(angle) * x - np.sin(angle),
          y,
          np.sin(angle) * x + np.cos(angle),
      ],
      -1,
  )
  eye = np.array([-strafe, -1.2 * rise, forward])
  with np.errstate(divide='ignore'):
    far = np.where(ray > 0, (np.array([90, 50, 200]) - eye) / ray, np.inf)
    near = np.where(ray < 0, (np.array([-90, -50, -99]) - eye) / ray, np.inf)
  depth = np.minimum(far, near).min(-1)
  return colours(eye + ray * depth[..., None]), depth


class PhotometricTest(absltest.TestCase):

  def test_a_movement_is_found_from_a_guess_nearby(self):
    frame, depth = view((0, 0, 0, 0))
    true = np.array([9.0, -5.0, 4.0, 2.0])
    later, _ = view(true)
    pair = photometric.pair(CAMERA, frame, depth, later, block=1)
    guesses = true + [[6, -4, 2, -2], [-5, 4, -3, 0]]
    fit = photometric.refine(pair, guesses, steps=12)
    # Smooth paint; what is left is the blur, which both frames get before they
    # are compared though one of them is seen from elsewhere.
    np.testing.assert_allclose(fit.movements[:, :3], [true[:3]] * 2, atol=0.1)
    np.testing.assert_allclose(fit.movements[:, 3], true[3], atol=0.1)
    self.assertGreater(fit.similarity.min(), 0.99)

  def test_the_jacobian_is_the_derivative(self):
    rng = np.random.default_rng(0)
    frame, depth = view((0, 0, 0, 0))
    uv = CAMERA.pixels()
    ramp = np.repeat(uv @ np.array([[2.0], [3.0]]), 3, -1)  # linear colours
    pair = photometric.pair(CAMERA, frame, depth, ramp, block=1)
    movement = np.array([[3.0, -2.0, 2.0, 1.0]])
    slope = np.broadcast_to(
        np.float32([2, 2, 2, 3, 3, 3]), (1, len(pair.points), 6)
    )
    xyz = photometric.move(pair.points, movement)
    found = photometric._jacobian(pair, movement, xyz, slope)
    for k in range(4):
      step = np.eye(4)[k] * 0.5
      values = []
      for moved in (movement + step, movement - step):
        x, y, z = (
            v.astype(float) for v in photometric.move(pair.points, moved)
        )
        values.append(
            2 * (CAMERA.fx * x / z + CAMERA.cx)
            + 3 * (CAMERA.fy * y / z + CAMERA.cy)
        )
      expected = (values[0] - values[1])[0]
      some = rng.choice(len(expected), 200)
      # Central differences over one unit, at depths of 50 and more.
      np.testing.assert_allclose(
          found[0, some, 0, k], expected[some], rtol=2e-2, atol=2e-2
      )

  def test_a_guess_that_looks_away_scores_the_least(self):
    frame, depth = view((0, 0, 0, 0))
    pair = photometric.pair(CAMERA, frame, depth, frame, block=2)
    fit = photometric.refine(pair, [(0, 0, 0, 0), (0, 0, 120, 0)], steps=0)
    self.assertGreater(fit.similarity[0], 0.99)
    self.assertEqual(fit.similarity[1], -1)

  def test_what_has_little_structure_is_uncertain(self):
    frame, depth = view((0, 0, 0, 0))
    flat = 128 + (frame - 128) * 0.01
    noise = np.random.default_rng(0).normal(0, 3, frame.shape)
    deviations = []
    for picture in (frame, flat):
      pair = photometric.pair(CAMERA, picture, depth, picture + noise, 1)
      fit = photometric.refine(pair, np.zeros((1, 4)), steps=0)
      deviations.append(fit.deviation[0])
    self.assertGreater((deviations[1] / deviations[0]).min(), 3)

  def test_means_of_blocks_and_the_blur_keep_the_brightness(self):
    image = np.random.default_rng(0).uniform(0, 255, (8, 12, 3))
    for block in (2, 4):
      shrunk = photometric.shrink(image, block)
      self.assertEqual(shrunk.shape, (8 // block, 12 // block, 3))
      self.assertAlmostEqual(shrunk.mean(), image.mean(), places=3)
    self.assertEqual(photometric.shrink(image, 1).shape, image.shape)
    even = photometric.shrink(np.full((6, 6, 3), 7.0), 1)
    np.testing.assert_allclose(even, 7)


if __name__ == '__main__':
  absltest.main()

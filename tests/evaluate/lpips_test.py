"""LPIPS against the authors' own package, and what it cannot take."""

import pathlib
import unittest

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import lpips
from worldsim_jax.evaluate import packaged_weights

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'lpips.npz'


def is_installed() -> bool:
  try:
    return bool(packaged_weights.find(packaged_weights.ALEXNET))
  except UserError:
    return False


@unittest.skipUnless(is_installed(), packaged_weights.INSTALL)
class DistanceTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.golden = dict(np.load(GOLDEN))
    cls.x, cls.y = cls.golden['x'], cls.golden['y']

  def distance(self, x, y, network='alexnet'):
    return lpips.distance(x, y, network, batch_size=4)

  @parameterized.parameters('alexnet', 'vgg16')
  def test_distances_are_those_of_the_authors_code(self, network):
    # fp32 sums of up to 4608 products in another order, 13 times.
    np.testing.assert_allclose(
        self.distance(self.x, self.y, network), self.golden[network], rtol=1e-5
    )

  @parameterized.parameters('alexnet', 'vgg16')
  def test_equal_frames_are_exactly_at_zero(self, network):
    found = self.distance(self.y, self.y, network)
    np.testing.assert_array_equal(found, np.zeros(3, np.float32))

  @parameterized.parameters('alexnet', 'vgg16')
  def test_it_is_the_same_both_ways(self, network):
    np.testing.assert_array_equal(
        self.distance(self.x, self.y, network),
        self.distance(self.y, self.x, network),
    )

  def test_more_noise_is_further_away(self):
    noise = np.random.default_rng(0).normal(size=self.x[0].shape)
    noisy = np.stack(
        [np.clip(self.x[0] + s * noise, 0, 255) for s in (0, 10, 25, 60)]
    ).astype(np.uint8)
    found = self.distance(np.broadcast_to(self.x[0], noisy.shape), noisy)
    self.assertTrue((np.diff(found) > 0.02).all(), found)

  def test_a_frame_does_not_depend_on_the_others(self):
    x, y = np.concatenate([self.x, self.x]), np.concatenate([self.y, self.y])
    found = self.distance(x, y)  # Two batches, one filled up.
    for i in range(3):
      # A matrix product may be cut into blocks by its position: 1 ulp of 1.
      np.testing.assert_allclose(
          found[[i, i + 3]], self.distance(x[i], y[i]), atol=1.2e-7
      )

  def test_leading_axes_are_kept(self):
    x, y = [np.stack([a, a])[:, :1] for a in (self.x, self.y)]
    self.assertEqual(self.distance(x, y).shape, (2, 1))
    self.assertEqual(self.distance(x[0, 0], y[0, 0]).shape, ())
    self.assertEqual(self.distance(x[:0], y[:0]).shape, (0, 1))

  def test_bytes_and_floats_of_the_same_frames_are_the_same(self):
    found = self.distance(self.x / 255, (self.y / 255).astype(np.float32))
    # One rounding of a pixel.
    np.testing.assert_allclose(found, self.golden['alexnet'], rtol=1e-5)

  @parameterized.parameters(('alexnet', 31), ('vgg16', 16))
  def test_the_smallest_frames_work(self, network, size):
    self.assertEqual(lpips.MIN_SIZE[network], size)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (2, 1, size, size, 3), np.uint8)
    self.assertGreater(self.distance(x, y, network)[0], 0.01)


class ConvolutionTest(parameterized.TestCase):

  @parameterized.parameters((2, 3, 1), (1, 1, 1), (2, 4, 0), (2, 2, 2))
  def test_small_pictures_are_convolved_as_large_ones_are(
      self, height, width, padding
  ):
    size = 3 if padding else 2
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, 4)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 4, 5)).astype(np.float32)
    # The same picture with a margin of zeros, and the middle of what follows.
    margin = [(0, 0), (4, 4), (4, 4), (0, 0)]
    expected = lpips._convolution(np.pad(x, margin), kernel, 1, padding)
    found = lpips._convolution(x, kernel, 1, padding)
    expected = expected[:, 4 : 4 + found.shape[1], 4 : 4 + found.shape[2]]
    # 36 products of order 1 in another order.
    np.testing.assert_allclose(found, expected, atol=1e-5)


class InputTest(parameterized.TestCase):

  @parameterized.parameters(
      ((30, 64, 3), (30, 64, 3), 'alexnet', '30x64 are too small for alexnet'),
      ((15, 64, 3), (15, 64, 3), 'vgg16', 'vgg16, which needs 16 pixels'),
      ((64, 64, 3), (64, 65, 3), 'alexnet', r'\(64, 64, 3\) and \(64, 65, 3'),
      ((64, 64, 1), (64, 64, 1), 'alexnet', 'H, W, 3'),
      ((64, 64, 3), (64, 64, 3), 'squeeze', "'squeeze' is not one of"),
  )
  def test_impossible_frames_are_told(self, x, y, network, expected):
    with self.assertRaisesRegex(ValueError, expected):
      lpips.distance(np.zeros(x, np.uint8), np.zeros(y, np.uint8), network)

  @parameterized.parameters(
      (np.full((64, 64, 3), -0.5), r'span \[-0.5, -0.5\]'),
      (np.full((64, 64, 3), 255.0), r'need \[0, 1\]'),
      (np.zeros((64, 64, 3), int), 'frames are int64'),
  )
  def test_values_out_of_range_are_told(self, frame, expected):
    with self.assertRaisesRegex(ValueError, expected):
      lpips.distance(frame, frame)


if __name__ == '__main__':
  absltest.main()

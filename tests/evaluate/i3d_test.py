"""I3D against DeepMind's published module and against PyTorch.

DeepMind's own check, its film of a cricketer of 48 MB, cannot be had offline
and is not here. Tried once, 79 frames of the GIF of it, which has 256 colours,
gave "playing cricket" with probability 0.989 and logits of norm 83.24 (0.99999
and 87.11 of the film itself, as github.com/google-deepmind/kinetics-i3d has
them in out/imagenet_rgb.txt).
"""

import pathlib
import unittest

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_i3d
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import i3d
from worldsim_jax.evaluate import packaged_weights

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'i3d.npz'
# Of 15 black frames, the first and last three logits that TensorFlow printed of
# tfhub.dev/deepmind/i3d-kinetics-400/1, in github.com/zhanganny/cal_FVD,
# my_suc.py.
BLACK = [0.7422105, 2.829727, 0.39993525, -0.38092658, 0.65539014, -1.4021297]


def is_installed() -> bool:
  try:
    return bool(packaged_weights.find(packaged_weights.I3D))
  except UserError:
    return False


@pytest.mark.slow
@unittest.skipUnless(is_installed(), packaged_weights.INSTALL)
class LogitsTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.golden = dict(np.load(GOLDEN))

  def assertClose(self, actual, expected):
    """fp32 sums in another order, in 22 layers: 2e-5 of the largest logit."""
    np.testing.assert_allclose(
        actual, expected, atol=2e-5 * np.abs(expected).max(), rtol=0
    )

  def test_black_frames_have_the_logits_of_the_published_module(self):
    films = np.zeros((1, 15, 20, 20, 3), np.uint8)
    found = i3d.logits(films, batch_size=1)[0]
    self.assertClose(found[[0, 1, 2, -3, -2, -1]], np.array(BLACK))

  def test_a_film_has_the_logits_that_pytorch_finds(self):
    found = i3d.logits(self.golden['film'][None], batch_size=1)[0]
    self.assertClose(found, self.golden['logits'])

  def test_noise_has_the_logits_of_which_the_published_fvd_is(self):
    film = next(make_i3d.noise(make_i3d.SEEDS['real'], 1))
    found = jax.jit(i3d.forward)(i3d._params(), film[None])[0]
    self.assertClose(found, self.golden['noise/real'][0])

  def test_films_do_not_depend_on_each_other(self):
    films = np.random.default_rng(0).normal(size=(3, 9, 32, 32, 3))
    forward = jax.jit(i3d.forward)
    together = forward(i3d._params(), films.astype(np.float32))
    for film, expected in zip(films.astype(np.float32), together):
      self.assertClose(forward(i3d._params(), film[None])[0], expected)

  def test_a_batch_is_filled_up(self):
    films = np.stack([self.golden['film'][:9], self.golden['film'][-9:]])
    found = i3d.logits(films[[0, 1, 0]], batch_size=2)
    self.assertEqual(found.shape, (3, 400))
    np.testing.assert_array_equal(found[0], found[2])
    self.assertGreater(np.abs(found[1] - found[0]).max(), 0.1)
    self.assertEqual(i3d.logits(films[:0]).shape, (0, 400))


class PreprocessTest(parameterized.TestCase):

  @parameterized.parameters((48, 64, 50), (17, 30, 13), (224, 224, 224))
  def test_a_frame_becomes_what_the_rule_says_pixel_by_pixel(
      self, height, width, size
  ):
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    expected = make_i3d.resized(frame, size)
    # fp32 weights of values up to 255, which become [-1, 1].
    np.testing.assert_allclose(
        i3d.preprocess(frame, size), expected * 2 / 255 - 1, atol=1e-6
    )

  def test_larger_pictures_start_at_the_corner_and_repeat_the_end(self):
    # tf.compat.v1.image.resize_bilinear of [[1, 2], [3, 4]], as documented.
    frame = np.repeat([[[1.0], [2.0]], [[3.0], [4.0]]], 3, axis=-1)
    found = (i3d.preprocess(frame, size=4)[..., 0] + 1) * 255 / 2
    np.testing.assert_allclose(
        found,
        [[1, 1.5, 2, 2], [2, 2.5, 3, 3], [3, 3.5, 4, 4], [3, 3.5, 4, 4]],
        atol=1e-4,
    )

  def test_smaller_pictures_are_samples_and_not_averages(self):
    frame = np.arange(64.0).reshape(8, 8)[..., None] * np.ones(3)
    found = (i3d.preprocess(frame, size=4)[..., 1] + 1) * 255 / 2
    np.testing.assert_allclose(found, frame[::2, ::2, 0], atol=1e-4)

  def test_black_and_white_are_the_ends_of_the_range(self):
    frames = np.array([0, 255], np.uint8)[:, None, None, None]
    found = i3d.preprocess(np.broadcast_to(frames, (2, 5, 7, 3)))
    self.assertEqual(found.shape, (2, 224, 224, 3))
    np.testing.assert_allclose(found[0], -1, atol=0)
    np.testing.assert_allclose(found[1], 1, atol=3e-7)


class LayersTest(parameterized.TestCase):
  """What the weights' own layers rest on, without the weights."""

  @parameterized.parameters(
      ((7, 7, 7), (2, 2, 2), 15),
      ((3, 3, 3), (1, 1, 1), 5),
      ((1, 1, 1),) * 2 + (4,),
      ((7, 7, 7), (2, 2, 2), 16),
  )
  def test_times_as_channels_are_a_convolution_over_time(
      self, size, strides, num_frames
  ):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, num_frames, 9, 8, 3)).astype(np.float32)
    kernel = rng.normal(size=(*size, 3, 5)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        'SAME',
        dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    )
    # Up to 1029 products of order 1 in another order.
    np.testing.assert_allclose(
        i3d._unit((kernel, bias), x, strides),
        jnp.maximum(expected + bias, 0),
        atol=1e-4,
    )

  def test_norms_are_folded_into_kernels(self):
    unit = {
        'Conv_0': {'kernel': np.full((1, 1, 1, 2, 1), 3, np.float32)},
        'BatchNorm_0': {'bias': np.full((1, 1, 1, 1, 1), 0.5, np.float32)},
    }
    statistics = {
        'BatchNorm_0': {
            'mean': np.full((1, 1, 1, 1, 1), 4, np.float32),
            'var': np.full((1, 1, 1, 1, 1), 0.249, np.float32),
        }
    }
    x = np.ones((1, 1, 1, 1, 2), np.float32)
    found = i3d._unit(i3d._folded_unit(unit, statistics), x)
    self.assertAlmostEqual(float(found.item()), (6 - 4) / 0.5 + 0.5, places=5)


class InputTest(parameterized.TestCase):

  @parameterized.parameters(
      (np.zeros((1, 16, 8, 8, 3)), 'films are float64'),
      (np.zeros((16, 8, 8, 3), np.uint8), r'need uint8 \[N, T, H, W, 3\]'),
      (np.zeros((1, 16, 8, 8, 1), np.uint8), r'\(1, 16, 8, 8, 1\)'),
  )
  def test_wrong_arrays_are_told(self, films, expected):
    with self.assertRaisesRegex(ValueError, expected):
      i3d.logits(films)

  def test_films_that_are_too_short_are_named(self):
    with self.assertRaisesRegex(UserError, '8 frames are too short.*needs 9'):
      i3d.logits(np.zeros((1, 8, 8, 8, 3), np.uint8))


if __name__ == '__main__':
  absltest.main()

"""Bytes and floats of the same pixels."""

from absl.testing import absltest
import jax.numpy as jnp
import numpy as np

from worldsim_jax.models import pixels


class PixelsTest(absltest.TestCase):

  def test_bytes_are_rounded_to_nearest_and_saturate(self):
    np.testing.assert_array_equal(
        pixels.to_uint8(jnp.array([-1., 0.49 / 255, 0.51 / 255, 1., 2.])),
        np.array([0, 0, 1, 255, 255], np.uint8))

  def test_every_byte_survives_the_round_trip(self):
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(
        pixels.to_uint8(pixels.to_float(every)), every)


if __name__ == '__main__':
  absltest.main()

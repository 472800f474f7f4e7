"""Flat random arrays are the same random arrays."""

from absl.testing import absltest
import jax
import numpy as np

from worldsim_jax.diffusion import noise


class NoiseTest(absltest.TestCase):

  def test_numbers_do_not_depend_on_how_they_are_drawn(self):
    key, shape = jax.random.key(0), (3, 5)
    for found, expected in (
        (noise.normal(key, shape), jax.random.normal(key, shape)),
        (
            noise.draw(jax.random.uniform, key, shape, minval=2, maxval=3),
            jax.random.uniform(key, shape, minval=2, maxval=3),
        ),
    ):
      np.testing.assert_array_equal(found, expected)


if __name__ == '__main__':
  absltest.main()

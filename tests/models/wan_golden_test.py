"""Every stream of Wan's models, against what was recorded from diffusers.

A first-and-last-frame model: concatenated channels, tokens of two pictures with
learned positions, text, and a timestep for each token.
"""

import pathlib

from absl.testing import absltest
import jax
import numpy as np
import pytest

from worldsim_jax.convert import mapping
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.models.conditioning import Conditioning

# Written by tests/golden/make_wan_dit.py.
GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'wan_dit.npz'
HEADS = 2


class WanGoldenTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.golden = {name: np.float32(x) for name, x in np.load(GOLDEN).items()}
    part = lambda front: {
        name.removeprefix(front): x for name, x in cls.golden.items()
        if name.startswith(front)}
    weights, given = part('weights/'), part('inputs/')
    model = wan_dit_keys.module(weights).clone(num_heads=HEADS)
    told = Conditioning(text=given['text'], clip=given['clip'],
                        concatenated=given['concatenated'])

    @jax.jit
    def run(params, x):
      v, pull = jax.vjp(lambda params, x: model.apply(
          {'params': params}, x, given['t'], told), params, x)
      return v, *pull(given['cotangent'])

    _, params = mapping.read_arrays(wan_dit_keys, weights)
    cls.v, of_params, cls.of_x = run(params, given['x'])
    cls.of_params = mapping.write_arrays(wan_dit_keys, of_params, 'diffusers')

  def assertParity(self, found, name):
    expected = self.golden[name]
    # Two layers in float32, and the time embedding's frequencies, which
    # diffusers has in float32, times up to 1000.
    np.testing.assert_allclose(
        found, expected, atol=1e-4 * abs(expected).max())

  def test_the_velocity_is_that_of_diffusers(self):
    self.assertParity(self.v, 'v')

  @pytest.mark.slow
  def test_gradients_are_those_of_diffusers(self):
    self.assertParity(self.of_x, 'of_x')
    names = [name for name in self.golden if name.startswith('of/')]
    self.assertLen(names, 4)
    for name in names:
      self.assertParity(self.of_params[name.removeprefix('of/')], name)


if __name__ == '__main__':
  absltest.main()

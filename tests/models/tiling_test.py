"""Chunks are exact; tiles are, where they do not see their edges."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.models import tiling
from worldsim_jax.models import wan_vae

VAE = wan_vae.WanVAE(
    base=4, multipliers=(1, 1), num_res_blocks=0, temporal_downsample=(True,),
    latent_channels=2, latent_mean=(0., 1.), latent_std=(1., 2.))
# Latents on either side that a pixel depends on: seven 3x3 convolutions before
# the doubling, four of half a latent after it.
REACH = 9


class Pixelwise(nn.Module):
  """A codec without neighbours: latents are the means of 2x2 pixels."""
  space_stride = 2
  time_stride = 1

  def encode(self, x, carry=None):
    b, f, h, w, c = x.shape
    return x.reshape(b, f, h // 2, 2, w // 2, 2, c).mean((3, 5)), ()

  def decode(self, z, carry=None, clip=True):
    x = z.repeat(2, axis=2).repeat(2, axis=3)
    return (jnp.clip(x, 0, 1) if clip else x), ()


class TilingTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    keys = jax.random.split(jax.random.key(0), 2)
    cls.latents = jax.random.normal(keys[0], (1, 5, 28, 3, 2))
    cls.video = jax.random.uniform(keys[1], (1, 9, 56, 6, 3))
    # Attention starts as the identity, so nothing reads a whole frame.
    cls.variables = jax.jit(VAE.init)(keys[0], cls.video[:, :1])
    cls.decoded, cls.encoded = jax.jit(lambda z, x: (
        VAE.apply(cls.variables, z, method='decode')[0],
        VAE.apply(cls.variables, x, method='encode')[0]))(
            cls.latents, cls.video)

  @parameterized.parameters(1, 3)
  def test_chunks_of_any_length_give_the_whole_video(self, chunk):
    decoded, encoded = jax.jit(lambda z, x: (
        tiling.decode(VAE, self.variables, z, chunk=chunk),
        tiling.encode(VAE, self.variables, x, chunk=chunk)))(
            self.latents, self.video)
    # Roundings of a few layers.
    chex.assert_trees_all_close(decoded, self.decoded, atol=1e-5)
    chex.assert_trees_all_close(encoded, self.encoded, atol=1e-5)

  def test_tiles_equal_the_whole_where_they_do_not_see_their_edges(self):
    tiled = dict(chunk=None, tile=(20, 20), overlap=12)
    decoded, encoded = jax.jit(lambda z, x: (
        tiling.decode(VAE, self.variables, z, **tiled),
        tiling.encode(VAE, self.variables, x, **tiled)))(
            self.latents, self.video)
    # Tiles are rows 0 to 20 and 8 to 28, and blend from 8 to 20. The rest of
    # either is farther from its edge than anything is seen.
    self.assertLess(REACH, 20 - 8)
    for tiles, whole, scale in (
        (decoded, self.decoded, 2), (encoded, self.encoded, 1)):
      self.assertEqual(tiles.shape, whole.shape)
      error = jnp.abs(tiles - whole).max((0, 1, 3, 4))
      self.assertLess(float(error[:8 * scale].max()), 1e-5)
      self.assertLess(float(error[20 * scale:].max()), 1e-5)
      self.assertGreater(float(error[8 * scale:20 * scale].max()), 1e-4)

  @parameterized.parameters(
      ((4, 4), 1), ((4, 6), 2), ((3, 5), 0), ((7, 3), 2), ((100, 5), 4))
  @pytest.mark.slow
  def test_blending_keeps_what_tiles_agree_on(self, tile, overlap):
    """Also where the last tiles are moved inwards and three overlap."""
    rng = np.random.default_rng(0)
    latents = rng.uniform(-1, 2, (2, 3, 9, 11, 1)).astype(np.float32)
    codec = Pixelwise()
    arguments = dict(tile=tile, overlap=overlap)
    decoded = tiling.decode(codec, {}, latents, clip=False, **arguments)
    # Weights that sum to one up to their rounding.
    chex.assert_trees_all_close(
        decoded, codec.apply({}, latents, clip=False, method='decode')[0],
        atol=1e-6)
    chex.assert_trees_all_close(
        tiling.encode(codec, {}, decoded, **arguments), latents, atol=1e-6)
    clipped = tiling.decode(codec, {}, latents, **arguments)
    chex.assert_trees_all_close(clipped, jnp.clip(decoded, 0, 1))

  def test_weights_rise_linearly_over_the_overlap(self):
    weights = tiling._weights(np.array([0, 3]), 5, 2)
    # Pixels 6 to 10 of 16 are shared.
    np.testing.assert_allclose(
        weights, [6 * [1] + [.875, .625, .375, .125],
                  [.125, .375, .625, .875] + 6 * [1]], atol=1e-6)

  @parameterized.parameters((4, 4), (4, -1))
  def test_impossible_overlaps_are_refused(self, tile, overlap):
    with self.assertRaisesRegex(ValueError, f'cannot overlap by {overlap}'):
      tiling.decode(Pixelwise(), {}, jnp.zeros((1, 1, 9, 9, 1)),
                    tile=(tile, tile), overlap=overlap)

  @parameterized.parameters(
      (jnp.float32, 90, 160, 3), (jnp.float32, 60, 104, 3),
      (jnp.bfloat16, 90, 160, 21))
  @pytest.mark.slow
  def test_of_any_size_and_length_the_published_model_needs_as_much(
      self, dtype, height, width, frames):
    vae = wan_vae.WanVAE(dtype=dtype)
    shapes = jax.eval_shape(
        vae.init, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))
    latents = jax.ShapeDtypeStruct((1, frames, height, width, 16), jnp.float32)
    memory = jax.jit(lambda variables, z: tiling.decode(
        vae, variables, z, chunk=1, tile=(32, 32))).lower(
            shapes, latents).compile().memory_analysis()
    # 1.3 GiB and without tiles 16.8 for 720p in float32; with the flags of
    # tests, which compile faster, 1.9 and 25.5.
    self.assertLess(memory.temp_size_in_bytes, 2 * 2**30)

  def test_one_tile_is_the_whole_frame(self):
    latents = jnp.ones((1, 1, 3, 3, 1))
    chex.assert_trees_all_equal(
        tiling.decode(Pixelwise(), {}, latents, tile=(3, 9)),
        Pixelwise().apply({}, latents, method='decode')[0])


if __name__ == '__main__':
  absltest.main()

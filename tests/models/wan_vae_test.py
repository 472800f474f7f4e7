"""What the Wan VAE must keep at any width, and what PyTorch makes of it."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_wan_vae
from worldsim_jax.convert import mapping
from worldsim_jax.convert import wan_vae_keys
from worldsim_jax.models import wan_vae
from worldsim_jax.models import wan_vae_blocks

# Roundings of some ten layers, whose sums are of another order in chunks.
ATOL = 1e-5


def make(dtype=jnp.float32):
  """(vae, variables, video in [0, 1], latents) of the golden file."""
  golden = np.load(make_wan_vae.GOLDEN)
  c = make_wan_vae.FIELDS['latent_channels']
  weights = {name.removeprefix('weights/'): np.float32(x)
             for name, x in golden.items() if name.startswith('weights/')}
  vae, params = mapping.read_arrays(
      wan_vae_keys, weights, latent_mean=wan_vae.LATENT_MEAN[:c],
      latent_std=wan_vae.LATENT_STD[:c], dtype=dtype)
  variables = {'params': params}
  latents = (golden['z'] - np.float32(vae.latent_mean)) / vae.latent_std
  return vae, variables, np.float32(golden['video']), np.float32(latents)


class WanVAETest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    vae, cls.variables, cls.video, cls.latents = make()
    cls.vae = vae
    cls.golden = dict(np.load(make_wan_vae.GOLDEN))
    apply = lambda method: jax.jit(
        lambda v, x, carry=None: vae.apply(v, x, carry, method=method))
    cls.encode, cls.decode = map(staticmethod, map(apply, ('encode', 'decode')))

  def test_moments_and_pixels_are_those_of_pytorch(self):
    vae, golden = self.vae, self.golden
    (mean, log_variance), _ = jax.jit(lambda v, x: vae.apply(
        v, x, method='posterior'))(self.variables, self.video)
    std = np.float32(vae.latent_std)
    decoded, _ = self.decode(self.variables, self.latents)
    for found, expected in (
        (mean * std + np.float32(vae.latent_mean), golden['mean']),
        (log_variance + 2 * np.log(std), golden['log_variance']),
        (decoded, golden['decoded'])):
      np.testing.assert_allclose(
          found, expected, atol=ATOL * abs(expected).max())
    chex.assert_trees_all_close(
        self.encode(self.variables, self.video)[0], mean, atol=1e-6)

  @parameterized.parameters([(1, 1, 1)], [(2, 1)], [(1, 2)])
  @pytest.mark.slow
  def test_chunks_give_the_same_numbers_as_the_whole_video(self, lengths):
    s = self.vae.time_stride
    ends = np.cumsum(lengths)[:-1]
    for run, whole, cuts in (
        (self.encode, self.video, 1 + s * (ends - 1)),
        (self.decode, self.latents, ends)):
      chunks, carry = [], None
      for part in np.split(whole, cuts, axis=1):
        chunk, carry = run(self.variables, part, carry)
        chunks.append(chunk)
      chex.assert_trees_all_close(
          jnp.concatenate(chunks, axis=1), run(self.variables, whole)[0],
          atol=ATOL)

  def test_a_stream_compiles_twice(self):
    decode = jax.jit(lambda x, carry: self.vae.apply(
        self.variables, x, carry, method='decode'))
    carry = None
    for _ in range(4):
      _, carry = decode(self.latents[:, :1], carry)
    self.assertEqual(decode._cache_size(), 2)

  @pytest.mark.slow
  def test_the_carry_s_shapes_do_not_depend_on_the_chunk(self):
    def shapes(method, x, carry=None):
      return jax.tree.map(lambda y: y.shape, jax.eval_shape(
          lambda x, carry: self.vae.apply(
              self.variables, x, carry, method=method)[1], x, carry))

    s = self.vae.time_stride
    for method, x, step in (
        ('encode', self.video, s), ('decode', self.latents, 1)):
      carry = jax.eval_shape(lambda x, method=method: self.vae.apply(
          self.variables, x, method=method)[1], x)
      expected = shapes(method, x)
      self.assertEqual(shapes(method, x[:, :1]), expected)
      self.assertEqual(shapes(method, x[:, :step], carry), expected)
      self.assertEqual(shapes(method, x[:, :2 * step], carry), expected)

  @pytest.mark.slow
  def test_latents_never_see_a_later_frame_than_they_decode_to(self):
    s = self.vae.time_stride
    jacobian = jax.jit(jax.jacrev(lambda x: jnp.square(self.vae.apply(
        self.variables, x, method='encode')[0]).sum((0, 2, 3, 4))))(self.video)
    seen = jnp.abs(jacobian).max((1, 3, 4, 5)) > 0  # [F, P]
    # Each latent sees all frames up to its own.
    np.testing.assert_array_equal(seen, [
        [p <= s * f for p in range(1 + 2 * s)] for f in range(3)])

  @pytest.mark.slow
  def test_frames_never_see_a_later_latent_than_their_own(self):
    s = self.vae.time_stride
    jacobian = jax.jit(jax.jacrev(lambda z: jnp.square(self.vae.apply(
        self.variables, z, clip=False, method='decode')[0]).sum(
            (0, 2, 3, 4))))(self.latents)
    seen = jnp.abs(jacobian).max((1, 3, 4, 5)) > 0  # [P, F]
    np.testing.assert_array_equal(seen, [
        [f <= -(-p // s) for f in range(3)] for p in range(1 + 2 * s)])

  def test_the_first_latent_never_enters_the_convolutions_over_time(self):
    up = wan_vae_blocks.Upsample(in_time=True, dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 2, 4))
    run = jax.jit(lambda v, x: up.apply(v, x, wan_vae_blocks.Past(None)))
    variables = jax.jit(lambda x: up.init(
        jax.random.key(1), x, wan_vae_blocks.Past(None)))(x)
    y, other = run(variables, x), run(variables, x.at[:, 0].add(1))
    self.assertEqual(y.shape, (1, 5, 4, 4, 2))
    self.assertGreater(float(jnp.abs(other - y)[:, 0].max()), .1)
    chex.assert_trees_all_equal(other[:, 1:], y[:, 1:])

  def test_the_first_frame_is_coded_as_an_image(self):
    latent, _ = self.encode(self.variables, self.video[:, :1])
    chex.assert_trees_all_close(
        latent, self.encode(self.variables, self.video)[0][:, :1], atol=ATOL)
    frame, _ = self.decode(self.variables, self.latents[:, :1])
    self.assertEqual(frame.shape, self.video[:, :1].shape)

  @pytest.mark.slow
  def test_bf16_rounds_and_leaves_parameters_and_results_in_float32(self):
    vae = self.vae.copy(dtype=jnp.bfloat16)
    exact, _ = self.decode(self.variables, self.latents)
    rounded, carry = jax.jit(lambda z: vae.apply(
        self.variables, z, method='decode'))(self.latents)
    self.assertEqual(rounded.dtype, jnp.float32)
    chex.assert_type(list(carry), jnp.bfloat16)
    # 8 bits of mantissa through some ten layers, pixels of deviation 0.2.
    self.assertLess(float(jnp.square(rounded - exact).mean()), .02**2)
    self.assertFalse(np.array_equal(rounded, exact))
    params = jax.eval_shape(vae.init, jax.random.key(0), self.video)['params']
    chex.assert_type(jax.tree.leaves(params), jnp.float32)

  def test_frames_that_attend_one_by_one_give_the_same(self):
    limit = wan_vae_blocks._MAX_LOGITS
    wan_vae_blocks._MAX_LOGITS = 1
    try:
      one_by_one, _ = jax.jit(lambda z: self.vae.apply(
          self.variables, z, method='decode'))(self.latents)
    finally:
      wan_vae_blocks._MAX_LOGITS = limit
    chex.assert_trees_all_close(
        one_by_one, self.decode(self.variables, self.latents)[0], atol=ATOL)

  @pytest.mark.slow
  def test_decoding_clips_unless_told_otherwise(self):
    far = 10 * self.latents[:, :1]
    inside, _ = self.decode(self.variables, far)
    outside, _ = jax.jit(lambda z: self.vae.apply(
        self.variables, z, clip=False, method='decode'))(far)
    self.assertGreater(float(outside.max()), 1)
    chex.assert_trees_all_close(inside, jnp.clip(outside, 0, 1), atol=ATOL)

  @parameterized.parameters(
      (dict(temporal_downsample=(True,)), (1, 8, 8), '4 multipliers'),
      (dict(latent_channels=4), (1, 8, 8), 'latent_mean'),
      (dict(), (8, 8, 8), r'8 frames.*1 \+ 4 n'),
      (dict(), (1, 8, 12), '8x12.*multiples of 8'),
  )
  def test_impossible_shapes_name_the_config_key(
      self, overrides, shape, message):
    vae = wan_vae.WanVAE(**(dict(base=4) | overrides))
    with self.assertRaisesRegex(ValueError, f'(?s){message}'):
      jax.eval_shape(vae.init, jax.random.key(0), jnp.zeros((1, *shape, 3)))

  def test_latents_of_another_width_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'Latents have 1 channels'):
      self.vae.apply(self.variables, self.latents[..., :1], method='decode')


class WanSizesTest(absltest.TestCase):
  """The published model, by shapes alone."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.vae = wan_vae.WanVAE()
    cls.variables = jax.eval_shape(
        cls.vae.init, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))

  def test_parameters_are_those_of_the_published_weights(self):
    params = self.variables['params']
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    self.assertEqual(count(params), 126_892_531)
    self.assertEqual(count(params['encoder']), 53_595_872)
    self.assertEqual(count(params['decoder']), 73_295_331)
    self.assertLen(jax.tree.leaves(params), 194)

  def test_eighty_one_frames_are_twenty_one_latents_and_come_back(self):
    video = jax.ShapeDtypeStruct((1, 81, 480, 832, 3), jnp.float32)
    latents, carry = jax.eval_shape(lambda v, x: self.vae.apply(
        v, x, method='encode'), self.variables, video)
    self.assertEqual(latents.shape, (1, 21, 60, 104, 16))
    self.assertLen(carry, 24)
    decoded, carry = jax.eval_shape(lambda v, z: self.vae.apply(
        v, z, method='decode'), self.variables, latents)
    self.assertEqual(decoded.shape, video.shape)
    # The caches that Self Forcing's demo hands around, by channels and height.
    expected = ([(16, 60)] + 11 * [(384, 60)] + [(192, 120)] + 6 * [(384, 120)]
                + 6 * [(192, 240)] + 7 * [(96, 480)])
    self.assertEqual([(c.shape[-1], c.shape[2]) for c in carry], expected)


class ConvInTimeTest(parameterized.TestCase):

  @parameterized.parameters((3, 1, 5, 2), (3, 1, 1, 2), (3, 2, 7, 0),
                            (2, 1, 4, 1), (1, 1, 3, 0))
  def test_it_is_a_3d_convolution_after_zeros(
      self, taps, stride, frames, zeros):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, frames, 5, 4, 3)).astype(np.float32)
    kernel = rng.normal(size=(taps, 3, 3, 3, 2)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, 1, 1), ((zeros, 0), (1, 1), (1, 1)),
        dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'))
    found = wan_vae_blocks.conv_in_time(
        x, kernel, expected.shape[1], stride)
    # Sums of 81 products of deviation 1, in another order.
    chex.assert_trees_all_close(found, expected, atol=1e-5)


if __name__ == '__main__':
  absltest.main()

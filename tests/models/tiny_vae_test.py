"""What a streaming video autoencoder must keep at any width."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from worldsim_jax.models import pixels
from worldsim_jax.models import tiny_vae

SMALL = dict(latent_channels=3, encoder_widths=(4, 6), decoder_widths=(6, 4, 4),
             blocks_per_stage=1, time_strides=(2, 2))


def make(frames=5, size=8, **overrides):
  """A small VAE, its variables and a video of that many frames."""
  vae = tiny_vae.TinyVAE(**(SMALL | overrides))
  rng = np.random.default_rng(0)
  video = jnp.asarray(rng.random((2, frames, size, size, 3), np.float32))
  variables = jax.eval_shape(vae.init, jax.random.key(0), video)

  def fill(path, leaf):
    if path[0].key == 'latent_stats':
      return jnp.full(leaf.shape, path[-1].key == 'std', leaf.dtype)
    # Nothing stays zero, not even the biases; compiling `init` takes seconds.
    fan_in = max(1, math.prod(leaf.shape[:-1]))
    return jnp.asarray(rng.normal(size=leaf.shape, scale=fan_in**-.5),
                       leaf.dtype)

  return vae, jax.tree_util.tree_map_with_path(fill, variables), video


def encode(vae, variables, video, carry=None):
  return jax.jit(lambda v, x, c: vae.apply(v, x, c, method='encode'))(
      variables, video, carry)


def decode(vae, variables, latents, carry=None):
  return jax.jit(lambda v, z, c: vae.apply(v, z, c, method='decode'))(
      variables, latents, carry)


class TinyVAETest(parameterized.TestCase):

  def test_default_sizes_are_those_of_taew2_1(self):
    params = jax.eval_shape(
        tiny_vae.TinyVAE().init, jax.random.key(0),
        jnp.zeros((1, 5, 16, 16, 3)))['params']
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    self.assertEqual(count(params['encoder']), 1_470_928)
    self.assertEqual(count(params['decoder']), 9_844_611)
    self.assertLen(jax.tree.leaves(params), 128)

  def test_parameter_names_are_upstream_s_indices(self):
    params = jax.eval_shape(
        tiny_vae.TinyVAE().init, jax.random.key(0),
        jnp.zeros((1, 5, 16, 16, 3)))['params']
    with_weights = dict(
        encoder=(0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17),
        decoder=(1, 3, 4, 5, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 19, 20, 22))
    for half, indices in with_weights.items():
      self.assertCountEqual(params[half], [f'layer_{i}' for i in indices])
    self.assertEqual(
        params['decoder']['layer_3']['conv_0']['kernel'].shape,
        (3, 3, 512, 256))
    self.assertEqual(
        params['decoder']['layer_13']['kernel'].shape, (1, 1, 128, 256))

  @parameterized.parameters('start', 'end')
  def test_eighty_one_frames_are_twenty_one_latents_and_come_back(self, pad):
    vae = tiny_vae.TinyVAE(pad=pad)
    video = jax.ShapeDtypeStruct((1, 81, 480, 832, 3), jnp.float32)
    variables = jax.eval_shape(vae.init, jax.random.key(0), video)
    latents, _ = jax.eval_shape(
        lambda v, x: vae.apply(v, x, method='encode'), variables, video)
    self.assertEqual(latents.shape, (1, 21, 60, 104, 16))
    decoded, carry = jax.eval_shape(
        lambda v, z: vae.apply(v, z, method='decode'), variables, latents)
    self.assertEqual(decoded.shape, video.shape)
    self.assertLen(carry, 9)

  @parameterized.parameters(((2, 2), False), ((1, 1), True), ((1, 2), True))
  @pytest.mark.slow
  def test_chunks_give_the_same_numbers_as_the_whole_video(
      self, time_strides, shortcut):
    vae, variables, video = make(
        frames=1 + 2 * math.prod(time_strides), time_strides=time_strides,
        shortcut=shortcut, patch=1 + shortcut)
    s = vae.time_stride
    latents, _ = encode(vae, variables, video)
    decoded, _ = decode(vae, variables, latents)
    self.assertEqual(decoded.shape, video.shape)

    chunks, carry = [], None
    for part in jnp.split(video, [1, 1 + s], axis=1):
      chunk, carry = encode(vae, variables, part, carry)
      chunks.append(chunk)
    # fp32 sums of the same products in another order.
    chex.assert_trees_all_close(
        jnp.concatenate(chunks, axis=1), latents, atol=1e-5)

    chunks, carry = [], None
    for part in jnp.split(latents, [1, 2], axis=1):
      chunk, carry = decode(vae, variables, part, carry)
      chunks.append(chunk)
    chex.assert_trees_all_close(
        jnp.concatenate(chunks, axis=1), decoded, atol=1e-5)

  def test_latents_never_see_a_later_frame_than_they_decode_to(self):
    vae, variables, video = make(time_strides=(2, 2))
    s = vae.time_stride

    def last_frame_seen(f):
      grad = jax.jit(jax.grad(lambda x: jnp.square(
          vae.apply(variables, x, method='encode')[0][:, f]).sum()))(video)
      return int(jnp.flatnonzero(jnp.abs(grad).sum((0, 2, 3, 4)))[-1])

    self.assertEqual([last_frame_seen(f) for f in range(2)], [0, s])

  def test_decoded_frames_never_see_a_later_latent(self):
    vae, variables, _ = make()
    latents = jax.random.normal(jax.random.key(2), (1, 3, 2, 2, 3))
    grad = jax.jit(jax.grad(lambda z: vae.apply(
        variables, z, clip=False, method='decode')[0][:, :5].sum()))(latents)
    self.assertEqual(float(jnp.abs(grad[:, 2]).max()), 0)
    self.assertGreater(float(jnp.abs(grad[:, 1]).max()), 0)

  def test_each_frame_is_seen_by_its_memory_one_frame_later(self):
    vae, variables, video = make(frames=3, time_strides=(1, 1))
    changed = encode(vae, variables, video.at[:, 0].set(0))[0]
    same = encode(vae, variables, video)[0]
    self.assertGreater(float(jnp.abs(changed - same)[:, 1].max()), 1e-4)

  def test_end_padding_repeats_the_last_frame(self):
    vae, variables, video = make(pad='end')
    padded = jnp.concatenate([video, video[:, -1:].repeat(3, axis=1)], axis=1)
    chex.assert_trees_all_close(
        encode(vae, variables, video)[0], encode(vae, variables, padded)[0])

  @parameterized.parameters(1, 2, 4)
  def test_patches_come_back_as_pixels(self, patch):
    x = jax.random.normal(jax.random.key(0), (1, 2, 8, 16, 3))
    y = tiny_vae._to_patches(x, 1, patch)
    chex.assert_trees_all_equal(tiny_vae._from_patches(y, 1, patch), x)
    # Torch's order: all pixels of a patch's first channel come first.
    np.testing.assert_array_equal(
        y[0, 0, 0, 0, :patch**2], x[0, 0, :patch, :patch, 0].ravel())

  def test_latent_statistics_normalise_the_latents_and_are_undone(self):
    vae, variables, video = make(frames=4, time_strides=(1, 1))
    stats = tiny_vae.measure_latent_stats(
        vae, variables['params'], [video[:1], video[1:]])
    normalised = variables | {'latent_stats': stats}
    latents, _ = encode(vae, normalised, video)
    np.testing.assert_allclose(latents.mean((0, 1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(latents.std((0, 1, 2, 3)), 1, rtol=1e-3)
    plain, _ = encode(vae, variables, video)
    chex.assert_trees_all_close(
        decode(vae, normalised, latents)[0], decode(vae, variables, plain)[0],
        atol=1e-5)

  def test_initial_weights_have_the_variance_of_relu_networks(self):
    vae = tiny_vae.TinyVAE(**SMALL | dict(encoder_widths=(64, 64)))
    params = jax.jit(vae.init)(
        jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))['params']
    kernel = params['encoder']['layer_3']['kernel']
    # 36,864 draws: the sample deviation is within a percent.
    self.assertAlmostEqual(
        float(kernel.std()), math.sqrt(2 / (9 * 64)), delta=1e-3)

  def test_latents_are_raw_until_statistics_are_measured(self):
    vae, variables, video = make(frames=1)
    chex.assert_trees_all_equal(
        encode(vae, variables, video),
        encode(vae, {'params': variables['params']}, video))

  def test_large_latents_are_clamped(self):
    vae, variables, _ = make()
    far = jnp.full((1, 1, 2, 2, 3), 1e3)
    chex.assert_trees_all_close(
        decode(vae, variables, far), decode(vae, variables, 10 * far))

  @pytest.mark.slow
  def test_training_lowers_the_loss_and_uses_the_latent_noise(self):
    vae, variables, video = make(frames=2, time_strides=(1, 1))
    batch = {'video': pixels.to_uint8(video)}
    loss = tiny_vae.reconstruction_loss(
        vae, edge_weight=1., latent_noise=.1)
    optimizer = optax.adam(1e-2)
    params = variables['params']
    state = optimizer.init(params)
    self.assertNotEqual(
        float(loss(params, batch, jax.random.key(0))[0]),
        float(loss(params, batch, jax.random.key(1))[0]))

    @jax.jit
    def step(params, state, rng):
      (_, metrics), grad = jax.value_and_grad(loss, has_aux=True)(
          params, batch, rng)
      updates, state = optimizer.update(grad, state)
      return optax.apply_updates(params, updates), state, metrics

    history = []
    for key in jax.random.split(jax.random.key(2), 20):
      params, state, metrics = step(params, state, key)
      history.append(metrics)
    self.assertLess(history[-1]['loss'], .9 * history[0]['loss'])
    self.assertGreater(history[-1]['psnr_db'], history[0]['psnr_db'])

  @pytest.mark.slow
  def test_a_fitted_shortcut_starts_as_the_best_linear_codec(self):
    vae, _, video = make(
        shortcut=True, latent_channels=4, time_strides=(1, 2), patch=2,
        frames=1)
    variables = jax.jit(vae.init)(jax.random.key(0), video)
    # Videos of four components around a mean: a linear codec loses nothing.
    keys = jax.random.split(jax.random.key(3), 3)
    basis = jax.random.normal(keys[0], (4, 2 * 3 * 8 * 8))
    weights = jax.random.normal(keys[1], (30, 4))
    videos = tiny_vae._from_patches(
        (.5 + .01 * weights @ basis)[:, None, None, None], 2, 8)
    fitted = tiny_vae.fit_shortcut(
        vae.copy(pad='end'), variables['params'], [videos[:10], videos[10:]])
    decoded = decode(vae, {'params': fitted}, encode(
        vae.copy(pad='end'), {'params': fitted}, videos)[0])[0]
    # The clamp's distortion of latents of deviation 0.3.
    self.assertGreater(float(tiny_vae.psnr_db(decoded, videos[:, 1:])), 40)

  def test_without_a_shortcut_there_is_nothing_to_fit(self):
    vae, variables, video = make(frames=1)
    with self.assertRaisesRegex(ValueError, 'config.vae.shortcut'):
      tiny_vae.fit_shortcut(vae, variables['params'], [video])

  def test_psnr_of_a_hundredth_is_forty_decibels(self):
    x = jnp.full((1, 2, 8, 8, 3), .5)
    self.assertAlmostEqual(float(tiny_vae.psnr_db(x, x + .01)), 40, places=3)

  @parameterized.parameters(
      (dict(time_strides=(1, 1, 1)), 1, 8, 'time_strides'),
      (dict(decoder_widths=(4, 4)), 1, 8, 'decoder_widths'),
      (dict(pad='middle'), 1, 8, "config.vae.pad='middle'"),
      (dict(), 8, 8, r'8 frames.*1 \+ 4 n'),
      (dict(), 1, 6, '6x6.*multiples of 4'),
  )
  def test_impossible_shapes_name_the_config_key(
      self, overrides, frames, size, message):
    with self.assertRaisesRegex(ValueError, message):
      jax.eval_shape(lambda: make(frames, size, **overrides)[1])


if __name__ == '__main__':
  absltest.main()

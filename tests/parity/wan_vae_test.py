"""The Wan VAE against diffusers, on the same random weights."""

import pytest

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

# pylint: disable=wrong-import-position
from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from tests.golden import make_wan_vae
from worldsim_jax.convert import mapping
from worldsim_jax.convert import wan_vae_keys
from worldsim_jax.models import wan_vae

# Fields of the module and [B, P, H, W].
SIZES = {
    'published_levels': (dict(
        base=6, multipliers=(1, 2, 4, 4), num_res_blocks=2,
        temporal_downsample=(False, True, True), latent_channels=16),
        (1, 9, 24, 40)),
    'time_first': (dict(
        base=10, multipliers=(1, 2, 2), num_res_blocks=1,
        temporal_downsample=(True, False), latent_channels=4),
        (2, 5, 12, 20)),
    'wide_inside': (dict(
        base=4, multipliers=(1, 1, 3), num_res_blocks=1,
        temporal_downsample=(True, True), latent_channels=3),
        (1, 13, 8, 12)),
    'three_blocks': (dict(
        base=2, multipliers=(3, 5, 2), num_res_blocks=3,
        temporal_downsample=(True, True), latent_channels=1),
        (3, 5, 4, 28)),
    'an_image': (dict(
        base=6, multipliers=(1, 2), num_res_blocks=2,
        temporal_downsample=(True,), latent_channels=2),
        (1, 1, 14, 10)),
}


class WanVAEParityTest(parameterized.TestCase):

  @parameterized.named_parameters(
      (name, seed, *case) for seed, (name, case) in enumerate(SIZES.items()))
  def test_moments_and_pixels_are_those_of_pytorch(self, seed, fields, shape):
    theirs, weights = make_wan_vae.pytorch_vae(fields, seed)
    video, z = (np.float32(x) for x in make_wan_vae.draw_inputs(
        fields, shape, seed))
    mean, log_variance, decoded = make_wan_vae.run_pytorch(theirs, video, z)
    c = fields['latent_channels']
    ours = wan_vae.WanVAE(
        **fields, latent_mean=wan_vae.LATENT_MEAN[:c],
        latent_std=wan_vae.LATENT_STD[:c])
    params = self.params(ours, weights)
    shift, scale = (np.float32(x) for x in (ours.latent_mean, ours.latent_std))
    latents = (z - shift) / scale

    posterior = jax.jit(lambda x, carry: ours.apply(
        params, x, carry, method='posterior'))
    decode = jax.jit(lambda x, carry: ours.apply(
        params, x, carry, method='decode'))
    (found, found_log_variance), _ = posterior(video, None)
    self.assertParity(found * scale + shift, mean)
    self.assertParity(found_log_variance + 2 * np.log(scale), log_variance)
    self.assertParity(decode(latents, None)[0], decoded)

    # Upstream's own chunks: a frame and then four, a latent at a time.
    found, carry = [], None
    for part in np.split(video, range(1, shape[1], 4), axis=1):
      (part, _), carry = posterior(part, carry)
      found.append(part)
    self.assertParity(jnp.concatenate(found, axis=1) * scale + shift, mean)
    found, carry = [], None
    for f in range(z.shape[1]):
      part, carry = decode(latents[:, f:f + 1], carry)
      found.append(part)
    self.assertParity(jnp.concatenate(found, axis=1), decoded)

  def params(self, vae, weights):
    """Our variables from diffusers' tensors, which tell the model."""
    weights = {name: np.float32(x) for name, x in weights.items()}
    found, params = mapping.read_arrays(
        wan_vae_keys, weights, latent_mean=vae.latent_mean,
        latent_std=vae.latent_std)
    self.assertEqual(found, vae)
    return {'params': params}

  def assertParity(self, found, expected):
    error = np.abs(found - expected).max() / np.abs(expected).max()
    print(f'relative error {error:.1e}')
    # fp32 roundings of some thirty layers, and norms of few channels.
    self.assertLess(error, 2e-5)

  def test_latent_statistics_are_those_of_diffusers(self):
    with torch.device('meta'):
      config = diffusers.AutoencoderKLWan().config
    self.assertSequenceEqual(wan_vae.LATENT_MEAN, config.latents_mean)
    self.assertSequenceEqual(wan_vae.LATENT_STD, config.latents_std)

  def test_every_name_of_diffusers_has_its_place_at_full_size(self):
    with torch.device('meta'):
      theirs = diffusers.AutoencoderKLWan().state_dict()
    theirs = {name: jax.ShapeDtypeStruct(tuple(x.shape), np.float32)
              for name, x in theirs.items()}
    found, params = mapping.read(wan_vae_keys, theirs)
    self.assertEqual(found, wan_vae.WanVAE())
    self.assertEqual(
        wan_vae_keys.places(params, 'diffusers').keys(), theirs.keys())


if __name__ == '__main__':
  absltest.main()

"""TAEHV against its architecture in PyTorch, written from its description.

diffusers has no TAEHV, and upstream's repository is no package. So this is a
second implementation, as upstream's: `nn.Sequential`s of the same indices, one
pass over a whole video with time folded into the batch, from the same file.
"""

import pathlib

import pytest

torch = pytest.importorskip('torch')

# pylint: disable=wrong-import-position
from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from torch import nn
from torch.nn import functional as F

from worldsim_jax.convert import mapping
from worldsim_jax.convert import taehv_keys
from worldsim_jax.convert import torch_file
from worldsim_jax.models.tiny_vae import TinyVAE

SIZES = {
    'taew2_1': {},
    'narrow': dict(
        latent_channels=5, encoder_widths=(6, 10, 4),
        decoder_widths=(12, 6, 10, 8), blocks_per_stage=2),
    'two_stages_of_patches': dict(
        latent_channels=7, encoder_widths=(6, 8), decoder_widths=(10, 6, 4),
        blocks_per_stage=1, time_strides=(2, 1), patch=2),
    'time_at_the_end': dict(
        latent_channels=3, encoder_widths=(4, 6), decoder_widths=(8, 4, 6),
        blocks_per_stage=3, time_strides=(1, 2)),
}


class MemBlock(nn.Module):

  def __init__(self, n):
    super().__init__()
    self.conv = nn.Sequential(
        nn.Conv2d(2 * n, n, 3, padding=1), nn.ReLU(),
        nn.Conv2d(n, n, 3, padding=1), nn.ReLU(),
        nn.Conv2d(n, n, 3, padding=1))

  def forward(self, x):  # [T, C, H, W]; one video
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    return F.relu(self.conv(torch.cat([x, before], 1)) + x)


class Pool(nn.Module):

  def __init__(self, n, stride):
    super().__init__()
    self.stride, self.conv = stride, nn.Conv2d(stride * n, n, 1, bias=False)

  def forward(self, x):
    return self.conv(x.reshape(-1, self.stride * x.shape[1], *x.shape[2:]))


class Grow(nn.Module):

  def __init__(self, n, stride):
    super().__init__()
    self.stride, self.conv = stride, nn.Conv2d(n, stride * n, 1, bias=False)

  def forward(self, x):
    return self.conv(x).reshape(-1, x.shape[1], *x.shape[2:])


class Clamp(nn.Module):

  def forward(self, x):
    return torch.tanh(x / 3) * 3


class TAEHV(nn.Module):
  """Of one video, [T, C, H, W]; pixels are not clipped."""

  def __init__(self, vae: TinyVAE):
    super().__init__()
    n, widths = vae.blocks_per_stage, vae.encoder_widths
    self.patch, self.stride = vae.patch, vae.time_stride
    channels = 3 * vae.patch**2
    layers = [nn.Conv2d(channels, widths[0], 3, padding=1), nn.ReLU()]
    for before, width, stride in zip(
        (widths[0], *widths), widths, vae.time_strides):
      layers += [Pool(before, stride),
                 nn.Conv2d(before, width, 3, 2, 1, bias=False),
                 *(MemBlock(width) for _ in range(n))]
    self.encoder = nn.Sequential(
        *layers, nn.Conv2d(widths[-1], vae.latent_channels, 3, padding=1))
    widths = vae.decoder_widths
    layers = [Clamp(), nn.Conv2d(vae.latent_channels, widths[0], 3, padding=1),
              nn.ReLU()]
    for before, width, stride in zip(
        widths, widths[1:], vae.time_strides[::-1]):
      layers += [*(MemBlock(before) for _ in range(n)),
                 nn.Upsample(scale_factor=2), Grow(before, stride),
                 nn.Conv2d(before, width, 3, padding=1, bias=False)]
    self.decoder = nn.Sequential(
        *layers, nn.ReLU(), nn.Conv2d(widths[-1], channels, 3, padding=1))

  def encode(self, x):
    missing = -len(x) % self.stride
    x = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])
    return self.encoder(F.pixel_unshuffle(x, self.patch))

  def decode(self, z):
    x = F.pixel_shuffle(self.decoder(z), self.patch)
    return x[self.stride - 1:]


class TAEHVParityTest(parameterized.TestCase):

  @parameterized.parameters(*SIZES)
  def test_a_file_of_ours_is_read_and_gives_the_same_numbers(self, name):
    vae, rng = TinyVAE(**SIZES[name], pad='end'), np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: (rng.normal(size=x.shape) * (
            1.4 / max(np.prod(x.shape[:-1]), 1)**.5 if len(x.shape) > 1 else .1)
                   ).astype(np.float32), taehv_keys.shapes(vae))
    path = pathlib.Path(self.create_tempdir().full_path, 'taehv.pth')
    torch_file.write_torch(
        path, mapping.write_arrays(taehv_keys, params, 'taehv'))
    theirs = TAEHV(vae)
    theirs.load_state_dict(torch.load(path, weights_only=True))
    found, back = mapping.read_arrays(
        taehv_keys, {key: x.numpy() for key, x in theirs.state_dict().items()},
        pad='end')
    self.assertEqual(found, vae)
    jax.tree.map(np.testing.assert_array_equal, back, params)

    size = 2 * vae.space_stride
    video = rng.random((6, size, 2 * size, 3), np.float32)
    with torch.no_grad():
      z = theirs.encode(torch.from_numpy(video).permute(0, 3, 1, 2))
      pixels = theirs.decode(z)
    apply = lambda x, **settings: jax.jit(lambda x: vae.apply(
        {'params': params}, x, **settings)[0])(x[None])[0]
    ours = apply(video, method='encode')
    self.assertParity(np.moveaxis(ours, -1, 1), z)
    # Before the clip: roundings are those of the numbers that there were.
    decoded = apply(ours, method='decode', clip=False)
    self.assertParity(np.moveaxis(decoded, -1, 1), pixels)

  def assertParity(self, found, expected):
    error = np.abs(found - expected.numpy()).max() / expected.abs().max()
    # Roundings of some thirty layers in fp32.
    self.assertLess(float(error), 2e-5)

  def test_parameters_are_as_many_as_published(self):
    with torch.device('meta'):
      theirs = TAEHV(TinyVAE())
    count = lambda half: sum(x.numel() for x in half.parameters())
    self.assertEqual((count(theirs.encoder), count(theirs.decoder)),
                     (1_470_928, 9_844_611))
    self.assertLen(theirs.state_dict(), 128)
    shapes = {key: jax.ShapeDtypeStruct(tuple(x.shape), np.float32)
              for key, x in theirs.state_dict().items()}
    self.assertEqual(mapping.read(taehv_keys, shapes)[0], TinyVAE())


if __name__ == '__main__':
  absltest.main()

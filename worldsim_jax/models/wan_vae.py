"""The Wan 2.1 video VAE, at any width; published weights fit the defaults.

Residual blocks of causal 3D convolutions (`wan_vae_blocks`), an attention
within frames in the middle. The first frame is a video of its own: with a time
stride s, F latents stand for P = 1 + s (F - 1) pixel frames,

  encoder  latent 0 is made of frame 0; latent f of frames up to s f,       (1)
           because the strided convolution over time passes frame 0 on and has
           windows (0, 1, 2), (2, 3, 4), ... over the rest
  decoder  latent 0 becomes frame 0 and never enters the convolutions that
           double time, which see zeros in its place; latent f becomes frames
           s (f - 1) + 1 .. s f, from latents up to f.                      (2)

Upstream runs frame 0 first and then s frames, or one latent, at a time. Each
causal convolution of the whole video gives the same numbers, so here any chunk
may be any length and the caches are an explicit carry:

  latents, carry = vae.apply(variables, video, method='encode')
  more, carry = vae.apply(variables, next_frames, carry, method='encode')

All chunks but the first take and give a carry of the same shapes: a jitted
function compiles once for the first chunk and once for all others.

Parameter names follow upstream's, indices of an `nn.Sequential` after an
underscore (`convert/wan_vae_keys.py` has the map, also for diffusers):

  encoder.downsamples.0.residual.2.weight
      is  encoder/downsamples_0/residual_2/kernel  (OITHW -> THWIO)

Pixels are in [0, 1] here, as in `tiny_vae`; the layers see [-1, 1]. Latents are
(z - mean) / std per channel, as Wan's diffusion models read and write them,
with z the posterior's mean: nothing is sampled.

P pixel frames, F latent frames.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from worldsim_jax.models import wan_vae_blocks as blocks

# The caches of causal convolutions, last input frames [B, 1 or 2, H, W, C], in
# the order in which they run.
Carry = tuple[jax.Array, ...]

# Of z over Wan's training videos.
LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)


class WanVAE(nn.Module):
  """See the module docstring.

  Attributes:
    base: channels at full resolution.
    multipliers: of base, the channels of each level; each level but the first
      halves height and width.
    num_res_blocks: residual blocks of an encoder level; the decoder has one
      more.
    temporal_downsample: whether the step from each level to the next one also
      halves time; the decoder mirrors it.
    latent_channels: C of the latents.
    latent_mean: of z, per channel.
    latent_std: likewise.
    dtype: of the computation; parameters, pixels and latents are float32.
  """
  base: int = 96
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  num_res_blocks: int = 2
  temporal_downsample: tuple[bool, ...] = (False, True, True)
  latent_channels: int = 16
  latent_mean: tuple[float, ...] = LATENT_MEAN
  latent_std: tuple[float, ...] = LATENT_STD
  dtype: Any = jnp.float32

  # Latents at a time in which long videos go through, see `tiling`: to encode
  # 81 frames of 480p in bfloat16, the CPU compiler plans 5.0 GiB so, and 58.0
  # for all at once.
  chunk = 1

  @property
  def time_stride(self) -> int:
    return 2**sum(self.temporal_downsample)

  @property
  def space_stride(self) -> int:
    return 2**(len(self.multipliers) - 1)

  def setup(self):
    self._check_config()
    widths = tuple(self.base * m for m in self.multipliers)
    self.encoder = Encoder(
        2 * self.latent_channels, self.base, widths, self.num_res_blocks,
        self.temporal_downsample, self.dtype)
    self.decoder = Decoder(
        widths[::-1], self.num_res_blocks + 1, self.temporal_downsample[::-1],
        self.dtype)
    pointwise = functools.partial(
        blocks.CausalConv, time=1, space=1, dtype=self.dtype)
    self.conv1 = pointwise(2 * self.latent_channels)
    self.conv2 = pointwise(self.latent_channels)

  def __call__(self, video_BPHWC):
    """The reconstruction, unclipped, as a loss needs it."""
    return self.decode(self.encode(video_BPHWC)[0], clip=False)[0]

  def encode(self, video_BPHWC, carry: Carry | None = None):
    """Returns (latents [B, F, h, w, C], carry).

    Without a carry a video starts, P = 1 + s (F - 1); later P = s F.
    """
    (mean_BFHWC, _), carry = self.posterior(video_BPHWC, carry)
    return mean_BFHWC, carry

  def posterior(self, video_BPHWC, carry: Carry | None = None):
    """Returns ((mean, log of the variance) of the latents, carry)."""
    self._check_video(video_BPHWC.shape, is_start=carry is None)
    past = blocks.Past(carry)
    x = (2 * video_BPHWC - 1).astype(self.dtype)
    moments = self.conv1(self.encoder(x, past)).astype(jnp.float32)
    mean_BFHWC, log_variance_BFHWC = jnp.split(moments, 2, axis=-1)
    std = jnp.asarray(self.latent_std)
    # The bounds of diffusers, far outside of what trained weights give.
    log_variance_BFHWC = jnp.clip(log_variance_BFHWC, -30, 20)
    return ((mean_BFHWC - jnp.asarray(self.latent_mean)) / std,
            log_variance_BFHWC - 2 * jnp.log(std)), tuple(past.kept)

  def decode(self, latents_BFHWC, carry: Carry | None = None,
             clip: bool = True):
    """Returns (video [B, P, H, W, 3], carry).

    Without a carry a video starts, P = 1 + s (F - 1); later P = s F. `clip` is
    to [0, 1].
    """
    if latents_BFHWC.shape[-1] != self.latent_channels:
      raise ValueError(
          f'Latents have {latents_BFHWC.shape[-1]} channels, '
          f'latent_channels={self.latent_channels} (config.vae).')
    past = blocks.Past(carry)
    z = (latents_BFHWC * jnp.asarray(self.latent_std)
         + jnp.asarray(self.latent_mean))
    x = self.decoder(self.conv2(z.astype(self.dtype)), past)
    x = (x.astype(jnp.float32) + 1) / 2
    return (jnp.clip(x, 0, 1) if clip else x), tuple(past.kept)

  def _check_video(self, shape, is_start):
    _, frames, height, width, _ = shape
    s, space = self.time_stride, self.space_stride
    if height % space or width % space:
      raise ValueError(
          f'Frames of {height}x{width} pixels: both must be multiples of '
          f'{space} (config.data.height, config.data.width; config.vae).')
    if (frames - is_start) % s:
      need = f'1 + {s} n at the start' if is_start else f'{s} n later on'
      raise ValueError(
          f'{frames} frames, but temporal_downsample='
          f'{self.temporal_downsample} needs {need} '
          '(config.data.frames, config.vae.temporal_downsample).')

  def _check_config(self):
    if len(self.temporal_downsample) != len(self.multipliers) - 1:
      raise ValueError(
          f'config.vae: {len(self.multipliers)} multipliers have '
          f'{len(self.multipliers) - 1} steps between them, but '
          f'temporal_downsample={self.temporal_downsample}.')
    sizes = {len(self.latent_mean), len(self.latent_std), self.latent_channels}
    if len(sizes) != 1:
      raise ValueError(
          f'config.vae: latent_mean and latent_std have '
          f'{len(self.latent_mean)} and {len(self.latent_std)} numbers, '
          f'latent_channels={self.latent_channels}; they must agree.')


class Encoder(nn.Module):
  """[B, P, H, W, 3] -> moments of z before the last 1x1 convolution."""
  features: int
  base: int
  widths: tuple[int, ...]
  num_res_blocks: int
  in_time: tuple[bool, ...]
  dtype: Any

  @nn.compact
  def __call__(self, x, past):
    x = blocks.CausalConv(self.base, dtype=self.dtype, name='conv1')(x, past)
    names = (f'downsamples_{i}' for i in range(10**6))
    for level, width in enumerate(self.widths):
      for _ in range(self.num_res_blocks):
        x = blocks.ResidualBlock(width, self.dtype, name=next(names))(x, past)
      if level < len(self.in_time):
        x = blocks.Downsample(
            self.in_time[level], self.dtype, name=next(names))(x, past)
    x = _middle(x, past, self.dtype)
    return _head(x, past, self.features, self.dtype)


class Decoder(nn.Module):
  """z [B, F, h, w, C] after the first 1x1 convolution -> [B, P, H, W, 3]."""
  widths: tuple[int, ...]
  num_res_blocks: int
  in_time: tuple[bool, ...]
  dtype: Any

  @nn.compact
  def __call__(self, z, past):
    x = blocks.CausalConv(
        self.widths[0], dtype=self.dtype, name='conv1')(z, past)
    x = _middle(x, past, self.dtype)
    names = (f'upsamples_{i}' for i in range(10**6))
    for level, width in enumerate(self.widths):
      for _ in range(self.num_res_blocks):
        x = blocks.ResidualBlock(width, self.dtype, name=next(names))(x, past)
      if level < len(self.in_time):
        x = blocks.Upsample(
            self.in_time[level], self.dtype, name=next(names))(x, past)
    return _head(x, past, 3, self.dtype)


def _middle(x, past, dtype):
  x = blocks.ResidualBlock(x.shape[-1], dtype, name='middle_0')(x, past)
  x = blocks.FrameAttention(dtype, name='middle_1')(x)
  return blocks.ResidualBlock(x.shape[-1], dtype, name='middle_2')(x, past)


def _head(x, past, features, dtype):
  x = nn.silu(blocks.ChannelNorm(dtype, name='head_0')(x))
  return blocks.CausalConv(features, dtype=dtype, name='head_2')(x, past)

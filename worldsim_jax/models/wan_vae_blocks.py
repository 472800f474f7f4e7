"""Layers of the Wan 2.1 VAE: convolutions over the past, and what is between.

A causal convolution with K taps and stride s over frames x_0, x_1, ... is

  y_f = b + Σ_k W_k * x_{s f + k - (K - s)},      k = 0 .. K - 1           (1)

where * is a 2D convolution of one frame and frames before x_0 are zeros. So it
is computed: K 2D convolutions of all frames at once, with time folded into the
batch and the zero frames left out. On CPU that took 0.2 to 0.6 of the time of
XLA's 3D convolution (32 to 384 channels, jax 0.10).

What a convolution must remember of a video whose beginning it has seen are its
last K - s input frames; `Past` hands them around.

All kernels are held as [kt, kh, kw, in, out], or [kh, kw, in, out] where
upstream has 2D layers.
"""

from collections.abc import Sequence
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from worldsim_jax.attention.attend import attend
from worldsim_jax.diffusion import noise

# Above so many logits (256 MB in float32) frames attend one after the other.
_MAX_LOGITS = 2**26
_FOLDED = ('NHWC', 'HWIO', 'NHWC')


class Past:
  """The frames that convolutions remember, in the order in which they run.

  Attributes:
    is_start: whether the video begins here and nothing is remembered.
    kept: what the next chunk is to be given: a cache per convolution, of shapes
      that do not depend on the length of this chunk.
  """

  def __init__(self, carry: Sequence[jax.Array] | None):
    self.is_start = carry is None
    self.kept = []
    self._given = carry

  def join(self, x_BFHWC, frames: int):
    """x after the `frames` remembered ones, if any; remembers x's own last."""
    if not self.is_start:
      given = self._given[len(self.kept)]
      x_BFHWC = jnp.concatenate([given, x_BFHWC], axis=1)
    last = x_BFHWC[:, max(x_BFHWC.shape[1] - frames, 0):]
    self.kept.append(_pad_start(last, frames))
    return x_BFHWC


def conv_in_time(x_BFHWC, kernel, frames: int, stride: int = 1):
  """Eq. (1) without b: the `frames` outputs of which the last ends with x."""
  taps, (batch, total, *size, _) = len(kernel), x_BFHWC.shape
  if not frames:
    return jnp.zeros((batch, 0, *size, kernel.shape[-1]), x_BFHWC.dtype)
  missing = (frames - 1) * stride + taps - total  # Zeros before x.
  y_BFHWC = 0
  for k, kernel_k in enumerate(kernel):
    skip = max(0, -(-(missing - k) // stride))  # Outputs that W_k has no x for.
    source = x_BFHWC[:, skip * stride + k - missing::stride][:, :frames - skip]
    if source.shape[1]:
      y_BFHWC += _pad_start(_conv_frames(source, kernel_k), frames)
  return y_BFHWC


def _conv_frames(x_BFHWC, kernel):
  batch, frames, *size, _ = x_BFHWC.shape
  y = jax.lax.conv_general_dilated(
      x_BFHWC.reshape(-1, *x_BFHWC.shape[2:]), kernel, (1, 1), 'SAME',
      dimension_numbers=_FOLDED)
  return y.reshape(batch, frames, *size, -1)


def _pad_start(x_BFHWC, frames):
  missing = frames - x_BFHWC.shape[1]
  if not missing:
    return x_BFHWC
  return jnp.pad(x_BFHWC, ((0, 0), (missing, 0)) + ((0, 0),) * 3)


def _kernel_init(rng, shape, dtype=jnp.float32):
  """Uniform, with the variance that keeps a linear layer's."""
  limit = math.sqrt(3 / math.prod(shape[:-1]))
  return noise.draw(
      jax.random.uniform, rng, shape, dtype, minval=-limit, maxval=limit)


class CausalConv(nn.Module):
  """Eq. (1) with kernels of `time` x `space` x `space`, zeros around frames.

  Without a past the video's beginning, of F frames with F or (F - 1) / 2
  outputs for a stride of 1 or 2; with it F or F / 2.
  """
  features: int
  time: int = 3
  space: int = 3
  stride: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC, past: Past | None = None):
    shape = (self.time, self.space, self.space, x_BFHWC.shape[-1],
             self.features)
    kernel = self.param('kernel', _kernel_init, shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    frames = x_BFHWC.shape[1] // self.stride
    if self.time > 1:
      x_BFHWC = past.join(x_BFHWC, self.time - self.stride)
    y = conv_in_time(
        x_BFHWC, kernel.astype(self.dtype), frames, self.stride)
    return y + bias.astype(self.dtype)


class ChannelNorm(nn.Module):
  """x √C γ / |x|, over the channels of each position."""
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    channels = x.shape[-1]
    gamma = self.param('gamma', nn.initializers.ones, (channels,))
    x = x.astype(jnp.float32)
    square = jnp.square(x).sum(axis=-1, keepdims=True)
    # Upstream has |x| at least 1e-12.
    scale = jax.lax.rsqrt(jnp.maximum(square, 1e-24)) * math.sqrt(channels)
    return (x * scale * gamma).astype(self.dtype)


class ResidualBlock(nn.Module):
  """x + conv(silu(norm(conv(silu(norm(x)))))), x projected if widths differ."""
  features: int
  dtype: Any

  @nn.compact
  def __call__(self, x, past: Past):
    h = nn.silu(ChannelNorm(self.dtype, name='residual_0')(x))
    h = CausalConv(self.features, dtype=self.dtype, name='residual_2')(h, past)
    h = nn.silu(ChannelNorm(self.dtype, name='residual_3')(h))
    h = CausalConv(self.features, dtype=self.dtype, name='residual_6')(h, past)
    if x.shape[-1] != self.features:
      x = CausalConv(self.features, time=1, space=1, dtype=self.dtype,
                     name='shortcut')(x)
    return x + h


class FrameAttention(nn.Module):
  """Every position of a frame reads that frame, with a single head."""
  dtype: Any

  @nn.compact
  def __call__(self, x_BFHWC):
    batch, frames, height, width, channels = x_BFHWC.shape
    h = ChannelNorm(self.dtype, name='norm')(x_BFHWC)
    h = nn.Conv(3 * channels, (1, 1), dtype=self.dtype, name='to_qkv',
                kernel_init=_kernel_init)(h)
    # A frame is a sample of the batch: [B F, 1, N, heads 1, C].
    qkv = jnp.split(
        h.reshape(batch * frames, 1, height * width, 1, -1), 3, axis=-1)
    if batch * frames * (height * width)**2 > _MAX_LOGITS:
      h = jax.lax.map(
          lambda one: attend(*(x[None] for x in one))[0], tuple(qkv))
    else:
      h = attend(*qkv)
    h = nn.Conv(channels, (1, 1), dtype=self.dtype, name='proj',
                kernel_init=nn.initializers.zeros)(h.reshape(x_BFHWC.shape))
    return x_BFHWC + h


class Downsample(nn.Module):
  """Halves frames, and in time their number but for the video's first frame."""
  in_time: bool
  dtype: Any

  @nn.compact
  def __call__(self, x, past: Past):
    channels = x.shape[-1]
    x = nn.Conv(channels, (3, 3), strides=2, padding=((0, 1), (0, 1)),
                dtype=self.dtype, kernel_init=_kernel_init,
                name='resample_1')(x)
    if not self.in_time:
      return x
    y = CausalConv(channels, space=1, stride=2, dtype=self.dtype,
                   name='time_conv')(x, past)
    return jnp.concatenate([x[:, :1], y], axis=1) if past.is_start else y


class Upsample(nn.Module):
  """Doubles frames, and in time their number but for the video's first frame.

  In time that frame passes by: the convolution begins with the second one and
  has zeros before it.
  """
  in_time: bool
  dtype: Any

  @nn.compact
  def __call__(self, x, past: Past):
    if self.in_time:
      first, x = (x[:, :1], x[:, 1:]) if past.is_start else (x[:, :0], x)
      batch, frames, *size, channels = x.shape
      x = CausalConv(2 * channels, space=1, dtype=self.dtype,
                     name='time_conv')(x, past)
      x = jnp.moveaxis(x.reshape(batch, frames, *size, 2, channels), 4, 2)
      x = x.reshape(batch, 2 * frames, *size, channels)
      x = jnp.concatenate([first, x], axis=1)
    x = x.repeat(2, axis=2).repeat(2, axis=3)
    return nn.Conv(x.shape[-1] // 2, (3, 3), padding=1, dtype=self.dtype,
                   kernel_init=_kernel_init, name='resample_1')(x)

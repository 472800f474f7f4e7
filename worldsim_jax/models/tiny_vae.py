"""TAEHV: a video autoencoder small enough to run inside a stream's frame budget.

The architecture of madebyollin/taehv (`taew2_1` at the defaults) at any width:
3x3 convolutions on single frames; frames meet only in the MemBlocks, each of
which reads the previous frame's feature, zeros before the first,

  x_t ← relu(x_t + conv(relu(conv(relu(conv([x_t, x_{t-1}]))))))            (1)

and in the time strides: the encoder merges s frames into one by a 1x1
convolution of their channels, the decoder splits one into s. A MemBlock's memory
is its own *input*, so a whole video runs with time folded into the batch, and a
stream carries one feature per MemBlock: both give the same numbers.

With total time stride s, F latents stand for P = 1 + s (F - 1) pixel frames: the
decoder makes s F frames and drops the first s - 1. What the encoder does about
the missing s - 1 frames is `pad`:

  'start'  repeats the first frame in front of the video. Latent f (from 0) then
           covers frames s(f-1)+1 .. s f, the frames that it decodes to: causal.
  'end'    repeats the last frame behind it, as upstream does. Latent f covers
           s f .. s f + s - 1 and so sees up to s - 1 frames into its future.

Where upstream upsamples before the decoder's 1x1 convolution, we do it after:
nearest-neighbour copies commute with a 1x1 convolution, at a quarter of the work.

Parameter names follow upstream's `nn.Sequential` indices, '.' for '/':

  encoder.4.conv.2.weight  is  encoder/layer_4/conv_2/kernel   (OIHW -> HWIO)
  decoder.7.conv.weight    is  decoder/layer_7/conv/kernel
  encoder.0.bias           is  encoder/layer_0/bias

(MemBlocks never change the width, so upstream's optional `skip` does not occur.)

P pixel frames, F latent frames, S stages, each of which halves height and width.
Pixels are in [0, 1]. Latents are (z - mean) / std with the per-channel statistics
of the collection 'latent_stats'; without it, or before it is measured, they are
the encoder's own output z.
"""

from collections.abc import Callable, Iterable
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

# One previous frame [B, h, w, C] per MemBlock, in order of depth.
Carry = tuple[jax.Array, ...]


def _kernel_init(rng, shape, dtype=jnp.float32):
  """He's uniform distribution; drawn as a vector because XLA's CPU compiler

  needs seconds for every random array of more than two axes.
  """
  limit = math.sqrt(6 / math.prod(shape[:-1]))
  return _draw(jax.random.uniform, rng, shape, dtype) * 2 * limit - limit


def _draw(sample, rng, shape, dtype):
  return sample(rng, (math.prod(shape),), dtype).reshape(shape)


_conv3 = functools.partial(
    nn.Conv, kernel_size=(3, 3), padding=1, kernel_init=_kernel_init)
_conv1 = functools.partial(
    nn.Conv, kernel_size=(1, 1), use_bias=False, kernel_init=_kernel_init)


class TinyVAE(nn.Module):
  """Deterministic video autoencoder; see the module docstring.

  Attributes:
    latent_channels: C of the latents; taew2_1 reads and writes Wan 2.1's 16.
    encoder_widths: channels of each stage, S of them; the first is also the
      width of the convolution at full resolution.
    decoder_widths: channels of each stage and of the last one's output, S + 1.
    blocks_per_stage: MemBlocks in each stage.
    time_strides: frames merged in each encoder stage; the decoder mirrors them.
    patch: pixels (un)shuffled into channels at either end; 1 for taew2_1, 2 for
      the TAEHV of Wan 2.2 and Hunyuan 1.5. The spatial stride is patch * 2**S.
    pad: 'start' (causal) or 'end' (upstream).
    dtype: of the computation; parameters are float32.
  """
  latent_channels: int = 16
  encoder_widths: tuple[int, ...] = (64, 64, 64)
  decoder_widths: tuple[int, ...] = (256, 128, 64, 64)
  blocks_per_stage: int = 3
  time_strides: tuple[int, ...] = (2, 2, 1)
  patch: int = 1
  pad: str = 'start'
  dtype: Any = jnp.float32

  @property
  def time_stride(self) -> int:
    return math.prod(self.time_strides)

  @property
  def space_stride(self) -> int:
    return self.patch * 2**len(self.encoder_widths)

  def setup(self):
    self._check_config()
    self.encoder = Encoder(
        self.latent_channels, self.encoder_widths, self.blocks_per_stage,
        self.time_strides, self.dtype)
    self.decoder = Decoder(
        3 * self.patch**2, self.decoder_widths, self.blocks_per_stage,
        self.time_strides[::-1], self.dtype)
    if (self.is_mutable_collection('latent_stats')
        or self.has_variable('latent_stats', 'mean')):
      shape = (self.latent_channels,)
      self.latent_mean = self.variable(
          'latent_stats', 'mean', jnp.zeros, shape).value
      self.latent_std = self.variable(
          'latent_stats', 'std', jnp.ones, shape).value
    else:
      self.latent_mean, self.latent_std = 0., 1.

  def __call__(self, video_BPHWC):
    """The reconstruction, unclipped, as a loss needs it."""
    return self.decode(self.encode(video_BPHWC)[0], clip=False)[0]

  def encode(self, video_BPHWC, carry: Carry | None = None):
    """Returns (latents [B, F, h, w, C], carry).

    Args:
      video_BPHWC: floats in [0, 1]. At the start of a video P = 1 + s (F - 1),
        later P = s F. pad='end' takes any P, and pads: P = s F before the end.
      carry: what the previous chunk's call returned; None starts a video.

    Raises:
      ValueError: if the strides do not divide the video.
    """
    self._check_video(video_BPHWC.shape, is_start=carry is None)
    x = self._pad_time(video_BPHWC, is_start=carry is None)
    x = _space_to_channels(x, self.patch)
    z, carry = self.encoder(x, carry)
    return (z - self.latent_mean) / self.latent_std, carry

  def decode(self, latents_BFHWC, carry: Carry | None = None,
             clip: bool = True):
    """Returns (video [B, P, H, W, 3], carry).

    Args:
      latents_BFHWC: as `encode` returns them.
      carry: what the previous chunk's call returned. None starts a video, whose
        first s - 1 frames are dropped: P = s F - (s - 1), later P = s F.
      clip: to [0, 1].
    """
    if latents_BFHWC.shape[-1] != self.latent_channels:
      raise ValueError(
          f'Latents have {latents_BFHWC.shape[-1]} channels, '
          f'latent_channels={self.latent_channels} (config.vae).')
    z = latents_BFHWC * self.latent_std + self.latent_mean
    first = self.time_stride - 1 if carry is None else 0
    x, carry = self.decoder(z, carry)
    x = _channels_to_space(x[:, first:], self.patch)
    return (jnp.clip(x, 0, 1) if clip else x), carry

  def _pad_time(self, x_BPHWC, is_start):
    missing = -x_BPHWC.shape[1] % self.time_stride
    if not missing:
      return x_BPHWC
    if self.pad == 'end':
      copies_BPHWC = jnp.repeat(x_BPHWC[:, -1:], missing, axis=1)
      return jnp.concatenate([x_BPHWC, copies_BPHWC], axis=1)
    copies_BPHWC = jnp.repeat(x_BPHWC[:, :1], missing, axis=1)
    return jnp.concatenate([copies_BPHWC, x_BPHWC], axis=1)

  def _check_video(self, shape, is_start):
    _, frames, height, width, _ = shape
    s, space = self.time_stride, self.space_stride
    if height % space or width % space:
      raise ValueError(
          f'Frames of {height}x{width} pixels: both must be multiples of '
          f'{space} (config.data.height, config.data.width; config.vae).')
    odd = (frames - is_start) % s
    if odd and self.pad == 'start':
      raise ValueError(
          f'{frames} frames, but time_strides={self.time_strides} need '
          f'{f"1 + {s} n at the start" if is_start else f"{s} n in a later chunk"}'
          ' (config.data.frames, config.vae.time_strides).')

  def _check_config(self):
    stages = (len(self.encoder_widths), len(self.decoder_widths) - 1,
              len(self.time_strides))
    if len(set(stages)) != 1:
      raise ValueError(
          'config.vae: encoder_widths, decoder_widths (one more) and '
          f'time_strides give {stages} stages; they must agree.')
    if self.pad not in ('start', 'end'):
      raise ValueError(f"config.vae.pad={self.pad!r} must be 'start' or 'end'.")


class Encoder(nn.Module):
  """[B, P, H, W, 3 patch**2] -> z [B, P / s, h, w, C], without padding."""
  latent_channels: int
  widths: tuple[int, ...]
  blocks_per_stage: int
  time_strides: tuple[int, ...]
  dtype: Any

  @nn.compact
  def __call__(self, x, carry):
    last, n = [], self.blocks_per_stage
    x = nn.relu(_conv3(self.widths[0], dtype=self.dtype, name='layer_0')(x))
    for stage, (width, stride) in enumerate(zip(
        self.widths, self.time_strides, strict=True)):
      k = 2 + stage * (2 + n)  # Upstream's index of the stage's first layer.
      x = TimePool(stride, self.dtype, name=f'layer_{k}')(x)
      x = _conv3(width, strides=2, use_bias=False, dtype=self.dtype,
                 name=f'layer_{k + 1}')(x)
      x = _blocks(x, carry, last, n, self.dtype, first_layer=k + 2)
    k = 2 + len(self.widths) * (2 + n)
    z = _conv3(self.latent_channels, dtype=self.dtype, name=f'layer_{k}')(x)
    return z, tuple(last)


class Decoder(nn.Module):
  """z [B, F, h, w, C] -> [B, s F, H, W, out_channels], without trimming."""
  out_channels: int
  widths: tuple[int, ...]
  blocks_per_stage: int
  time_strides: tuple[int, ...]
  dtype: Any

  @nn.compact
  def __call__(self, z, carry):
    last, n = [], self.blocks_per_stage
    # The clamp keeps a diffusion model's outliers from becoming bright spots.
    x = jnp.tanh(z / 3) * 3
    x = nn.relu(_conv3(self.widths[0], dtype=self.dtype, name='layer_1')(x))
    for stage, (width, stride) in enumerate(zip(
        self.widths[1:], self.time_strides, strict=True)):
      k = 3 + stage * (3 + n)
      x = _blocks(x, carry, last, n, self.dtype, first_layer=k)
      x = TimeGrow(stride, self.dtype, name=f'layer_{k + n + 1}')(x)
      x = _upsample(x)
      x = _conv3(width, use_bias=False, dtype=self.dtype,
                 name=f'layer_{k + n + 2}')(x)
    k = 3 + len(self.time_strides) * (3 + n)
    x = _conv3(self.out_channels, dtype=self.dtype, name=f'layer_{k + 1}')(
        nn.relu(x))
    return x, tuple(last)


class MemBlock(nn.Module):
  """Eq. (1). `previous_BHWC` is the frame before x's first, None for zeros."""
  dtype: Any

  @nn.compact
  def __call__(self, x_BFHWC, previous_BHWC=None):
    if previous_BHWC is None:
      previous_BHWC = jnp.zeros_like(x_BFHWC[:, 0])
    past_BFHWC = jnp.concatenate(
        [previous_BHWC[:, None], x_BFHWC[:, :-1]], axis=1)
    conv = functools.partial(_conv3, x_BFHWC.shape[-1], dtype=self.dtype)
    y = jnp.concatenate([x_BFHWC, past_BFHWC], axis=-1)
    y = nn.relu(conv(name='conv_0')(y))
    y = nn.relu(conv(name='conv_2')(y))
    return nn.relu(conv(name='conv_4')(y) + x_BFHWC)


class TimePool(nn.Module):
  """Merges each `stride` frames into one; upstream keeps the layer at 1."""
  stride: int
  dtype: Any

  @nn.compact
  def __call__(self, x_BPHWC):
    b, p, h, w, c = x_BPHWC.shape
    x = x_BPHWC.reshape(b, p // self.stride, self.stride, h, w, c)
    x = jnp.moveaxis(x, 2, 4).reshape(b, p // self.stride, h, w, -1)
    return _conv1(c, dtype=self.dtype, name='conv')(x)


class TimeGrow(nn.Module):
  """Splits each frame into `stride` frames."""
  stride: int
  dtype: Any

  @nn.compact
  def __call__(self, x_BFHWC):
    b, f, h, w, c = x_BFHWC.shape
    x = _conv1(c * self.stride, dtype=self.dtype, name='conv')(x_BFHWC)
    x = jnp.moveaxis(x.reshape(b, f, h, w, self.stride, c), 4, 2)
    return x.reshape(b, f * self.stride, h, w, c)


def _blocks(x, carry, last, num_blocks, dtype, first_layer):
  """Runs a stage's MemBlocks; appends the last frame each has read to `last`."""
  for i in range(num_blocks):
    previous = None if carry is None else carry[len(last)]
    last.append(x[:, -1])
    x = MemBlock(dtype, name=f'layer_{first_layer + i}')(x, previous)
  return x


def _upsample(x_BFHWC):
  return x_BFHWC.repeat(2, axis=2).repeat(2, axis=3)


def _space_to_channels(x_BFHWC, patch):
  """Torch's pixel_unshuffle: channel index c * patch**2 + row * patch + column."""
  b, f, h, w, c = x_BFHWC.shape
  x = x_BFHWC.reshape(b, f, h // patch, patch, w // patch, patch, c)
  x = x.transpose(0, 1, 2, 4, 6, 3, 5)
  return x.reshape(b, f, h // patch, w // patch, c * patch**2)


def _channels_to_space(x_BFHWC, patch):
  """Torch's pixel_shuffle, the inverse of `_space_to_channels`."""
  b, f, h, w, c = x_BFHWC.shape
  x = x_BFHWC.reshape(b, f, h, w, c // patch**2, patch, patch)
  x = x.transpose(0, 1, 2, 5, 3, 6, 4)
  return x.reshape(b, f, h * patch, w * patch, c // patch**2)


def to_uint8(video):
  """[0, 1] floats to bytes, on the device: a quarter of the transfer."""
  return jnp.round(jnp.clip(video, 0, 1) * 255).astype(jnp.uint8)


def to_float(video):
  """Bytes to floats in [0, 1]; floats pass."""
  if video.dtype == jnp.uint8:
    return video.astype(jnp.float32) / 255
  return video


def psnr_db(video_BPHWC, target_BPHWC):
  """Peak signal-to-noise ratio in dB, averaged over frames."""
  error = jnp.square(video_BPHWC - target_BPHWC).mean(axis=(-3, -2, -1))
  return jnp.mean(-10 * jnp.log10(jnp.maximum(error, 1e-10)))


def reconstruction_loss(
    vae: TinyVAE, *, power: float = 1., edge_weight: float = 0.,
    latent_noise: float = 0.) -> Callable:
  """Builds loss(params, batch, rng) -> (loss, metrics); batch['video'] is pixels.

  mean |e|^power + edge_weight mean |∇e|^power,                              (2)

  e the error and ∇ the differences of neighbouring rows and columns: the second
  term keeps edges sharp.

  Args:
    vae: the module. `params` is its collection of that name, so latents are not
      normalised while they are trained.
    power: 1 favours the median (sharper), 2 the mean (higher PSNR).
    edge_weight: of the second term.
    latent_noise: of noise added to the latents, in units of their standard
      deviation, so that decoding forgives a diffusion model's small errors.
  """
  def loss(params, batch, rng):
    video_BPHWC = to_float(batch['video'])
    variables = {'params': params}
    z, _ = vae.apply(variables, video_BPHWC, method='encode')
    if latent_noise:
      std_C = jax.lax.stop_gradient(z.std(axis=(0, 1, 2, 3)))
      z += latent_noise * std_C * _draw(
          jax.random.normal, rng, z.shape, z.dtype)
    out_BPHWC, _ = vae.apply(variables, z, clip=False, method='decode')
    error_BPHWC = out_BPHWC - video_BPHWC
    total = _mean_power(error_BPHWC, power)
    if edge_weight:
      total += edge_weight * sum(
          _mean_power(jnp.diff(error_BPHWC, axis=axis), power)
          for axis in (2, 3))
    psnr = psnr_db(jnp.clip(out_BPHWC, 0, 1), video_BPHWC)
    return total, {'loss': total, 'psnr_db': psnr, 'latent_std': z.std()}

  return loss


def measure_latent_stats(
    vae: TinyVAE, params: Any, videos: Iterable[jax.Array]) -> dict:
  """The collection 'latent_stats': per-channel mean and std of z over videos."""
  @jax.jit
  def moments(video):
    z, _ = vae.apply({'params': params}, to_float(video), method='encode')
    return jnp.stack([z.mean((0, 1, 2, 3)), jnp.square(z).mean((0, 1, 2, 3))])

  mean, square = jnp.mean(jnp.stack([moments(v) for v in videos]), axis=0)
  # A dead channel must not divide by zero; it stays constant.
  return {'mean': mean, 'std': jnp.sqrt(jnp.maximum(square - mean**2, 1e-8))}


def _mean_power(x, power):
  return jnp.mean(jnp.abs(x)**power)

"""TAEHV: a video autoencoder small enough to run inside a stream's budget.

The architecture of madebyollin/taehv (`taew2_1` at the defaults) at any width:
3x3 convolutions on single frames. Frames meet only in the MemBlocks, each of
which reads the previous frame's feature, zeros before the first,

  x_t ← relu(x_t + conv(relu(conv(relu(conv([x_t, x_{t-1}]))))))           (1)

and in the time strides: the encoder merges s frames into one by a 1x1
convolution of their channels, the decoder splits one into s. A MemBlock's
memory is its own *input*, so a whole video runs with time folded into the batch
and a stream carries one feature per MemBlock; both give the same numbers.

With total time stride s, F latents stand for P = 1 + s (F - 1) pixel frames:
the decoder makes s F frames and drops the first s - 1. What the encoder does
about the missing s - 1 frames is `pad`:

  'start'  repeats the first frame in front of the video. Latent f (from 0) then
           covers frames s(f-1)+1 .. s f, the ones that it decodes to: causal.
  'end'    repeats the last frame behind it, as upstream does. Latent f covers
           s f .. s f + s - 1, so it sees up to s - 1 frames into its future.

Upstream upsamples before the decoder's 1x1 convolution, we do it after: copying
pixels commutes with a 1x1 convolution, which then is a quarter of the work.

Parameter names follow upstream's `nn.Sequential` indices:

  encoder.4.conv.2.weight  is  encoder/layer_4/conv_2/kernel  (OIHW -> HWIO)
  decoder.7.conv.weight    is  decoder/layer_7/kernel
  encoder.0.bias           is  encoder/layer_0/bias

(MemBlocks never change the width: upstream's optional `skip` does not occur.)

`shortcut` adds to either half a linear map between a latent and its own pixels,
past all convolutions, the last of which then start at zero. `fit_shortcut`
makes it the best linear codec, principal components: two CPU cores find that in
seconds, and the convolutions alone do not come near it in minutes.

P pixel frames, F latent frames, S stages, each of which halves height and
width. Pixels are in [0, 1]. Latents are (z - mean) / std with the per-channel
statistics of the collection 'latent_stats'; without it, or before it is
measured, they are the encoder's own output z.
"""

from collections.abc import Callable, Iterable
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import noise
from worldsim_jax.models import pixels

# One previous frame [B, h, w, C] per MemBlock, in order of depth.
Carry = tuple[jax.Array, ...]


def _kernel_init(rng, shape, dtype=jnp.float32):
  """He's uniform distribution."""
  limit = math.sqrt(6 / math.prod(shape[:-1]))
  return noise.draw(jax.random.uniform, rng, shape, dtype,
                    minval=-limit, maxval=limit)


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
    shortcut: the linear path; not in any published weights.
    dtype: of the computation; parameters are float32.
  """
  latent_channels: int = 16
  encoder_widths: tuple[int, ...] = (64, 64, 64)
  decoder_widths: tuple[int, ...] = (256, 128, 64, 64)
  blocks_per_stage: int = 3
  time_strides: tuple[int, ...] = (2, 2, 1)
  patch: int = 1
  pad: str = 'start'
  shortcut: bool = False
  dtype: Any = jnp.float32

  chunk = None  # Long videos go through whole, see `tiling`.

  @property
  def time_stride(self) -> int:
    return math.prod(self.time_strides)

  @property
  def space_stride(self) -> int:
    return self.patch * 2**len(self.encoder_widths)

  def setup(self):
    self._check_config()
    common = self.blocks_per_stage, self.shortcut, self.dtype
    self.encoder = Encoder(
        self.latent_channels, self.encoder_widths, self.time_strides, *common)
    self.decoder = Decoder(
        3 * self.patch**2, self.decoder_widths, self.time_strides[::-1],
        *common)
    self.latent_mean, self.latent_std = 0., 1.
    if (self.is_mutable_collection('latent_stats')
        or self.has_variable('latent_stats', 'mean')):
      stat = functools.partial(self.variable, 'latent_stats')
      shape = (self.latent_channels,)
      self.latent_mean = stat('mean', jnp.zeros, shape).value
      self.latent_std = stat('std', jnp.ones, shape).value

  def __call__(self, video_BPHWC):
    """The reconstruction, unclipped, as a loss needs it."""
    return self.decode(self.encode(video_BPHWC)[0], clip=False)[0]

  def encode(self, video_BPHWC, carry: Carry | None = None):
    """Returns (latents [B, F, h, w, C], carry).

    Without a carry a video starts, P = 1 + s (F - 1); later P = s F. pad='end'
    takes any P; all but the last chunk should then have P = s F.
    """
    self._check_video(video_BPHWC.shape, is_start=carry is None)
    x = _to_patches(self.pad_time(video_BPHWC), 1, self.patch)
    z, carry = self.encoder(x, carry)
    return (z - self.latent_mean) / self.latent_std, carry

  def decode(self, latents_BFHWC, carry: Carry | None = None,
             clip: bool = True):
    """Returns (video [B, P, H, W, 3], carry).

    Without a carry a video starts, and its first s - 1 frames are dropped:
    P = 1 + s (F - 1); later P = s F. `clip` is to [0, 1].
    """
    if latents_BFHWC.shape[-1] != self.latent_channels:
      raise ValueError(
          f'Latents have {latents_BFHWC.shape[-1]} channels, '
          f'latent_channels={self.latent_channels} (config.vae).')
    z = latents_BFHWC * self.latent_std + self.latent_mean
    first = self.time_stride - 1 if carry is None else 0
    x, carry = self.decoder(z, carry)
    x = _from_patches(x[:, first:], 1, self.patch)
    return (jnp.clip(x, 0, 1) if clip else x), carry

  def pad_time(self, x_BPHWC):
    """Repeats a frame at one end until s divides P."""
    missing = -x_BPHWC.shape[1] % self.time_stride
    missing = (missing, 0) if self.pad == 'start' else (0, missing)
    return jnp.pad(
        x_BPHWC, ((0, 0), missing, (0, 0), (0, 0), (0, 0)), mode='edge')

  def _check_video(self, shape, is_start):
    _, frames, height, width, _ = shape
    s, space = self.time_stride, self.space_stride
    if height % space or width % space:
      raise ValueError(
          f'Frames of {height}x{width} pixels: both must be multiples of '
          f'{space} (config.data.height, config.data.width; config.vae).')
    if (frames - is_start) % s and self.pad == 'start':
      need = f'1 + {s} n at the start' if is_start else f'{s} n later on'
      raise ValueError(
          f'{frames} frames, but time_strides={self.time_strides} need {need} '
          '(config.data.frames, config.vae.time_strides).')

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
  time_strides: tuple[int, ...]
  blocks_per_stage: int
  shortcut: bool
  dtype: Any

  @nn.compact
  def __call__(self, x, carry):
    last, n, pixels = [], self.blocks_per_stage, x
    x = nn.relu(_conv3(self.widths[0], dtype=self.dtype, name='layer_0')(x))
    for stage, (width, stride) in enumerate(zip(
        self.widths, self.time_strides, strict=True)):
      k = 2 + stage * (2 + n)  # Upstream's index of the stage's first layer.
      x = _conv1(x.shape[-1], dtype=self.dtype, name=f'layer_{k}')(
          _to_patches(x, stride, 1))
      x = _conv3(width, strides=2, use_bias=False, dtype=self.dtype,
                 name=f'layer_{k + 1}')(x)
      x = _blocks(x, carry, last, n, self.dtype, first_layer=k + 2)
    k = 2 + len(self.widths) * (2 + n)
    z = _last_conv(self.latent_channels, self.shortcut, self.dtype, k)(x)
    if self.shortcut:
      patches = _to_patches(
          pixels, math.prod(self.time_strides), 2**len(self.widths))
      z += nn.Dense(
          self.latent_channels, dtype=self.dtype, name='shortcut')(patches)
    return z, tuple(last)


class Decoder(nn.Module):
  """z [B, F, h, w, C] -> [B, s F, H, W, out_channels], without trimming."""
  out_channels: int
  widths: tuple[int, ...]
  time_strides: tuple[int, ...]
  blocks_per_stage: int
  shortcut: bool
  dtype: Any

  @nn.compact
  def __call__(self, z, carry):
    last, n = [], self.blocks_per_stage
    # The clamp keeps a diffusion model's outliers from becoming bright spots.
    z = jnp.tanh(z / 3) * 3
    x = nn.relu(_conv3(self.widths[0], dtype=self.dtype, name='layer_1')(z))
    for stage, (width, stride) in enumerate(zip(
        self.widths[1:], self.time_strides, strict=True)):
      k = 3 + stage * (3 + n)
      x = _blocks(x, carry, last, n, self.dtype, first_layer=k)
      x = _conv1(x.shape[-1] * stride, dtype=self.dtype,
                 name=f'layer_{k + n + 1}')(x)
      x = _from_patches(x, stride, 1).repeat(2, axis=2).repeat(2, axis=3)
      x = _conv3(width, use_bias=False, dtype=self.dtype,
                 name=f'layer_{k + n + 2}')(x)
    k = 4 + len(self.time_strides) * (3 + n)
    x = _last_conv(self.out_channels, self.shortcut, self.dtype, k)(nn.relu(x))
    if self.shortcut:
      time, space = math.prod(self.time_strides), 2**len(self.time_strides)
      patches = nn.Dense(time * self.out_channels * space**2,
                         dtype=self.dtype, name='shortcut')(z)
      x += _from_patches(patches, time, space)
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


def _blocks(x, carry, last, num_blocks, dtype, first_layer):
  """Runs a stage's MemBlocks; appends each one's last input frame to `last`."""
  for i in range(num_blocks):
    previous = None if carry is None else carry[len(last)]
    last.append(x[:, -1])
    x = MemBlock(dtype, name=f'layer_{first_layer + i}')(x, previous)
  return x


def _last_conv(width, is_zero, dtype, layer):
  init = nn.initializers.zeros if is_zero else _kernel_init
  return _conv3(width, kernel_init=init, dtype=dtype, name=f'layer_{layer}')


def _to_patches(x_BFHWC, time, space):
  """[B, F, H, W, C] -> [B, F / time, H / space, W / space, time C space**2].

  Channels are (frame, c, row, column), the order of torch's pixel_unshuffle.
  """
  b, f, h, w, c = x_BFHWC.shape
  f, h, w = f // time, h // space, w // space
  x = x_BFHWC.reshape(b, f, time, h, space, w, space, c)
  return x.transpose(0, 1, 3, 5, 2, 7, 4, 6).reshape(b, f, h, w, -1)


def _from_patches(x_BFHWC, time, space):
  """The inverse of `_to_patches`."""
  b, f, h, w, _ = x_BFHWC.shape
  x = x_BFHWC.reshape(b, f, h, w, time, -1, space, space)
  return x.transpose(0, 1, 4, 2, 6, 3, 7, 5).reshape(
      b, f * time, h * space, w * space, -1)


def psnr_db(video_BPHWC, target_BPHWC):
  """Peak signal-to-noise ratio in dB, averaged over frames."""
  error = jnp.square(video_BPHWC - target_BPHWC).mean(axis=(-3, -2, -1))
  return jnp.mean(-10 * jnp.log10(jnp.maximum(error, 1e-10)))


def reconstruction_loss(
    vae: TinyVAE, *, power: float = 1., edge_weight: float = 0.,
    latent_noise: float = 0.) -> Callable:
  """Builds loss(params, batch, rng) -> (loss, metrics) of batch['video'].

  mean |e|^power + edge_weight mean |∇e|^power                             (2)

  with the error e and ∇ the differences of neighbouring rows and columns.
  `params` is the collection of that name: latents are not normalised in
  training. `latent_noise`, in units of their standard deviation, is added to
  them, so that decoding forgives a diffusion model's small errors.
  """
  def loss(params, batch, rng):
    video_BPHWC, variables = pixels.to_float(batch['video']), {'params': params}
    z, _ = vae.apply(variables, video_BPHWC, method='encode')
    if latent_noise:
      std = jax.lax.stop_gradient(z.std())
      z += latent_noise * std * noise.normal(rng, z.shape, z.dtype)
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
  """The collection 'latent_stats': mean and std of z over videos, [C] each.

  A fitted shortcut's channels share one std, to keep their proportions.
  """
  @jax.jit
  def moments(video):
    z, _ = vae.apply(
        {'params': params}, pixels.to_float(video), method='encode')
    return jnp.stack([z.mean((0, 1, 2, 3)), jnp.square(z).mean((0, 1, 2, 3))])

  mean, square = jnp.mean(jnp.stack([moments(v) for v in videos]), axis=0)
  # A dead channel must not divide by zero; it stays constant.
  variance = jnp.maximum(square - mean**2, 1e-8)
  if vae.shortcut:
    variance = jnp.full_like(variance, variance.mean())
  return {'mean': mean, 'std': jnp.sqrt(variance)}


def fit_shortcut(vae: TinyVAE, params: Any, videos: Iterable[jax.Array]):
  """Returns `params` whose shortcut is the best linear codec of `videos`.

  That is the first principal components of their patches. One scale for all
  keeps them in proportion (to a diffusion model, size is importance); the
  largest gets a standard deviation of 0.3, where the clamp is nearly linear.
  """
  if not vae.shortcut:
    raise ValueError('There is no shortcut to fit (config.vae.shortcut).')

  def patches(video):
    x = vae.pad_time(pixels.to_float(jnp.asarray(video)))
    x = _to_patches(x, 1, vae.patch)
    return _to_patches(x, vae.time_stride, vae.space_stride // vae.patch)

  patches_NC = np.concatenate([
      np.asarray(x).reshape(-1, x.shape[-1]) for x in map(patches, videos)])
  mean_C = patches_NC.mean(axis=0)
  variance, basis_CK = np.linalg.eigh(np.cov(patches_NC - mean_C, rowvar=False))
  k = vae.latent_channels  # eigh sorts upwards: the last are the largest.
  basis_CK = basis_CK[:, -k:]
  scale = .3 / np.sqrt(max(variance[-1], 1e-8))
  encoder = {'kernel': basis_CK * scale, 'bias': -mean_C @ basis_CK * scale}
  decoder = {'kernel': basis_CK.T / scale, 'bias': mean_C}
  return params | {
      half: params[half] | {'shortcut': jax.tree.map(jnp.float32, linear)}
      for half, linear in (('encoder', encoder), ('decoder', decoder))}


def _mean_power(x, power):
  return jnp.mean(jnp.abs(x)**power)

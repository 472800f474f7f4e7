"""The recurrent denoiser of Diffusion Forcing: a latent state and no window.

Chen et al. 2024 (arXiv 2407.01392, Sec. 3.2 and Alg. 1; branch `paper` of
buoyancy99/diffusion-forcing, models/unet.py, gru.py, diffusion_transition.py):
a latent z_t sums up the frames so far, each at the noise level at which it was
seen, and the denoised frame is read out of it,

  e_t = Encoder(x_t, c_t),       c_t = MLP(sinusoid(k_t)) + a_t + text,  (1)
  u_t = Block(e_t + Conv(z_t-1), c_t),                                   (2)
  r, s, n = Conv(u_t),    r', s', n' = Conv(z_t-1),
  g = σ(s + s'),    z_t = g z_t-1 + (1 - g) tanh(n + σ(r + r') n'),      (3)
  v_t = Head(Decoder(z_t, c_t)).                                         (4)

In training every frame is noisy, each as much as it happens to be, so z knows
any mixture of clear and vague memories: (1 - k) is how much an observation is
to be trusted. In a rollout all passes over a frame begin at z_t-1, and the
last one, over the frame that was made, gives z_t (forcing/rollout.py). |z| is
at most 1, or what z_0 is: it cannot run away in however many frames, and one
frame costs as much as another.

Where ours departs from the published network, and why:

  - there the U-Net is in the loop, from (z_t-1, x_t) to u_t; here a block is.
    The encoder before and the decoder behind read a frame each, so that all
    frames of a clip go through them at once; only (2) and (3) are one after the
    other. Latents are small already: blocks have one resolution, no attention.
  - actions join k_t in a scale and a shift (FiLM) of every block. What they do
    to a picture, W_i p a_i to first order (models/transformer.py, eq. 1), is
    such a product: `steered` has no counterpart here.
  - upstream stacks 4 or 8 frames to one step; latents of video are stacked.
  - z_0 is learned, as there, but has a vector instead of an image of vectors,
    for frames of any size.
  - upstream's z_t comes from the last denoising pass, at level 9 of 1000; here
    from one more, at Sampling.context_sigma.

The image stream, if there is one, is read beside x_t; the residual
parameterization is that of the transformer (diffusion/residual.py).
"""

import functools
from typing import NamedTuple

import chex
import flax.struct
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import residual
from worldsim_jax.models import blocks
from worldsim_jax.models import patches
from worldsim_jax.models import transformer
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.parallel import layout

REMATS = ('none', 'full')  # Keep all of a block, or its inputs alone.


class States(NamedTuple):
  """The states after some frames: z float32 [B, F, H, W, D]."""
  z: jax.Array


@flax.struct.dataclass
class RecurrentState:
  """What is known of the past; takes the place of a KVCache.

  Attributes:
    z: float32 [B, H, W, D]; of no meaning before the first frame.
    length: int32 [], frames since the start of the video.
  """
  z: jax.Array
  length: jax.Array

  @property
  def batch(self) -> int:
    return len(self.z)

  def holds(self, num_frames: int) -> bool:
    """As KVCache.holds: earlier frames cannot be told apart any more."""
    del num_frames
    return False

  def takes(self, num_frames: int) -> bool:
    """As KVCache.takes: the state goes from frame to frame anyway."""
    del num_frames
    return True

  def append(self, new: States) -> 'RecurrentState':
    """Returns the state after F more frames."""
    return RecurrentState(
        new.z[:, -1].astype(self.z.dtype), self.length + new.z.shape[1])


def empty(*, batch: int, height: int, width: int, dim: int) -> RecurrentState:
  """The state before the first frame; the model has its own z_0 for it."""
  return RecurrentState(
      jnp.zeros((batch, height, width, dim)), jnp.zeros((), jnp.int32))


class RecurrentDenoiser(nn.Module):
  """Velocity of noisy video latents, each given those before it.

  Attributes:
    dim: width D, of the state, too.
    num_layers: blocks of the encoder, and as many of the decoder.
    latent_channels: channels of the latents, in and out.
    freq_dim: size of the sinusoidal time embedding.
    text_dim: channels of the text embeddings, whose mean is read; 0 without.
    action_dim: components of the actions of a latent frame; 0 without.
    image: whether the model has the image stream.
    coordinates: whether each latent pixel is told its place.
    parameterization, residual_std: as of the transformer.
    dtype: of the convolutions ('float32', 'bfloat16'); the state is float32.
    remat: of REMATS.
  """
  dim: int
  num_layers: int = 2
  latent_channels: int = 16
  freq_dim: int = 256
  text_dim: int = 0
  action_dim: int = 0
  image: bool = False
  coordinates: bool = False
  parameterization: str = 'velocity'
  residual_std: float = 0.7
  dtype: str = 'float32'
  remat: str = 'none'

  @nn.compact
  def __call__(self, x_BFHWC, timesteps_BF, conditioning=None, context=None,
               cache=None):
    """Predicts the velocity ε - x0 of every frame.

    Args:
      x_BFHWC: noisy latents; F counts the frames of this call only.
      timesteps_BF: 1000 σ per frame, in [0, 1000]; 0 marks clean frames.
      conditioning: a `Conditioning`, or None.
      context: an `AttentionContext`, or None. It changes nothing: a frame reads
        the frames before it and none behind, also of its own chunk.
      cache: a `RecurrentState` of the frames before this call, or None.

    Returns:
      The velocity [B, F, H, W, C], float32. With a cache: (velocity, States of
      this call's frames), for `cache.append`; the cache is not changed.

    Raises:
      ValueError: for a context that hides earlier frames from later ones.
    """
    chex.assert_rank([x_BFHWC, timesteps_BF], [5, 2])
    chex.assert_equal_shape_prefix([x_BFHWC, timesteps_BF], 2)
    self._check()
    _check_context(context, x_BFHWC.shape[1])
    given = (conditioning or Conditioning()).completed(
        x_BFHWC, text_dim=self.text_dim, action_dim=self.action_dim,
        image=self.image)
    residual_args = (given.known_image(), timesteps_BF / flow.NUM_TIMESTEPS,
                     self.residual_std)
    is_residual = self.parameterization == 'residual'
    seen = (residual.network_input(x_BFHWC, *residual_args) if is_residual
            else x_BFHWC)

    told_BFD = self._told(timesteps_BF, given)
    parts = dict(dim=self.dim, dtype=jnp.dtype(self.dtype))
    wrap = nn.remat if self.remat == 'full' else lambda module: module
    e_BFHWD = wrap(Encoder)(**parts, num_layers=self.num_layers,
                            name='encoder')(self._channels(seen, given),
                                            told_BFD)
    steps = nn.scan(wrap(Transition), variable_broadcast='params',
                    split_rngs={'params': False}, in_axes=1, out_axes=1)
    _, z_BFHWD = steps(**parts, name='transition')(
        self._first_state(e_BFHWD, cache), (e_BFHWD, told_BFD))
    h = wrap(Decoder)(**parts, num_layers=self.num_layers, name='decoder')(
        z_BFHWD, told_BFD)
    out = nn.Dense(
        self.latent_channels, kernel_init=nn.initializers.zeros, name='head')(
            h.astype(jnp.float32))
    velocity = (residual.velocity(out, x_BFHWC, *residual_args) if is_residual
                else out)
    return velocity if cache is None else (velocity, States(z_BFHWD))

  def _check(self):
    for name, allowed in (('remat', REMATS),
                          ('parameterization', transformer.PARAMETERIZATIONS)):
      value = getattr(self, name)
      if value not in allowed:
        raise ValueError(
            f'{name}={value!r} is not one of {allowed} (config.model.{name}).')
    if self.parameterization == 'residual' and not self.image:
      raise ValueError("parameterization='residual' corrects an image: it "
                       'needs config.model.image=True.')

  def _told(self, timesteps_BF, given):
    """c of eq. (1), [B, F, D]."""
    dense = functools.partial(nn.Dense, self.dim)
    told = dense(name='time_embedding')(
        transformer.sinusoid(timesteps_BF, self.freq_dim))
    if self.action_dim:
      chex.assert_axis_dimension(given.actions, 2, self.action_dim)
      told += dense(name='action_embedding')(jnp.concatenate(
          [given.known_actions(), given.actions_mask[..., None]], axis=-1))
    if self.text_dim:  # Padding, and text that is unknown, is zero.
      is_token = jnp.any(given.text != 0, axis=-1, keepdims=True)
      mean_BK = jnp.sum(given.text, axis=1) / jnp.maximum(
          jnp.sum(is_token, axis=1), 1)
      told += dense(name='text_embedding')(mean_BK)[:, None]
    return nn.silu(dense(name='told_embedding')(nn.silu(told)))

  def _channels(self, seen_BFHWC, given):
    """What is read of a frame, side by side."""
    channels = [seen_BFHWC]
    if self.image:
      mask = given.image_mask[:, :, None, None, None]
      channels += [given.known_image(),
                   jnp.broadcast_to(mask, (*seen_BFHWC.shape[:-1], 1))]
    if self.coordinates:
      channels += patches.coordinates(seen_BFHWC)
    return jnp.concatenate(channels, axis=-1)

  def _first_state(self, e_BFHWD, cache):
    z_0 = self.param('z_0', nn.initializers.zeros, (self.dim,))
    z_0 = jnp.broadcast_to(z_0, e_BFHWD[:, 0].shape).astype(jnp.float32)
    if cache is None:
      return z_0
    return jnp.where(cache.length == 0, z_0, cache.z)


class Block(nn.Module):
  """x + Conv(silu(FiLM(Conv(silu(LN x))))), FiLM by what the frame is told."""
  dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, told):
    shift, scale = _film(self.dim, told, 'film')
    hidden = _conv(self.dim, self.dtype, 'conv_0')(
        nn.silu(blocks.layer_norm()(x)))
    hidden = nn.silu(blocks.modulated_norm(hidden, shift, scale))
    return x + _conv(
        self.dim, self.dtype, 'conv_1', nn.initializers.zeros)(hidden)


class Encoder(nn.Module):
  """e of eq. (1), of each frame by itself."""
  dim: int
  dtype: jnp.dtype
  num_layers: int

  @nn.compact
  def __call__(self, x, told):
    x = _conv(self.dim, self.dtype, 'conv')(x)
    for i in range(self.num_layers):
      x = Block(self.dim, self.dtype, name=f'block_{i}')(x, told)
    return x


class Decoder(nn.Module):
  """The features of eq. (4), of each state by itself."""
  dim: int
  dtype: jnp.dtype
  num_layers: int

  @nn.compact
  def __call__(self, z, told):
    x = _conv(self.dim, self.dtype, 'conv')(z)
    for i in range(self.num_layers):
      x = Block(self.dim, self.dtype, name=f'block_{i}')(x, told)
    return nn.silu(blocks.modulated_norm(x, *_film(self.dim, told, 'film')))


class Transition(nn.Module):
  """Eqs. (2) and (3): one frame; maps carry to (carry, output)."""
  dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, z_BHWD, inputs):
    e_BHWD, told_BD = inputs
    conv = functools.partial(_conv, dtype=self.dtype)
    u = Block(self.dim, self.dtype, name='block')(
        e_BHWD + conv(self.dim, name='past')(z_BHWD), told_BD)
    of_input = conv(3 * self.dim, name='gates_input')(u).astype(jnp.float32)
    of_state = conv(3 * self.dim, name='gates_state')(z_BHWD).astype(
        jnp.float32)
    reset, keep, new = jnp.split(of_input, 3, axis=-1)
    past_reset, past_keep, past_new = jnp.split(of_state, 3, axis=-1)
    gate = nn.sigmoid(keep + past_keep)
    new = nn.tanh(new + nn.sigmoid(reset + past_reset) * past_new)
    z_BHWD = gate * z_BHWD + (1 - gate) * new
    return z_BHWD, z_BHWD


def _film(dim: int, told, name: str):
  """Shift and scale that broadcast over latent pixels; 0 at initialisation."""
  vectors = nn.Dense(2 * dim, kernel_init=nn.initializers.zeros, name=name)(
      told)
  return jnp.split(vectors[..., None, None, :], 2, axis=-1)


def _conv(features: int, dtype, name: str,
          kernel_init=nn.initializers.lecun_normal()):
  return nn.Conv(features, (3, 3), dtype=dtype, kernel_init=kernel_init,
                 name=name, conv_general_dilated=convolve)


def convolve(x_NHWC, kernel, *args, **kwargs):
  """jax.lax.conv_general_dilated, for kernels of 3x3 and no strides.

  XLA's convolutions are slow on a CPU within a loop: on two busy cores, a
  gradient of 8 clips of 8 frames of 12x16 latent pixels and 64 channels took
  3.9 to 5.1 s, and with products 0.7 to 0.8 s.
  """
  if layout.platform() != 'cpu':
    return jax.lax.conv_general_dilated(x_NHWC, kernel, *args, **kwargs)
  height, width = x_NHWC.shape[1:3]
  padded = jnp.pad(x_NHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
  shifted = [padded[:, i:i + height, j:j + width]
             for i in range(3) for j in range(3)]
  return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(
      -1, kernel.shape[-1])


def _check_context(context, num_frames: int):
  """That no earlier frame is to be hidden: a state cannot be unread."""
  if context is None or context.mask is None:
    return
  mask = np.array(context.mask)
  if mask.shape != (num_frames, num_frames) or not mask[
      np.tril_indices(num_frames)].all():
    raise ValueError(
        'a recurrent model reads all frames before a frame, and cannot be '
        'trained to skip some (teacher forcing, windows): use '
        "paradigm='diffusion_forcing' (config.model.kind='recurrent').")

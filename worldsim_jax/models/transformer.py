"""The Wan 2.1 diffusion transformer at any size.

Teacher, student and critic are this one module; what differs is data: an
`AttentionContext`, a `KVCache`, a `Conditioning`. With per-frame timesteps
[B, F] each frame has its own modulation, with [B, F, N] each token:

  e   = MLP(sinusoid(t))              e0 = Dense(SiLU(e)), six vectors of size C
  x  += g1 · SelfAttention(LN(x) (1 + s1) + b1)
  x  += CrossAttention(LN_affine(x), text)                 (models with text)
  x  += g2 · FFN(LN(x) (1 + s2) + b2)
  v   = Dense(LN(x) (1 + s) + b)                           (head, from e)

(Wan Team 2025, arXiv 2503.20314, Sec. 4.2; the numbers are from the released
code.) Its image-to-video models read two streams more, `concatenated` channels
and `clip` tokens. The other streams are ours; each ends in a zero-initialised
layer, so a pretrained model is unchanged until they are trained:

  actions  MLP, added to e per frame
  image    latents of the frame to continue from, patchified, added to tokens

What an action does to a picture is, to first order, linear in both: a shift by
δ is p + δ · ∂p. A small model is spared learning this product if the embedding
of a patch p is `steered` by the actions a,

  W p + Σ_i a_i W_i p.                                                   (1)

With `parameterization='residual'` the network reads and corrects the difference
to that image, see diffusion/residual.py: what a small model needs, which would
otherwise spend its training on learning to copy.
"""

import functools

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import context as contexts
from worldsim_jax.attention import kv_cache
from worldsim_jax.attention import rope
from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import residual
from worldsim_jax.models import blocks
from worldsim_jax.models import patches
from worldsim_jax.models import remat
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.parallel import layout

PARAMETERIZATIONS = ('velocity', 'residual')
# With dtype='bfloat16', what is float32 nevertheless. 'mixed': time embedding,
# modulation, norms (diffusers). 'wan': also the tokens between the parts of a
# layer, and the head (Wan's own autocast). 'pure': nothing (Self Forcing).
POLICIES = ('mixed', 'wan', 'pure')
XAVIER = nn.initializers.xavier_uniform()


class VideoTransformer(nn.Module):
  """Velocity of noisy video latents.

  Attributes:
    dim: width C; a multiple of num_heads.
    ffn_dim: hidden width of the feed-forward layers.
    num_heads, num_layers: as named.
    latent_channels: channels of the latents, in and out.
    patch: (height, width) of a token in latent pixels; (2, 2) for Wan.
    freq_dim: size of the sinusoidal time embedding.
    text_dim: channels of the text embeddings; 0 for a model without text.
    concatenated_channels: of Conditioning.concatenated; 0 without, 20 for
      Wan's image-to-video models.
    clip_dim: channels of Conditioning.clip; 0 without, 1280 for Wan 2.1's.
    clip_positions: see blocks.ImageEmbedding.
    action_dim: components of the actions of a latent frame; 0 without.
    image: whether the model has the image stream.
    image_halo: latent pixels around its patch that a token sees of the image;
      what moves into a patch comes from there.
    coordinates: whether the image stream tells each token its place. Rotary
      positions tell distances only, but what walking forward does to a pixel
      depends on where it is.
    steered: whether the embedding of the image is linear in the actions, too.
    compass: the picture's horizontal field of view in degrees, with which
      attention knows which tokens look the same way (rope.directions,
      Conditioning.heading); 0 without.
    parameterization: 'velocity' or 'residual' (needs the image stream).
    residual_std: 'residual' only: standard deviation of frame - image.
    gate_init: mean of the residual gates at initialisation. Wan's is 0, which
      takes thousands of steps to open; 1 suits short trainings.
    dtype: of the matrix products and attention ('float32', 'bfloat16').
    policy: of POLICIES; all are the same where dtype is 'float32'.
    remat: a key of remat.POLICIES.
    unroll: layers per iteration of the scan; more compiles longer, runs faster.
    attention: implementation, see attention/attend.py.
  """
  dim: int
  ffn_dim: int
  num_heads: int
  num_layers: int
  latent_channels: int = 16
  patch: tuple[int, int] = (2, 2)
  freq_dim: int = 256
  text_dim: int = 0
  concatenated_channels: int = 0
  clip_dim: int = 0
  clip_positions: int = 0
  action_dim: int = 0
  image: bool = False
  image_halo: int = 0
  coordinates: bool = False
  steered: bool = False
  compass: float = 0.
  parameterization: str = 'velocity'
  residual_std: float = 0.7
  gate_init: float = 0.
  dtype: str = 'float32'
  policy: str = 'mixed'
  remat: str = 'none'
  unroll: int = 1
  attention: str = 'auto'

  @nn.compact
  def __call__(self, x_BFHWC, timesteps_BF, conditioning=None, context=None,
               cache=None, read_after: tuple[int, ...] = ()):
    """Predicts the velocity ε - x0 of every frame.

    Args:
      x_BFHWC: noisy latents; F counts the frames of this call only.
      timesteps_BF: 1000 σ per frame, in [0, 1000]; 0 marks clean frames. Or
        [B, F, N], per token.
      conditioning: a `Conditioning`, or None.
      context: an `AttentionContext`; default: every frame of the call reads
        every other. With a cache, positions continue it and all of it is read,
        unless the context's mask speaks of the cached frames, too.
      cache: a `KVCache` of the frames before this call, or None.
      read_after: layers, from 0, whose outputs are returned; with any, those
        of all layers are kept until the last has run.

    Returns:
      The velocity [B, F, H, W, C], float32. With a cache: (velocity, KeyValues
      of this call's frames), for `cache.append`; the cache is not changed. With
      read_after, at the end: a list of tokens [B, F, N, C].
    """
    chex.assert_rank(x_BFHWC, 5)
    chex.assert_equal_shape_prefix([x_BFHWC, timesteps_BF], 2)
    self._check()
    conditioning = self._complete(conditioning or Conditioning(), x_BFHWC)
    _, frames, height, width, _ = x_BFHWC.shape
    grid = (height // self.patch[0], width // self.patch[1])
    dtype = jnp.dtype(self.dtype)

    residual_args = (conditioning.known_image(),
                     timesteps_BF / flow.NUM_TIMESTEPS, self.residual_std)
    is_residual = self.parameterization == 'residual'
    chex.assert_rank(timesteps_BF, 2 if is_residual else {2, 3})
    seen = (residual.network_input(x_BFHWC, *residual_args) if is_residual
            else x_BFHWC)
    if self.concatenated_channels:
      seen = jnp.concatenate([seen, conditioning.concatenated], axis=-1)
    tokens = self._dense(self.dim, 'patch_embedding')(
        patches.patchify(seen, self.patch).astype(dtype))
    tokens += self._image_tokens(conditioning)
    tokens = layout.constrain_tokens(tokens.astype(
        jnp.float32 if self.policy == 'wan' else dtype))
    e, modulation = self._time(timesteps_BF, conditioning)
    is_static = context is not None and (
        cache is None or _speaks_of(context, cache))
    layers = self._layers(
        static_mask=context.mask if is_static else None,
        return_kv=cache is not None, return_tokens=bool(read_after),
        recall=cache and cache.recall, grid=grid)
    tokens, (kv, read_LBFNC) = layers(tokens, *self._inputs(
        modulation, conditioning, frames, grid, context, cache))
    out = patches.unpatchify(
        self._head(tokens, e).astype(jnp.float32), grid, self.patch)
    if is_residual:
      out = residual.velocity(out, x_BFHWC, *residual_args)
    read = [read_LBFNC[i] for i in read_after]
    extra = [kv] * (cache is not None) + [read] * bool(read_after)
    return (out, *extra) if extra else out

  def _check(self):
    for name, allowed in (('remat', tuple(remat.POLICIES)),
                          ('parameterization', PARAMETERIZATIONS),
                          ('policy', POLICIES)):
      value = getattr(self, name)
      if value not in allowed:
        raise ValueError(
            f'{name}={value!r} is not one of {allowed} (config.model.{name}).')
    if self.parameterization == 'residual' and not self.image:
      raise ValueError("parameterization='residual' corrects an image: it "
                       'needs config.model.image=True.')
    if self.compass and not self.action_dim:
      raise ValueError(f'config.model.compass={self.compass} adds up turns: '
                       'it needs config.data.actions=True.')
    if not 0 <= self.compass < 180:
      raise ValueError(f'config.model.compass={self.compass} must be a field '
                       'of view, more than 0 and less than 180 degrees, or 0.')
    if self.clip_dim and not self.text_dim:
      raise ValueError('tokens of a picture are read beside text: '
                       f'clip_dim={self.clip_dim} needs a text_dim '
                       '(config.model.clip_dim, config.text.dim).')
    if self.dim % self.num_heads:
      raise ValueError(
          f'num_heads={self.num_heads} must divide dim={self.dim} '
          '(config.model.num_heads, config.model.dim).')

  def _complete(self, conditioning, x_BFHWC) -> Conditioning:
    """Streams that the caller leaves out become unknown; masks are explicit."""
    full = conditioning.completed(
        x_BFHWC, text_dim=self.text_dim, action_dim=self.action_dim,
        image=self.image)
    batch = len(x_BFHWC)
    if self.clip_dim and full.clip is None:
      tokens = self.clip_positions or 1
      full = full.replace(clip=jnp.zeros((batch, tokens, self.clip_dim)))
    if self.concatenated_channels and full.concatenated is None:
      full = full.replace(concatenated=jnp.zeros(
          (*x_BFHWC.shape[:-1], self.concatenated_channels)))
    return full

  def _inputs(self, modulation, conditioning, frames, grid, context, cache):
    """What each layer has to itself, and what all of them read."""
    mixture = self._mixture(context, cache)
    rngs = None if mixture is None else mixture.rng_BH
    past = cache and kv_cache.KeyValues(cache.k, cache.v, cache.mean)
    return blocks.OfLayer(past, rngs), blocks.LayerInputs(
        modulation, self._text(conditioning),
        *self._positions(frames, grid, context, cache),
        self._clip(conditioning), mixture and mixture.replace(rng_BH=None),
        context and context.texts, _slots(context, cache),
        self._directions(conditioning, grid))

  def _mixture(self, context, cache):
    if context is None or context.mixture is None:
      return None
    if cache is not None or context.mask is not None:
      raise ValueError('a context with a mixture is without mask and cache.')
    return context.mixture

  def _layers(self, **of_call):
    block = blocks.Block
    if self.remat != 'none':
      block = nn.remat(
          block, prevent_cse=False, policy=remat.POLICIES[self.remat])
    return nn.scan(
        block, variable_axes={'params': 0, blocks.RECALLED: 0},
        split_rngs={'params': True},
        in_axes=(0, nn.broadcast), length=self.num_layers, unroll=self.unroll)(
            ffn_dim=self.ffn_dim, num_heads=self.num_heads,
            dtype=jnp.dtype(self.dtype), implementation=self.attention,
            gate_init=self.gate_init, name='blocks', **of_call)

  def _time(self, timesteps_BF, conditioning):
    """e [B, F, C] and the layers' modulation [B, F, 6, C], or per token."""
    dtype = self.dtype if self.policy == 'pure' else jnp.float32
    init = nn.initializers.normal(0.02)
    dense = functools.partial(
        nn.Dense, self.dim, kernel_init=init, dtype=dtype)
    e = dense(name='time_embedding_0')(
        sinusoid(timesteps_BF, self.freq_dim))
    e = dense(name='time_embedding_2')(nn.silu(e))
    if self.action_dim:
      action = self._action_embedding(conditioning)
      e += action if e.ndim == 3 else action[:, :, None]
    modulation = nn.Dense(6 * self.dim, dtype=dtype, name='time_projection_1')(
        nn.silu(e))
    return e, modulation.reshape(*e.shape[:-1], 6, self.dim)

  def _action_embedding(self, conditioning):
    chex.assert_axis_dimension(conditioning.actions, 2, self.action_dim)
    actions = jnp.concatenate([
        conditioning.known_actions(), conditioning.actions_mask[..., None]],
        axis=-1)
    hidden = nn.silu(nn.Dense(self.dim, name='action_embedding_0')(actions))
    return nn.Dense(self.dim, kernel_init=nn.initializers.zeros,
                    name='action_embedding_2')(hidden)

  def _image_tokens(self, conditioning):
    if not self.image:
      return 0.
    image = conditioning.known_image()
    known = jnp.broadcast_to(
        conditioning.image_mask[:, :, None, None, None], (*image.shape[:-1], 1))
    channels = [image, known]
    if self.coordinates:
      channels += patches.coordinates(image)
    p_BFNC = patches.patchify(
        jnp.concatenate(channels, axis=-1), self.patch, self.image_halo)
    if self.steered and self.action_dim:  # Eq. (1), as one product.
      a = conditioning.known_actions()[:, :, None]
      p_BFNC = jnp.concatenate([p_BFNC] + [
          a[..., i:i + 1] * p_BFNC for i in range(self.action_dim)], axis=-1)
    return self._dense(self.dim, 'image_embedding', nn.initializers.zeros)(
        p_BFNC.astype(self.dtype))

  def _text(self, conditioning):
    if not self.text_dim:
      return None
    init = nn.initializers.normal(0.02)
    hidden = self._dense(self.dim, 'text_embedding_0', init)(conditioning.text)
    return self._dense(self.dim, 'text_embedding_2', init)(
        nn.gelu(hidden, approximate=True))

  def _clip(self, conditioning):
    if not self.clip_dim:
      return None
    return blocks.ImageEmbedding(
        self.dim, jnp.dtype(self.dtype), self.clip_positions, name='img_emb')(
            conditioning.clip)

  def _positions(self, frames, grid, context, cache):
    """RoPE angles of own and cached frames, and the mask over both."""
    head_dim = self.dim // self.num_heads
    angles = lambda positions: rope.angles(positions, *grid, head_dim)
    if cache is None:
      context = context or contexts.bidirectional(frames)
      return angles(context.positions), None, None
    if context is not None and _speaks_of(context, cache):
      return angles(context.positions), angles(cache.slot_positions()), None
    # One row, where all frames of the call read the same.
    own = jnp.ones((1, frames), bool)
    if context is not None and not np.all(context.mask or True):
      own = jnp.asarray(context.mask)
    past = jnp.broadcast_to(cache.mask(), (len(own), cache.num_slots))
    return (angles(cache.next_positions(frames)),
            angles(cache.slot_positions()),
            jnp.concatenate([past, own], axis=1))

  def _directions(self, conditioning, grid):
    if not self.compass:
      return None
    return rope.directions(conditioning.known_heading(), *grid,
                           self.dim // self.num_heads, self.compass)

  def _head(self, x_BFNC, e):
    table = self.param('head_modulation',
                       nn.initializers.normal(self.dim**-0.5), (2, self.dim))
    shift, scale = blocks.modulation_vectors(table, e[..., None, :])
    x = blocks.modulated_norm(x_BFNC, shift, scale)
    features = self.patch[0] * self.patch[1] * self.latent_channels
    return nn.Dense(
        features, dtype=x.dtype, kernel_init=nn.initializers.zeros,
        name='head')(x)

  def _dense(self, features, name, kernel_init=XAVIER):
    return nn.Dense(features, dtype=jnp.dtype(self.dtype),
                    kernel_init=kernel_init, name=name)


def _slots(context, cache):
  """What a cache that is recalled from holds: frames, positions, length.

  Raises:
    ValueError: if a mask says who reads what of it.
  """
  if cache is None or cache.recall is None:
    return None
  if context is not None and not np.all(context.mask or True):
    raise ValueError('a cache that is recalled from takes no mask: its frames '
                     'are read chunk by chunk.')
  return cache.position, cache.slot_positions(), cache.length


def _speaks_of(context, cache) -> bool:
  """Whether a context's mask is over the cached frames and the call's own."""
  if context.mask is None:
    return False
  return len(context.mask[0]) == cache.num_slots + len(context.mask)


def sinusoid(timesteps_BF, size: int):
  """[cos(t f_i), sin(t f_i)], f_i = 10000^(-2i / size); [B, F, size]."""
  half = size // 2
  frequencies = 10_000. ** (-jnp.arange(half) / half)
  angle = timesteps_BF[..., None].astype(jnp.float32) * frequencies
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)

"""One layer of the transformer: self-attention, cross-attention, feed-forward.

Parameter names follow the original Wan checkpoints (`self_attn.norm_q`, `ffn.0`
as ffn_0, `norm3`, `modulation`, ...), so that weights map by name.
"""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import rope
from worldsim_jax.attention import splash
from worldsim_jax.attention.attend import attend
from worldsim_jax.attention.kv_cache import KeyValues
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import recall as recalling
from worldsim_jax.parallel import layout

EPSILON = 1e-6
LAYER_INPUT, ATTENTION_OUTPUT = 'layer_input', splash.RESIDUALS
RECALLED = 'recalled'  # A collection.
PLACE_BIAS = 3.  # Channels without are about 1.
_xavier = nn.initializers.xavier_uniform()


class LayerInputs(NamedTuple):
  """What every layer reads besides its tokens and its part of the cache.

  Attributes:
    modulation: [B, F, 6, C], or per token [B, F, N, 6, C]: shift, scale, gate
      of attention and FFN. Its dtype is that of modulation and norms.
    text: [B, L, C], or [B, G, L, C], of which each frame reads one; or None.
    angles: RoPE angles of the call's own frames, [F, N, D/2].
    cache_angles: RoPE angles of the cached frames, [S, N, D/2], or None.
    mask: bool [F, G] over cached and own frames, or [1, G]; None without a
      cache.
    image: [B, M, C], embedded tokens of a picture beside the text, or None.
    mixture: of the call's own frames, instead of a mask; or None.
    texts: int32 [B, F], which of G texts each frame reads, or None.
    slots: of a cache that is recalled from: frame [S], position [S], length.
    directions: of rope.directions, [B, F, N, D/2], or None. Cached keys have
      been turned by theirs.
  """
  modulation: jax.Array
  text: jax.Array | None
  angles: jax.Array
  cache_angles: jax.Array | None
  mask: jax.Array | None
  image: jax.Array | None = None
  mixture: moc.Mixture | None = None
  texts: jax.Array | None = None
  slots: tuple[jax.Array, ...] | None = None
  directions: jax.Array | None = None


class OfLayer(NamedTuple):
  """What one layer has to itself.

  Attributes:
    cached: its part of the cache, or None.
    rng_BH: its keys for a mixture, or None.
  """
  cached: KeyValues | None = None
  rng_BH: jax.Array | None = None


class RMSNorm(nn.Module):
  """x / rms(x) · weight over the last axis, computed in float32."""

  @nn.compact
  def __call__(self, x):
    weight = self.param('weight', nn.initializers.ones, (x.shape[-1],))
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x32**2, -1, keepdims=True) + EPSILON)
    return ((x32 * scale).astype(x.dtype) * weight).astype(x.dtype)


class SelfAttention(nn.Module):
  """Attention over the call's own frames and, if given, cached ones.

  With `recall`, over some of those; `grid` are the rows and columns of tokens.
  Which ones is told in the collection RECALLED, to those who ask for it.
  """
  num_heads: int
  dtype: Any
  implementation: str
  recall: recalling.Recall | None = None
  grid: tuple[int, int] | None = None

  @nn.compact
  def __call__(self, x_BFNC, inputs: LayerInputs, cached: KeyValues | None):
    dense = _dense(x_BFNC.shape[-1], self.dtype)
    heads = lambda x: x.reshape(*x.shape[:-1], self.num_heads, -1)
    place = dense
    if inputs.directions is not None:
      place = _dense(x_BFNC.shape[-1], self.dtype, self._of_places)
    q = heads(RMSNorm(name='norm_q')(place('q')(x_BFNC)))
    k = heads(RMSNorm(name='norm_k')(place('k')(x_BFNC)))
    v = heads(dense('v')(x_BFNC))
    if inputs.directions is not None:
      q, k = (rope.rotate(x, inputs.directions) for x in (q, k))
    q_roped = rope.rotate(q, inputs.angles)
    keys, values = rope.rotate(k, inputs.angles), v
    if self.recall is not None:
      out, chosen_BHKT = recalling.attend(
          q_roped, keys, values, recalling.Past(*cached, *inputs.slots),
          self.grid, self.recall)
      self.sow(RECALLED, 'slots', chosen_BHKT)
      kv = KeyValues(k, v, recalling.descriptors(k, self.grid))
      return self._out(out, x_BFNC), kv
    if cached is not None:
      past = rope.rotate(cached.k, inputs.cache_angles).astype(keys.dtype)
      keys = jnp.concatenate([past, keys], axis=1)
      values = jnp.concatenate([cached.v.astype(v.dtype), v], axis=1)
    out = attend(q_roped, keys, values, inputs.mask, self.implementation,
                 mixture=inputs.mixture)
    return self._out(out, x_BFNC), KeyValues(k, v)

  def _of_places(self, unused_rng, shape, dtype=jnp.float32):
    """Biases with which tokens begin by reading what lies where they look.

    What queries and keys have in common is turned by the place of each, and
    so is large where the places agree; frames count the same at any distance.
    """
    head_dim = shape[0] // self.num_heads
    bias = np.zeros((self.num_heads, head_dim // 2, 2))
    bias[:, rope.axis_channels(head_dim)[0]:, 0] = PLACE_BIAS
    return jnp.asarray(bias.reshape(shape), dtype)

  def _out(self, out_BFNHD, x_BFNC):
    out = checkpoint_name(out_BFNHD, ATTENTION_OUTPUT)
    return _dense(x_BFNC.shape[-1], self.dtype)('o')(out.reshape(x_BFNC.shape))


class CrossAttention(nn.Module):
  """Attention to the text tokens, padding included, without gate.

  Tokens of a picture, if given, have their own keys, values and softmax. Of
  several texts, [B, G, L, C], a frame reads the one that texts_BF names.
  """
  num_heads: int
  dtype: Any
  implementation: str

  @nn.compact
  def __call__(self, x_BFNC, text, image_BMC=None, texts_BF=None):
    dense = _dense(x_BFNC.shape[-1], self.dtype)
    heads = lambda x: x.reshape(*x.shape[:-1], self.num_heads, -1)
    q = heads(RMSNorm(name='norm_q')(dense('q')(x_BFNC)))

    def read(tokens, suffix):
      if tokens.ndim == 3:
        tokens = tokens[:, None]  # One frame of L tokens.
      k = heads(RMSNorm(name=f'norm_k{suffix}')(dense(f'k{suffix}')(tokens)))
      v = heads(dense(f'v{suffix}')(tokens))
      if tokens.shape[1] == 1:
        return attend(q, k, v, None, self.implementation)
      # Frames are samples, each beside the text that it reads.
      own = lambda x: jax.vmap(lambda x, i: x[i])(x, texts_BF)
      frames = lambda x: x.reshape(-1, 1, *x.shape[2:])
      return attend(*map(frames, (q, own(k), own(v))), None,
                    self.implementation).reshape(q.shape)

    out = read(text, '')
    if image_BMC is not None:
      out += read(image_BMC, '_img')
    return dense('o')(out.reshape(x_BFNC.shape))


class ImageEmbedding(nn.Module):
  """Tokens for cross-attention from CLIP's of a picture (Wan's `img_emb`).

  Attributes:
    dim: width C of the transformer.
    dtype: of the products.
    positions: tokens that have a learned position, which are all of them; 0
      without. Wan's first-and-last-frame model has 514, two pictures.
  """
  dim: int
  dtype: Any
  positions: int = 0

  @nn.compact
  def __call__(self, clip_BMK):
    width = clip_BMK.shape[-1]
    # PyTorch's own epsilon, unlike in the layers.
    norm = lambda name: nn.LayerNorm(
        epsilon=1e-5, dtype=jnp.float32, name=name)
    if self.positions:
      clip_BMK += self.param(
          'emb_pos', nn.initializers.zeros, (self.positions, width))
    hidden = _dense(width, self.dtype)('proj_1')(norm('proj_0')(clip_BMK))
    hidden = nn.gelu(hidden, approximate=False)
    hidden = _dense(self.dim, self.dtype)('proj_3')(hidden)
    return norm('proj_4')(hidden).astype(self.dtype)


class Block(nn.Module):
  """A transformer layer; scanned over, so it maps carry to (carry, output)."""
  ffn_dim: int
  num_heads: int
  dtype: Any
  implementation: str
  gate_init: float
  return_kv: bool
  static_mask: tuple[tuple[bool, ...], ...] | None = None
  return_tokens: bool = False
  recall: recalling.Recall | None = None
  grid: tuple[int, int] | None = None

  @nn.compact
  def __call__(self, x_BFNC, own: OfLayer, inputs: LayerInputs):
    x_BFNC = checkpoint_name(x_BFNC, LAYER_INPUT)
    dim = x_BFNC.shape[-1]
    table = self.param('modulation', self._init_modulation, (6, dim))
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation_vectors(
        table, inputs.modulation)
    attention = dict(num_heads=self.num_heads, dtype=self.dtype,
                     implementation=self.implementation)

    if self.static_mask is not None:
      inputs = inputs._replace(mask=np.array(self.static_mask))
    if inputs.mixture is not None:
      inputs = inputs._replace(
          mixture=inputs.mixture.replace(rng_BH=own.rng_BH))
    hidden = modulated_norm(x_BFNC, shift1, scale1)
    update, kv = SelfAttention(
        **attention, recall=self.recall, grid=self.grid, name='self_attn')(
            hidden, inputs, own.cached)
    x_BFNC = (x_BFNC + gate1 * update).astype(x_BFNC.dtype)
    if inputs.text is not None:
      hidden = layer_norm(affine=True, name='norm3')(x_BFNC)
      x_BFNC += CrossAttention(**attention, name='cross_attn')(
          hidden.astype(x_BFNC.dtype), inputs.text, inputs.image, inputs.texts)
    hidden = modulated_norm(x_BFNC, shift2, scale2)
    hidden = layout.constrain_tokens(
        _dense(self.ffn_dim, self.dtype)('ffn_0')(hidden), 'tensor')
    update = _dense(dim, self.dtype)('ffn_2')(nn.gelu(hidden, approximate=True))
    x_BFNC = (x_BFNC + gate2 * update).astype(x_BFNC.dtype)
    x_BFNC = layout.constrain_tokens(x_BFNC)
    return x_BFNC, (kv if self.return_kv else None,
                    x_BFNC if self.return_tokens else None)

  def _init_modulation(self, rng, shape):
    noise = jax.random.normal(rng, shape) * shape[-1]**-0.5
    gates = jnp.array([0., 0., 1., 0., 0., 1.])[:, None]
    return noise + self.gate_init * gates


def modulation_vectors(table_KC, e):
  """K vectors that broadcast over tokens [B, F, N, C].

  Args:
    table_KC: learned.
    e: of the timesteps, [B, F, K, C] or per token [B, F, N, K, C].
  """
  e = table_KC.astype(e.dtype) + e
  if e.ndim == 4:  # All tokens of a frame.
    e = e[:, :, None]
  return [e[..., i, :] for i in range(table_KC.shape[0])]


def modulate(x_BFNC, shift, scale):
  return (x_BFNC * (1 + scale) + shift).astype(x_BFNC.dtype)


def modulated_norm(x_BFNC, shift, scale):
  """LN(x) (1 + scale) + shift; rounded to the dtype of x once, at the end."""
  normed = layer_norm(dtype=shift.dtype)(x_BFNC)
  return modulate(normed, shift, scale).astype(x_BFNC.dtype)


def layer_norm(affine: bool = False, name: str | None = None,
               dtype=jnp.float32):
  return nn.LayerNorm(epsilon=EPSILON, use_bias=affine, use_scale=affine,
                      dtype=dtype, name=name)


def _dense(features, dtype, bias_init=nn.initializers.zeros):
  return lambda name: nn.Dense(features, dtype=dtype, kernel_init=_xavier,
                               bias_init=bias_init, name=name)

"""umT5's encoder, of which umt5-xxl tells Wan its prompts.

A T5 encoder (Raffel et al. 2020) with pre-norm layers and gated feed-forward,

  x ← x + W_o softmax(q kᵀ + b(j - i)) v,       q, k, v of norm(x)       (1)
  x ← x + W₂ (gelu(W_g y) ∘ W₁ y),              y = norm(x)              (2)

where norm divides by the root mean square, the logits have no 1/√D, and b is a
table of 32 numbers per head, indexed by the bucket of the relative position.
That every layer has a table of its own is what umT5 adds (Chung et al. 2023,
arXiv 2304.09151). Padding is not read, and is zero in what comes out: Wan's
transformer attends to it (see `blocks.CrossAttention`).

Names follow the original Wan checkpoint: attn.q, ffn.gate.0 (as ffn.gate),
ffn.fc1, ffn.fc2, norm1, norm2, pos_embedding.
"""

import math
from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention.attend import attend
from worldsim_jax.models.blocks import RMSNorm


class UMT5Encoder(nn.Module):
  """Token ids to embeddings; the defaults are umt5-xxl.

  Attributes:
    vocab: rows of the embedding table.
    dim, ffn_dim, num_heads, num_layers: as named.
    head_dim: channels of a head; heads times head_dim need not be dim.
    num_buckets, max_distance: of the relative positions, see `bucket`.
    dtype: of the activations and matrix products ('float32', 'bfloat16');
      norms and softmax are float32 inside.
  """
  vocab: int = 256_384
  dim: int = 4096
  ffn_dim: int = 10_240
  num_heads: int = 64
  head_dim: int = 64
  num_layers: int = 24
  num_buckets: int = 32
  max_distance: int = 128
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, ids_BL, mask_BL):
    """Embeddings [B, L, C] in `dtype`, zero where the mask is false.

    Args:
      ids_BL: token ids, below `vocab`.
      mask_BL: bool, true where there is a token.
    """
    chex.assert_rank(ids_BL, 2)
    chex.assert_equal_shape([ids_BL, mask_BL])
    table = self.param('token_embedding', nn.initializers.normal(1.),
                       (self.vocab, self.dim))
    # Only the rows that are needed change their type.
    x_BLC = jnp.take(table, ids_BL, axis=0).astype(self.dtype)
    buckets_LL = bucket(
        relative_positions(ids_BL.shape[1]), self.num_buckets,
        self.max_distance)
    layers = nn.scan(
        Layer, variable_axes={'params': 0}, split_rngs={'params': True},
        in_axes=nn.broadcast, length=self.num_layers)
    x_BLC, _ = layers(
        ffn_dim=self.ffn_dim, num_heads=self.num_heads, head_dim=self.head_dim,
        num_buckets=self.num_buckets, dtype=jnp.dtype(self.dtype),
        name='blocks')(x_BLC, mask_BL, jnp.asarray(buckets_LL))
    x_BLC = RMSNorm(name='norm')(x_BLC)
    return jnp.where(mask_BL[..., None], x_BLC, 0)


class Layer(nn.Module):
  """Eqs. (1) and (2), as the body of a scan."""
  ffn_dim: int
  num_heads: int
  head_dim: int
  num_buckets: int
  dtype: Any

  @nn.compact
  def __call__(self, x_BLC, mask_BL, buckets_LL):
    table = self.param('pos_embedding', nn.initializers.normal(0.02),
                       (self.num_buckets, self.num_heads))
    bias_HLL = jnp.moveaxis(table[buckets_LL], -1, 0)
    x_BLC += Attention(self.num_heads, self.head_dim, self.dtype, name='attn')(
        RMSNorm(name='norm1')(x_BLC), mask_BL, bias_HLL)
    x_BLC += FeedForward(self.ffn_dim, self.dtype, name='ffn')(
        RMSNorm(name='norm2')(x_BLC))
    return x_BLC, None


class Attention(nn.Module):
  """Among the tokens of each text."""
  num_heads: int
  head_dim: int
  dtype: Any

  @nn.compact
  def __call__(self, x_BLC, mask_BL, bias_HLL):
    batch, length, dim = x_BLC.shape

    def heads(name):
      y = _dense(self.num_heads * self.head_dim, self.dtype, name)(x_BLC)
      # A text is one frame.
      return y.reshape(batch, 1, length, self.num_heads, self.head_dim)

    # Takes back the scale of `attend`; a power of two for umT5's 64 channels.
    q = heads('q') * math.sqrt(self.head_dim)
    out = attend(q, heads('k'), heads('v'), key_mask_BM=mask_BL,
                 bias_HNM=bias_HLL)
    return _dense(dim, self.dtype, 'o')(out.reshape(batch, length, -1))


class FeedForward(nn.Module):
  """Eq. (2)."""
  ffn_dim: int
  dtype: Any

  @nn.compact
  def __call__(self, x_BLC):
    gate = nn.gelu(_dense(self.ffn_dim, self.dtype, 'gate')(x_BLC),
                   approximate=True)
    hidden = gate * _dense(self.ffn_dim, self.dtype, 'fc1')(x_BLC)
    return _dense(x_BLC.shape[-1], self.dtype, 'fc2')(hidden)


def _dense(features, dtype, name):
  return nn.Dense(features, use_bias=False, dtype=dtype, name=name)


def relative_positions(length: int) -> np.ndarray:
  """int [L, L]: of the key (column), seen from the query (row)."""
  places = np.arange(length)
  return places - places[:, None]


def bucket(relative, num_buckets: int, max_distance: int) -> np.ndarray:
  """The row of the bias table for each relative position, int32.

  Half of the rows are for keys behind the query, and half of each half for a
  distance each; the rest grow like its logarithm, up to `max_distance`.

  Args:
    relative: position of the key less that of the query.
    num_buckets: rows of the table, a multiple of four.
    max_distance: from here on all distances share the last row.
  """
  distance = np.abs(relative)
  half = num_buckets // 2
  exact = half // 2
  # In float32, as PyTorch does: 16, 32, 64 are on the borders of buckets.
  ratio = np.float32(np.maximum(distance, exact)) / np.float32(exact)
  grown = np.log(ratio) / np.float32(math.log(max_distance / exact))
  far = exact + (grown * np.float32(half - exact)).astype(np.int32)
  row = np.where(distance < exact, distance, np.minimum(far, half - 1))
  return (row + np.where(np.asarray(relative) > 0, half, 0)).astype(np.int32)


def shapes(module: UMT5Encoder, weights_dtype: str = 'float32'):
  """Its parameters as a tree of jax.ShapeDtypeStruct; makes no array."""
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 1), bool)
  made = jax.eval_shape(module.init, jax.random.key(0), tokens, mask)
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, weights_dtype), made['params'])

"""A discriminator on the features of the transformer.

The critic's backbone is read after some of its layers; a few learned registers
of each such layer attend to all of its tokens, and what they gather is judged
together (Self Forcing's code):

  g_l   = registers_l + CrossAttention(registers_l, LN_affine(tokens_l))
  g_l   = g_l + FFN(LN(g_l))
  logit = Dense(SiLU(Dense(LN(g_1 ‖ g_2 ‖ ...))))                        (1)

one logit per sample. One pass of the backbone gives the velocity, too, so the
same network can be DMD's critic and a GAN's discriminator (DMD2).

Parameters are those of the transformer, with those of (1) under a key of their
own, DISCRIMINATOR: any transformer becomes a discriminator by `with_heads`, and
is read as a plain one by whoever ignores the key.
"""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from worldsim_jax.models import blocks
from worldsim_jax.models import transformer

DISCRIMINATOR = 'discriminator'
# Of 30 layers, as upstream: after the 14th, the 22nd and the last.
_READ_OF_30 = (14, 22, 30)


class Registers(nn.Module):
  """The first two lines of (1): what one layer's registers gather."""
  count: int
  width: int
  num_heads: int
  ffn_dim: int
  dtype: Any
  attention: str

  @nn.compact
  def __call__(self, x_BFNC):
    batch, channels = len(x_BFNC), x_BFNC.shape[-1]
    learned = self.param('tokens', nn.initializers.normal(0.02),
                         (self.count, self.width))
    g = jnp.broadcast_to(learned, (batch, 1, *learned.shape))
    seen = blocks.layer_norm(affine=True, name='norm3')(x_BFNC)
    seen = seen.astype(self.dtype).reshape(batch, -1, channels)
    g += blocks.CrossAttention(
        self.num_heads, self.dtype, self.attention, name='cross_attn')(
            g.astype(self.dtype), seen)
    hidden = blocks.layer_norm(affine=True, name='norm2')(g)
    hidden = _dense(self.ffn_dim, 'ffn_0')(hidden)
    g += _dense(self.width, 'ffn_2')(nn.gelu(hidden, approximate=True))
    return g.reshape(batch, -1)


class Heads(nn.Module):
  """Eq. (1).

  Attributes:
    layers: of the transformer that are read, from 0; one head each.
    width: of registers and head; upstream has that of the transformer.
    num_heads: of the attention; divides width.
    ffn_dim: hidden width of the feed-forward layers.
    registers: per layer; upstream has 1.
    time_dim: size of the noise level's embedding beside the registers, 0 for
      none.
    dtype: of products with the backbone's tokens; all else is float32.
    attention: implementation, see attention/attend.py.
  """
  layers: tuple[int, ...]
  width: int
  num_heads: int
  ffn_dim: int
  registers: int = 1
  time_dim: int = 0
  dtype: str = 'float32'
  attention: str = 'auto'

  @nn.compact
  def __call__(self, tokens, timesteps_BF):
    """Judges samples.

    Args:
      tokens: a list with [B, F, N, C] of each layer that is read.
      timesteps_BF: of the backbone's call; only the largest of a sample counts.

    Returns:
      Logits [B], float32.
    """
    gathered = [
        Registers(self.registers, self.width, self.num_heads, self.ffn_dim,
                  jnp.dtype(self.dtype), self.attention,
                  name=f'registers_{i}')(x)
        for i, x in enumerate(tokens)]
    if self.time_dim:
      level_B = jnp.max(timesteps_BF, axis=1)
      gathered.append(transformer.sinusoid(level_B, self.time_dim))
    x = blocks.layer_norm(affine=True, name='norm')(
        jnp.concatenate(gathered, axis=-1))
    x = nn.silu(_dense(self.width, 'head_0')(x))
    return _dense(1, 'head_2')(x)[:, 0]


def heads(model: transformer.VideoTransformer, **changes) -> Heads:
  """Heads for a transformer, of its width, unless fields are given.

  Raises:
    ValueError: for a field that there is not, layers that the model has not, or
      a model without layers.
  """
  if not isinstance(model, transformer.VideoTransformer):
    raise ValueError(
        "a discriminator reads layers of a transformer: a critic's "
        f"config.model.kind must be 'transformer', not {type(model).__name__}.")
  fields: dict[str, Any] = dict(
      layers=read_layers(model.num_layers), width=model.dim,
      num_heads=model.num_heads, ffn_dim=model.ffn_dim, dtype=model.dtype,
      attention=model.attention)
  unknown = sorted(changes.keys() - Heads.__dataclass_fields__.keys())
  if unknown:
    raise ValueError(f'{unknown[0]!r} is no field of a discriminator '
                     '(config.*.critic.discriminator).')
  made = Heads(**fields | changes)
  wrong = [i for i in made.layers if not 0 <= i < model.num_layers]
  if wrong or not made.layers:
    raise ValueError(
        f'layers={made.layers} of a discriminator must be some of the '
        f"critic's num_layers={model.num_layers}, from 0 "
        '(config.*.critic.discriminator.layers).')
  if made.width % made.num_heads:
    raise ValueError(
        f'num_heads={made.num_heads} must divide width={made.width} '
        '(config.*.critic.discriminator).')
  return made


def read_layers(num_layers: int) -> tuple[int, ...]:
  """Upstream's 13, 21, 29 of 30, scaled to another depth; no layer twice."""
  scaled = (-(-layer * num_layers // 30) - 1 for layer in _READ_OF_30)
  return tuple(sorted(set(scaled)))


def with_heads(rng, model: transformer.VideoTransformer, own: Heads, params):
  """The transformer's parameters, and new ones of the heads beside them."""
  tokens = [jnp.zeros((1, 1, 1, model.dim))] * len(own.layers)
  new = own.init(rng, tokens, jnp.zeros((1, 1)))['params']
  return {**params, DISCRIMINATOR: new}


def judging_fn(model: transformer.VideoTransformer, own: Heads):
  """(params, x, timesteps, conditioning) -> (v [B, F, H, W, C], logits [B])."""
  def fn(params, x_BFHWC, timesteps_BF, conditioning=None):
    v, tokens = model.apply(
        {'params': params}, x_BFHWC, timesteps_BF, conditioning,
        read_after=own.layers)
    return v, own.apply(
        {'params': params[DISCRIMINATOR]}, tokens, timesteps_BF)

  return fn


def _dense(features, name):
  return nn.Dense(features, kernel_init=transformer.XAVIER, name=name)

"""A tiny transformer of Wan and LoRA weights for it, of small whole numbers.

Sums of those are exact in any order and in float32, so that what is expected
can be written in NumPy.
"""

import functools

import numpy as np

from worldsim_jax.convert import lora
from worldsim_jax.convert import mapping
from worldsim_jax.convert import tensors
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.models.transformer import VideoTransformer

DIM, FFN, RANK = 12, 20, 3
TINY = VideoTransformer(
    dim=DIM, ffn_dim=FFN, num_heads=1, num_layers=2, latent_channels=3,
    text_dim=5, freq_dim=8, concatenated_channels=7, clip_dim=4)
WAN = ('blocks.0.self_attn.q', 'blocks.1.self_attn.o', 'blocks.1.cross_attn.k',
       'blocks.1.cross_attn.k_img', 'blocks.0.ffn.0', 'blocks.1.ffn.2',
       'text_embedding.2', 'time_projection.1', 'head.head', 'img_emb.proj.1')
DIFFUSERS = ('blocks.0.attn1.to_q', 'blocks.1.attn1.to_out.0',
             'blocks.1.attn2.to_k', 'blocks.1.attn2.add_k_proj',
             'blocks.0.ffn.net.0.proj', 'blocks.1.ffn.net.2',
             'condition_embedder.text_embedder.linear_2',
             'condition_embedder.time_proj', 'proj_out',
             'condition_embedder.image_embedder.ff.net.0.proj')
MODULES = {'wan': WAN, 'diffusers': DIFFUSERS}


def integers(shape, seed, dtype=np.float32):
  return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


def make_base(family='wan', dtype=np.float32):
  """Arrays by name."""
  return {name: integers(shape, i, dtype)
          for i, (name, shape) in enumerate(_shapes(family).items())}


@functools.cache
def _shapes(family):
  params = wan_dit_keys.shapes(TINY)
  flat = mapping.flatten(params)
  return {name: mapping.shape_there(flat[place.path].shape, place)
          for name, place in wan_dit_keys.places(params, family).items()}


def factors(base, module, seed=0, rank=RANK):
  """(A, B) for a linear layer."""
  rows, columns = base[f'{module}.weight'].shape
  return integers((rank, columns), seed), integers((rows, rank), seed + 1)


class Counted:
  """A tensor that counts how often it is read."""

  def __init__(self, array):
    self.shape, self.dtype, self.array = array.shape, array.dtype, array
    self.reads = 0

  def read(self):
    self.reads += 1
    return self.array


def counted(arrays):
  return {name: Counted(array) for name, array in arrays.items()}


def weights(arrays, scalars=None):
  return tensors.Weights(counted(arrays), 'some.safetensors', scalars)


def merge(base, arrays, scalars=None, **kwargs):
  found = lora.merged(counted(base), weights(arrays, scalars), **kwargs)
  return {name: tensor.read() for name, tensor in found.items()}

"""Wan's transformer and VAE in diffusers and ours, on CPU, in turns.

In one process, in float32 and on the same random weights, which
`convert.mapping` reads from diffusers' module as from a file:

  transformer  one forward of WanTransformer3DModel, the same timestep for all
               frames, and of our jitted VideoTransformer
  vae decode   a whole clip by AutoencoderKLWan.decode and by our jitted
               WanVAE.decode

Outputs must agree, or nothing is reported. PyTorch runs as diffusers' users run
it on a CPU: eager, in inference_mode, its own number of threads, which is one
per core. A ratio of 1.5 means that diffusers took 1.5 times as long as ours in
the same turn. The sizes are the benchmark's own, not the config's; heads have
Wan's 128 channels and levels of the VAE are the published ones.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import pytorch
from benchmarks import timing
from worldsim_jax.convert import mapping
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.convert import wan_vae_keys
from worldsim_jax.errors import UserError
from worldsim_jax.models.conditioning import Conditioning

OURS, THEIRS = 'ours', 'diffusers'
HEAD_DIM = wan_dit_keys.HEAD_DIM
# Of the largest output, what tests/parity holds: other orders of sums, and
# diffusers' frequencies of the time embedding are off by 6e-7.
TOLERANCE = 1e-4


class Transformer(NamedTuple):
  """A size of WanTransformer3DModel; `frames` latents of height x width."""
  heads: int
  layers: int
  ffn: int
  frames: int
  height: int
  width: int
  text: tuple[int, int]  # Tokens, channels.

  def __str__(self):
    tokens = self.frames * self.height * self.width // 4
    return f'{self.layers} layers of {self.heads * HEAD_DIM}, {tokens} tokens'


class Decoder(NamedTuple):
  """A size of AutoencoderKLWan; `latents` become height x width pixels."""
  base: int
  latents: int
  height: int
  width: int

  def __str__(self):
    return (f'base {self.base}, {4 * self.latents - 3} frames of '
            f'{self.height}x{self.width}')


TRANSFORMERS = (
    Transformer(2, 2, 1024, 3, 16, 16, (64, 512)),
    # Latents of 17 frames of 240x416 and 320x640 pixels, Wan's text.
    Transformer(4, 6, 2816, 5, 30, 52, (512, 4096)),
    Transformer(6, 4, 4480, 5, 40, 80, (512, 4096)),
)
DECODERS = (
    Decoder(32, 3, 64, 64),
    Decoder(32, 5, 128, 128),
    Decoder(96, 3, 64, 64),
)


def benchmark(options):
  """A row per model and size."""
  if jax.default_backend() != 'cpu':
    raise UserError('wan_cpu compares on CPUs: set JAX_PLATFORMS=cpu (here JAX '
                    f'runs on a {jax.default_backend()})')
  pytorch.require('wan_cpu', 'torch', 'diffusers')
  pairs = [('transformer', size, transformers) for size in TRANSFORMERS]
  pairs += [('vae decode', size, decoders) for size in DECODERS]
  return [_measure(what, str(size), variants(size), options.repeats)
          for what, size, variants in pairs]


def _measure(what, size, variants, repeats):
  import torch
  difference = pytorch.difference(
      variants[THEIRS](), variants[OURS](), TOLERANCE)
  seconds = timing.seconds(variants, repeats)
  return {
      'what': what, 'size': size,
      **timing.spread('seconds_ours', seconds[OURS]),
      **timing.spread('seconds_torch', seconds[THEIRS]),
      **timing.spread('ratio_torch_over_ours', timing.ratios(
          seconds[THEIRS], seconds[OURS])),
      'largest_relative_difference': difference,
      'torch_threads': torch.get_num_threads()}


def transformers(size: Transformer):
  """Forwards by name, of the same weights and inputs."""
  import diffusers
  import torch
  theirs = diffusers.WanTransformer3DModel(
      num_attention_heads=size.heads, attention_head_dim=HEAD_DIM,
      text_dim=size.text[1], ffn_dim=size.ffn, num_layers=size.layers).eval()
  model, params = mapping.read_arrays(wan_dit_keys, random_weights(theirs))
  x, text = random_inputs(
      (1, size.frames, size.height, size.width, model.latent_channels),
      (1, *size.text))
  t = np.full(x.shape[:2], 500, np.float32)
  forward = jax.jit(lambda params, x, t, text: model.apply(
      {'params': params}, x, t, Conditioning(text=text)))
  ours = jax.device_put((params, x, t, text))
  given = (_channels_first(x), torch.from_numpy(t[:, 0]),
           torch.from_numpy(text))

  @torch.inference_mode()
  def their_forward():
    return theirs(*given).sample.permute(0, 2, 3, 4, 1)

  return {OURS: lambda: forward(*ours), THEIRS: their_forward}


def decoders(size: Decoder):
  """Decodes by name, of the same weights and latents; pixels in [-1, 1]."""
  import diffusers
  import torch
  theirs = diffusers.AutoencoderKLWan(base_dim=size.base).eval()
  # Theirs reads z itself, ours latents as diffusion models know them.
  vae, params = mapping.read_arrays(
      wan_vae_keys, random_weights(theirs), latent_mean=(0.,) * 16,
      latent_std=(1.,) * 16)
  [z] = random_inputs(
      (1, size.latents, size.height // 8, size.width // 8, 16))
  decode = jax.jit(lambda params, z: 2 * vae.apply(
      {'params': params}, z, method='decode')[0] - 1)
  ours, given = jax.device_put((params, z)), _channels_first(z)

  @torch.inference_mode()
  def their_decode():
    return theirs.decode(given).sample.permute(0, 2, 3, 4, 1)

  return {OURS: lambda: decode(*ours), THEIRS: their_decode}


def random_weights(module) -> dict[str, np.ndarray]:
  """Gives a PyTorch module weights that keep signals near 1; returns them."""
  import torch
  rng, weights = np.random.default_rng(0), {}
  for name, x in module.state_dict().items():
    fan_in = x[0].numel()  # 1 for biases, norms.
    values = rng.standard_normal(tuple(x.shape), np.float32)
    values *= .2 if fan_in == 1 else 1 / math.sqrt(fan_in)
    is_norm = name.endswith('gamma') or (
        'norm' in name and name.endswith('weight'))
    weights[name] = values + np.float32(is_norm)
  module.load_state_dict({
      name: torch.from_numpy(x) for name, x in weights.items()})
  return weights


def random_inputs(*shapes):
  rng = np.random.default_rng(1)
  return [rng.standard_normal(shape, np.float32) for shape in shapes]


def _channels_first(x_BFHWC):
  import torch
  return torch.from_numpy(x_BFHWC).permute(0, 4, 1, 2, 3).contiguous()

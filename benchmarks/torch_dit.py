"""The same transformer forward in PyTorch and ours, in turns, in one process.

Both run the Wan architecture at the config's sizes with text and bidirectional
attention, on the same random weights, and must give the same output, or nothing
is reported. 'torch' is eager, 'torch.compile' the same module compiled. A ratio
of 1.5 means that PyTorch took 1.5 times as long as ours in the same turn.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import pytorch
from benchmarks import timing
from worldsim_jax.models import build
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.parallel import flops

OURS = 'worldsim_jax'
SHAPES = ((16, 8), (1, 8))  # (videos, latent frames): training, one player.
TEXT_LENGTH, TEXT_DIM = 32, 384  # MiniLM's, for configs without text.
# Of the largest output. In float32 on a CPU only the order of sums differs; a
# GPU multiplies with TF32's 10 bits on both sides, bfloat16 has 7.
TOLERANCE = {'cpu': 1e-5, 'gpu': 3e-2}


def benchmark(options):
  """Rows per shape: ours, then PyTorch's."""
  pytorch.require('torch_dit', 'torch')
  import torch
  torch.set_float32_matmul_precision('high')  # As XLA does: TF32 on a GPU.
  rows = []
  for batch, frames in SHAPES:
    rows += _measure(options, batch, frames)
  return rows


def comparable_model(config):
  """The config's transformer without the streams that are ours alone."""
  model = build.denoiser(config)
  return model.clone(
      action_dim=0, image=False, parameterization='velocity', dtype='float32',
      text_dim=model.text_dim or TEXT_DIM)


def random_inputs(model, config, batch: int, frames: int):
  """(x, timesteps, text) as NumPy arrays."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape, np.float32)
  x = normal(batch, frames, *build.latent_size(config), model.latent_channels)
  timesteps = rng.uniform(0, 1000, (batch, frames)).astype(np.float32)
  length = config.text.length or TEXT_LENGTH
  return x, timesteps, normal(batch, length, model.text_dim)


def random_params(model, inputs):
  """Untrained weights, all shaken: a head of zeros would hide differences."""
  x, timesteps, text = inputs
  params = jax.jit(model.init)(
      jax.random.key(0), x, timesteps, Conditioning(text=text))['params']
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(1)
  return jax.tree.unflatten(tree, [
      x + .02 * rng.standard_normal(x.shape, np.float32) for x in leaves])


def _measure(options, batch, frames):
  model = comparable_model(options.config)
  inputs = random_inputs(model, options.config, batch, frames)
  params = jax.device_put(random_params(model, inputs))
  forward = jax.jit(lambda params, x, timesteps, text: model.apply(
      {'params': params}, x, timesteps, Conditioning(text=text)))
  on_device = [jnp.asarray(x) for x in inputs]
  ours = lambda: forward(params, *on_device)
  variants = {OURS: ours} | torch_variants(
      model, options.config, params, inputs)
  tolerance = TOLERANCE.get(jax.default_backend(), TOLERANCE['gpu'])
  differences = {name: pytorch.difference(fn(), ours(), tolerance)
                 for name, fn in variants.items()}
  samples = timing.seconds(variants, options.repeats)
  work = flops.count(forward, params, *inputs)
  return [{
      'videos': batch, 'latent_frames': frames, 'implementation': name,
      **timing.spread('seconds_per_forward', seconds),
      'gflop_per_second': work / float(np.median(seconds)) / 1e9,
      **timing.spread('ratio_to_ours', timing.ratios(seconds, samples[OURS])),
      'largest_relative_difference': differences[name],
  } for name, seconds in samples.items()]


def torch_variants(model, config, params, inputs):
  """Forward passes in PyTorch by name, on the device that JAX uses."""
  import torch

  from benchmarks import torch_wan
  on_gpu = jax.default_backend() == 'gpu'
  module = torch_wan.WanTransformer(
      model, inputs[0].shape[1], build.latent_size(config))
  module.load(params)
  module = module.to('cuda' if on_gpu else 'cpu').eval()
  tensors = [torch.tensor(x, device=module.cos.device) for x in inputs]

  def forward(fn):
    def run():
      with torch.inference_mode():
        out = fn(*tensors)
      if on_gpu:
        torch.cuda.synchronize()
      return out

    return run

  variants = {'torch': forward(module)}
  compiled = forward(torch.compile(module))
  try:
    compiled()
  except RuntimeError as e:  # No C++ compiler, for example.
    reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
    print(f'torch.compile is left out: {reason}', file=sys.stderr)
  else:
    variants['torch.compile'] = compiled
  return variants

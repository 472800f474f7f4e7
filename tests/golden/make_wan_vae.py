"""Writes wan_vae.npz: what diffusers' AutoencoderKLWan makes of random weights.

  pip install -e '.[parity]' && python -m tests.golden.make_wan_vae

The file holds diffusers' names and layouts, so that the key map is tested too.
`tests/parity/wan_vae_test.py` uses the functions for other sizes.
"""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).with_name('wan_vae.npz')

# Fields of our module, sizes that nobody has in mind.
FIELDS = dict(base=3, multipliers=(1, 2, 2, 2), num_res_blocks=1,
              temporal_downsample=(False, True, True), latent_channels=5)
SHAPE = (1, 9, 16, 24)  # [B, P, H, W]


def pytorch_vae(fields, seed=0):
  """diffusers' module of the same sizes as WanVAE(**fields), random weights."""
  import diffusers
  import torch

  vae = diffusers.AutoencoderKLWan(
      base_dim=fields['base'], z_dim=fields['latent_channels'],
      dim_mult=list(fields['multipliers']),
      num_res_blocks=fields['num_res_blocks'],
      temperal_downsample=list(fields['temporal_downsample'])).eval()
  rng = np.random.default_rng(seed)
  weights = {}
  for name, x in vae.state_dict().items():
    # Signals keep their size, every bias and norm counts.
    fan_in = np.prod(x.shape[1:]) if name.endswith('weight') else 10
    draw = rng.normal(size=x.shape) / np.sqrt(fan_in)
    # float16 holds them exactly, at half the size.
    weights[name] = np.float16(draw + name.endswith('gamma'))
  vae.load_state_dict({
      name: torch.from_numpy(np.float32(x)) for name, x in weights.items()})
  return vae, weights


def run_pytorch(vae, video_BPHWC, z_BFHWC):
  """(mean, log of variance, decoded): pixels in [0, 1], z not normalised."""
  import torch

  first = lambda x: torch.from_numpy(np.float32(x)).permute(0, 4, 1, 2, 3)
  last = lambda x: x.permute(0, 2, 3, 4, 1).numpy()
  with torch.no_grad():
    posterior = vae.encode(2 * first(video_BPHWC) - 1).latent_dist
    decoded = vae.decode(first(z_BFHWC)).sample
  return last(posterior.mean), last(posterior.logvar), (last(decoded) + 1) / 2


def draw_inputs(fields, shape, seed=1):
  """A video in [0, 1] and z, that float16 holds."""
  rng = np.random.default_rng(seed)
  batch, frames, height, width = shape
  space = 2**(len(fields['multipliers']) - 1)
  time = 2**sum(fields['temporal_downsample'])
  z_shape = (batch, 1 + (frames - 1) // time, height // space, width // space,
             fields['latent_channels'])
  return (np.float16(rng.uniform(size=(*shape, 3))),
          np.float16(rng.normal(size=z_shape)))


def main():
  vae, weights = pytorch_vae(FIELDS)
  video, z = draw_inputs(FIELDS, SHAPE)
  mean, log_variance, decoded = run_pytorch(vae, video, z)
  np.savez_compressed(
      GOLDEN, video=video, z=z, mean=mean, log_variance=log_variance,
      decoded=decoded,
      **{f'weights/{name}': x for name, x in weights.items()})


if __name__ == '__main__':
  main()

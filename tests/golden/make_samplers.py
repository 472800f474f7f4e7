"""Writes samplers.npz: what UniPC of diffusers makes of random velocities.

Command:  python -m tests.golden.make_samplers   (needs the extra [parity])
"""

import pathlib

import numpy as np

from tests.parity import samplers_test as parity

GOLDEN = pathlib.Path(__file__).with_name('samplers.npz')


def main():
  golden = {}
  for grid in ('wan', 'diffusers_unipc'):
    for num_steps in (50, 7):
      noise, velocities = parity.draw(num_steps)
      scheduler = parity.unipc_of_diffusers(num_steps, grid)
      samples = parity.their_samples(scheduler, noise, velocities)
      golden[f'{grid}/{num_steps}'] = samples[..., :1]  # One of 4 channels.
  np.savez_compressed(GOLDEN, **golden)


if __name__ == '__main__':
  main()

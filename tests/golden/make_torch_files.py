"""Writes torch_files.pt with torch, and what is in it with NumPy.

  pip install -e '.[parity]' && python tests/golden/make_torch_files.py
"""

import pathlib

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).resolve().parent


def tree():
  """A checkpoint in Self-Forcing's form, and what else files have."""
  torch.manual_seed(0)
  model = torch.nn.Linear(3, 5)
  base = torch.arange(60.).reshape(3, 4, 5)
  dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
            torch.float8_e5m2, torch.int64, torch.int32, torch.int16,
            torch.int8, torch.uint8, torch.uint16, torch.bool, torch.complex64)
  return {
      'generator': model.state_dict(), 'generator_ema': dict(
          model.named_parameters()), 'step': 600,
      'dtypes': {str(d).partition('.')[2]: torch.arange(6).to(d)
                 for d in dtypes},
      'views': [base[1:, :, 2], base.permute(2, 0, 1), base[2, 3], base.mT,
                torch.tensor(3.), torch.zeros(3, 0, 2)],
      'buffer': torch.nn.Buffer(torch.ones(2)), 'size': torch.Size([1, 2]),
      'dtype': torch.bfloat16}


def flat(node, path=()):
  """(path, tensor) of a tree."""
  if isinstance(node, torch.Tensor):
    yield '/'.join(path), node.detach()
  elif isinstance(node, (dict, list)):
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
      yield from flat(value, (*path, str(key)))


def bits(x: torch.Tensor) -> np.ndarray:
  """As unsigned integers; .npz has no bfloat16. Complex: as pairs."""
  if x.is_complex():
    return x.contiguous().numpy().view(np.uint64)
  unsigned = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32,
              8: torch.uint64}[x.element_size()]
  return x.contiguous().view(unsigned).numpy()


def main():
  found = tree()
  torch.save(found, FOLDER / 'torch_files.pt')
  np.savez_compressed(FOLDER / 'torch_files.npz', **{
      f'{name}|{str(x.dtype).partition(".")[2]}': bits(x)
      for name, x in flat(found)})


if __name__ == '__main__':
  main()

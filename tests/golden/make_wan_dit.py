"""Writes wan_dit.npz and wan_dit_keys.json: what diffusers says of Wan's model.

The first holds weights, inputs, velocity and gradients of the smallest case of
tests/parity/wan_dit_test.py, which has every stream. The second holds, for each
published size, the tensors outside the layers and in layer 0, with shapes, from
the class on PyTorch's meta device; for 1.3B also by Wan's own names, which are
read from a list that was made with Wan's own class.

Command:  python -m tests.golden.make_wan_dit LIST    (needs [parity])
"""

import ast
import json
import pathlib
import sys

import numpy as np

from tests.parity import wan_dit_keys_test as keys
from tests.parity import wan_dit_test as parity

FOLDER = pathlib.Path(__file__).parent
CASE = parity.CASES['first_and_last']
# Gradients of these; of all they would be as large as the weights.
SHOWN = ('patch_embedding.weight', 'blocks.0.attn2.add_k_proj.weight',
         'blocks.1.norm2.weight', 'scale_shift_table')


def main(names_of_wan):
  v, of_x, of_params = parity.their_results(CASE)
  golden = {'v': v, 'of_x': of_x}
  golden |= {f'of/{name}': of_params[name] for name in SHOWN}
  for name, x in parity.their_model(CASE)[1].items():
    golden[f'weights/{name}'] = np.float16(x)
  for name, x in parity.inputs_of(CASE).items():
    golden[f'inputs/{name}'] = np.float32(x) if name == 't' else np.float16(x)
  np.savez_compressed(FOLDER / 'wan_dit.npz', **golden)

  models = {}
  for name, config in keys.MODELS.items():
    shapes = keys.their_shapes(config)
    models[name] = dict(
        layers=config['num_layers'], tensors=len(shapes),
        parameters=sum(int(np.prod(shape)) for shape in shapes.values()),
        diffusers=first_layer(shapes))
  models['1.3B T2V']['wan'] = read(names_of_wan)
  (FOLDER / 'wan_dit_keys.json').write_text(json.dumps(models, indent=1))


def first_layer(shapes):
  return {name: list(shape) for name, shape in shapes.items()
          if not name.startswith('blocks.') or name.startswith('blocks.0.')}


def read(path):
  """Lines 'name (shape)' of the first section of a file."""
  section = pathlib.Path(path).read_text().split('\n## ')[0]
  rows = (line.split(' ', 1) for line in section.splitlines()[1:])
  return {name: list(ast.literal_eval(shape)) for name, shape in rows}


if __name__ == '__main__':
  main(sys.argv[1])

"""The memory of a conversion: there and back, at the sizes of Wan's 14B.

  python -m benchmarks.convert --layers=20 [--dtype=bfloat16 --out=FOLDER]

Writes a file of random weights with the 14B model's tensors, fewer layers of
them if the disk has not room for all 40; converts it into a world, and the
world back into a file, each in a process of its own, by the command that users
type; and compares the tensors, bit by bit. A row tells the largest resident
memory of each process. That does not depend on the number of layers: at most
one tensor is in memory, the transposed copy of it, and chunks of the checkpoint
on their way to the disk.

With --holes the file's numbers are zeros that take no room on the disk, so that
all layers of float32 can be read, and are rounded to bfloat16; there is no way
back then.
"""

import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

from absl import flags
from absl import logging
import numpy as np

from benchmarks import results
from configs import wan_1_3b
from worldsim_jax import command_line
from worldsim_jax.convert import files as weight_files
from worldsim_jax.convert import mapping
from worldsim_jax.convert import safetensors_file
from worldsim_jax.convert import tensors
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.errors import UserError
from worldsim_jax.models.transformer import VideoTransformer

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = 'diffusion_pytorch_model.safetensors'
SHARD_BYTES = 10**10

_LAYERS = flags.DEFINE_integer('layers', 40, 'Of the 14B model, which has 40.')
_DTYPE = flags.DEFINE_enum('dtype', 'bfloat16', ['bfloat16', 'float32'], '')
_HOLES = flags.DEFINE_bool('holes', False, 'Zeros, which take no room.')
_SCRATCH = flags.DEFINE_string('scratch', None, 'Where there is room.')
_OUT = flags.DEFINE_string(
    'out', str(ROOT / 'benchmarks/results'), 'Folder of the results.')


def published(layers: int, dtype: str) -> dict[str, tensors.Computed]:
  """Random tensors of the model by name; the same whenever they are read."""
  model = VideoTransformer(
      text_dim=4096, **wan_1_3b.MODEL_14B | {'num_layers': layers})
  params = wan_dit_keys.shapes(model)
  flat, kind = mapping.flatten(params), tensors.BY_NAME[dtype].dtype
  found = {}
  for i, (name, place) in enumerate(
      wan_dit_keys.places(params, 'wan').items()):
    shape = mapping.shape_there(flat[place.path].shape, place)
    found[name] = tensors.Computed(
        shape, kind, lambda i=i, shape=shape: _random(i, shape, kind))
  return found


def _random(seed, shape, dtype):
  """Normal numbers: their exponents repeat, as those of weights do."""
  x = np.random.default_rng(seed).standard_normal(shape, np.float32)
  return x.astype(dtype)


def write_holes(path, named):
  """A safetensors file of zeros that were never written."""
  header, end = {}, 0
  for name, x in named.items():
    header[name] = {
        'dtype': tensors.BY_NAME[x.dtype.name].safetensors,
        'shape': x.shape, 'data_offsets': [end, end + tensors.size_of(x)]}
    end += tensors.size_of(x)
  text = json.dumps(header).encode()
  with path.open('wb') as f:
    f.write(struct.pack('<Q', len(text)) + text)
    f.truncate(8 + len(text) + end)


def run(*arguments) -> float:
  """Runs `--mode=convert`; returns its largest resident memory, in GB."""
  command = [sys.executable, '-m', 'worldsim_jax.main', '--mode=convert',
             *map(str, arguments)]
  process = subprocess.Popen(command, cwd=ROOT)
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise UserError(f'{" ".join(command)} ended with {status}')
  return usage.ru_maxrss * 1024 / 1e9


def digest(array) -> str:
  return hashlib.blake2b(np.ascontiguousarray(array).view(np.uint8)).hexdigest()


def measure(layers: int, dtype: str, holes: bool, folder) -> dict:
  """One row; see the module docstring."""
  named, source = published(layers, dtype), folder / 'given' / NAME
  size = sum(map(tensors.size_of, named.values()))
  row = {'layers': layers, 'dtype': dtype, 'tensors': len(named),
         'source_gb': size / 1e9,
         'largest_tensor_gb': max(map(tensors.size_of, named.values())) / 1e9}
  source.parent.mkdir()
  if holes:
    write_holes(source, named)
  else:
    safetensors_file.write_safetensors(source, named, shard_bytes=SHARD_BYTES)
  row['resident_gb_in'] = run(
      f'--source={source.parent}', f'--target={folder}/world',
      *['--weights_dtype=bfloat16'] * holes)
  if holes:
    return row
  shutil.rmtree(source.parent)  # Room for the way back.
  row['resident_gb_out'] = run(
      f'--source={folder}/world', f'--target={folder}/back', '--format=wan')
  back = weight_files.open_weights(folder / 'back')
  if back.keys() != named.keys():
    raise UserError('the tensors that came back are others')
  for name, x in named.items():
    if digest(back[name].read()) != digest(x.read()):
      raise UserError(f'{name} came back with other bits')
  return row | {'tensors_with_other_bits': 0}


def main(argv):
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  with tempfile.TemporaryDirectory(dir=_SCRATCH.value) as folder:
    row = measure(_LAYERS.value, _DTYPE.value, _HOLES.value,
                  pathlib.Path(folder))
  result = {'benchmark': 'convert', 'command': ' '.join(
      ['python -m benchmarks.convert', *sys.argv[1:]]),
            'environment': results.environment(), 'rows': [row]}
  print(results.table([row]))
  name = 'convert_holes' if _HOLES.value else 'convert'
  print(f'written to {results.write(_OUT.value, name, result)}')


if __name__ == '__main__':
  command_line.run(main)

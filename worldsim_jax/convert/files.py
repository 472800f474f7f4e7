"""`open_weights`: a file or folder of weights, whatever wrote it.

  x.safetensors                      one file
  x.safetensors.index.json           the shards that it lists
  x.pt, x.pth, x.ckpt, x.bin         torch.save, by content
  a folder with some of these        the safetensors in it, or one torch file

A component of a diffusers pipeline is such a folder, with config.json; so is
Wan's own folder of a transformer.
"""

import json
import os

from worldsim_jax.convert import safetensors_file
from worldsim_jax.convert import tensors
from worldsim_jax.convert import torch_file
from worldsim_jax.convert.tensors import Weights
from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths

CONFIG = 'config.json'
PIPELINE = 'model_index.json'
_TORCH = ('.pt', '.pth', '.ckpt', '.bin')


def open_weights(path) -> Weights:
  """The tensors at `path`, to be read one by one.

  Args:
    path: a file or a folder, local or gs://.

  Raises:
    UserError: if there are none, or it is not clear which ones are meant.
  """
  path = paths.folder(path)
  with paths.named_errors(path):
    if not path.exists():
      raise UserError(f'{path} is not there')
    if not path.is_dir():
      return _open_file(path)
    weights = _open_folder(path)
    weights.config = _config(path / CONFIG)
    return weights


def has_safetensors(folder) -> bool:
  """Whether a folder has files of that format, which then are its weights."""
  return any(f.name.endswith((safetensors_file.SUFFIX, safetensors_file.INDEX))
             for f in folder.iterdir())


def _open_file(path) -> Weights:
  if path.name.endswith('.index.json'):
    return safetensors_file.open_index(path)
  with tensors.opened(path) as f:
    start = f.read(len(torch_file.MAGIC))
  if start == torch_file.MAGIC or path.suffix in _TORCH:
    return torch_file.open_torch(path)
  return safetensors_file.open_safetensors(path)


def _open_folder(folder) -> Weights:
  files = sorted((f for f in folder.iterdir() if not f.name.startswith('.')),
                 key=os.fspath)
  indices = [f for f in files if f.name.endswith(safetensors_file.INDEX)]
  if indices:
    return safetensors_file.open_index(_only(folder, indices))
  shards = [f for f in files if f.name.endswith(safetensors_file.SUFFIX)]
  if shards:
    stems = {safetensors_file.stem(f.name): f for f in shards}
    _only(folder, list(stems.values()))
    return safetensors_file.open_all(folder, shards)
  torches = [f for f in files if f.suffix in _TORCH]
  if torches:
    return torch_file.open_torch(_only(folder, torches))
  inside = sorted(f.name for f in files if f.is_dir())
  if (folder / PIPELINE).exists():
    raise UserError(f'{folder} is a whole pipeline; name one of its folders, '
                    f'such as {folder / "transformer"}')
  raise UserError(f'{folder} has no weights (*{safetensors_file.SUFFIX}, '
                  f'{", ".join(f"*{suffix}" for suffix in _TORCH)})'
                  + f'; it has {", ".join(inside[:8])}' * bool(inside))


def _only(folder, found):
  if len(found) > 1:
    raise UserError(f'{folder} has {len(found)} sets of weights; name one of '
                    f'{", ".join(f.name for f in found[:8])}')
  return found[0]


def _config(path) -> dict | None:
  if not path.exists():
    return None
  try:
    found = json.loads(path.read_text())
  except ValueError as e:
    raise UserError(f'{path} is no JSON: {paths.first_line(e)}') from e
  if not isinstance(found, dict):
    raise UserError(f'{path} is no JSON object')
  return found

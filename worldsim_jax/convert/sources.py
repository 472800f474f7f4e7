"""What the files that a user names are: their tensors' names tell.

  transformer   Wan's, or diffusers'; Self Forcing's files hold several
  tokenizer     Wan 2.1's VAE in either format, or TAEHV
  text encoder  umT5 in either format
  LoRA          low-rank changes of the transformer

A folder may be one of these, a pipeline of diffusers with all of them, or Wan's
own release, whose files lie side by side.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from worldsim_jax.convert import files
from worldsim_jax.convert import lora
from worldsim_jax.convert import taehv_keys
from worldsim_jax.convert import umt5_keys
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.convert import wan_vae_keys
from worldsim_jax.convert.tensors import Weights
from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths

TRANSFORMER, TOKENIZER = 'transformer', 'tokenizer'
TEXT_ENCODER, LORA = 'text encoder', 'LoRA'
_KEYS = ((TRANSFORMER, wan_dit_keys), (TOKENIZER, wan_vae_keys),
         (TOKENIZER, taehv_keys), (TEXT_ENCODER, umt5_keys))
_PIPELINE_FOLDERS = ('transformer', 'vae', 'text_encoder')
_TORCH = ('.pt', '.pth')


class Source(NamedTuple):
  """One component.

  Attributes:
    kind: of those above.
    keys: the module `*_keys` that knows its names; None for a LoRA.
    weights: its tensors, by their names in the file.
    network: of a file that holds several: which one.
  """
  kind: str
  keys: Any
  weights: Weights
  network: str = ''

  @property
  def file(self) -> str:
    return self.weights.file


def find(named: Sequence[str], network: str = '') -> dict[str, Source]:
  """The components of all files and folders that are named, by their kind.

  Args:
    named: files and folders.
    network: of a file that holds several; default: the generator's average,
      or else the generator.

  Raises:
    UserError: for a file of something else, or two of the same kind.
  """
  found, folders = {}, []
  for path in map(paths.folder, filter(None, named)):
    if not path.exists():
      raise UserError(f'--source: {path} is not there')
    if path.is_dir():
      folders += _inside(path, network)
    else:
      _add(found, _identify(files.open_weights(path), network))
  named_by_file = set(found)  # They go before what a folder has of the kind.
  for source in folders:
    if source.kind not in named_by_file:
      _add(found, source)
  if network and not any(source.network for source in found.values()):
    raise UserError(f'--network={network} is there for files of several '
                    'networks, of which none was named')
  return found


def _add(found, source):
  if source.kind in found:
    raise UserError(
        f'{found[source.kind].file} and {source.file} are both a '
        f'{source.kind}: name the file of one in --source')
  found[source.kind] = source


def _inside(folder, network) -> list[Source]:
  """The components of a folder."""
  if (folder / files.PIPELINE).exists():
    return [_identify(files.open_weights(folder / name), network)
            for name in _PIPELINE_FOLDERS if (folder / name).exists()]
  parts = sorted(f for f in folder.iterdir() if f.suffix in _TORCH)
  if files.has_safetensors(folder) or not parts:
    parts.insert(0, folder)
  if len(parts) == 1:
    return [_identify(files.open_weights(parts[0]), network)]
  found = []
  for part in parts:  # A release has more than we read, such as CLIP.
    try:
      found.append(_identify(files.open_weights(part), network))
    except UserError as e:
      print(f'not read: {e}')
  if not found:
    raise UserError(f'{folder} has nothing that can be read')
  return found


def _identify(weights: Weights, network: str) -> Source:
  """What a file is.

  Raises:
    UserError: if it is nothing that we read.
  """
  if lora.is_lora(weights):
    if wan_dit_keys.find_format(wan_dit_keys.own(weights)):
      raise UserError(f'{weights.file} has a transformer and a LoRA together: '
                      'name the file of each')
    return Source(LORA, None, weights)
  weights, network = _one_network(weights, network)
  for kind, keys in _KEYS:
    if keys.find_format(keys.own(weights)):
      return Source(kind, keys, weights, network)
  shown = ', '.join(sorted(weights)[:3])
  raise UserError(
      f'{weights.file} is of no model that can be read (a Wan transformer, '
      f"Wan 2.1's VAE, TAEHV, umT5): its {len(weights)} tensors are called "
      f'{shown} ...')


def _one_network(weights: Weights, network: str) -> tuple[Weights, str]:
  """The tensors of one network, without what they are grouped in."""
  groups = weights.groups()
  known = [name for name in wan_dit_keys.GROUPS if name in groups]
  if known:
    if network and network not in known:
      raise UserError(f'{weights.file} has no --network={network} but '
                      f'{", ".join(known)}')
    name = network or known[0]
    return weights.group(name), name
  # {'state_dict': ...} and its like.
  if len(groups) == 1 and sum(groups.values()) == len(weights):
    return _one_network(weights.group(*groups), network)
  return weights, ''


def plain(found: Mapping[str, Source]) -> str:
  """What was found, in words."""
  return ', '.join(f'{kind} {source.file}' + (
      f' ({source.network})' if source.network else '')
                   for kind, source in found.items())

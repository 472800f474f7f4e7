"""LoRA weights of a Wan transformer, merged into those that they were made for.

LoRA (arXiv:2106.09685, Section 4.1) adds to a weight W [out, in] a product,

  W' = W + alpha / rank * B A,     B [out, rank], A [rank, in]

A merged tensor is computed when it is read, in float32 or better, and rounded
once to the dtype of W; so that one at a time is in memory. What a file holds,
with MODULE as 'blocks.0.self_attn.q':

  MODULE.lora_A.weight, .lora_B.weight     A, B: peft, diffusers
  MODULE.lora_A.default.weight, ...        the same, with an adapter's name
  MODULE.lora_down.weight, .lora_up.weight A, B: kohya, ComfyUI, LightX2V
  MODULE.alpha                             a number
  MODULE.diff, .diff_b, .diff_m            added to weight, bias, modulation

and MODULE is a name of Wan or of diffusers, whichever the base has, with

  base_model.model.   peft (get_peft_model_state_dict takes the adapter's name
                      out: huggingface/peft, src/peft/utils/save_and_load.py)
  diffusion_model.    ComfyUI; LightX2V (ModelTC/LightX2V, tools/extract/
                      lora_extractor.py, whence the differences are)
  transformer.        diffusers (src/diffusers/loaders/lora_conversion_utils.py)
  lora_unet_          kohya (kohya-ss/musubi-tuner, src/musubi_tuner/
                      convert_lora.py): every dot is an underscore then;
                      lora_unet__ and lycoris_ are its relatives (kijai/
                      ComfyUI-WanVideoWrapper, nodes_model_loading.py)

in front, or nothing. LongLive's lora.pt (NVlabs/LongLive v1.0, trainer/
distillation.py and utils/lora_utils.py) has the groups generator_lora and
critic_lora and the number `step`: names of peft, of all Linears of the blocks,
rank 256, and no alpha, which is 256 in its configs. Its inference.py takes
generator_lora for the generator and for its average alike.

Rank-stabilised LoRA divides alpha by sqrt(rank), which tensors do not show:
pass alpha = its alpha * sqrt(rank). DoRA, LoHa, LoKr and biases of factors are
refused by name.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import functools
import json
import math
import re

import jax.numpy as jnp
import numpy as np

from worldsim_jax.convert import tensors
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.convert.tensors import Readable
from worldsim_jax.convert.tensors import short
from worldsim_jax.convert.tensors import Weights
from worldsim_jax.errors import UserError

# Whatever has a name of its own in an adapter's file, merged here or not.
_MARK = re.compile(r'\.(?:lora_|dora_scale$|diff(?:_[bm])?$|hada_|lokr_)')
_PART = re.compile(
    r'(.+?)\.(?:lora_(A|B|down|up)(?:\.[^.]+)?\.weight|(alpha|diff(?:_[bm])?))')
_FRONT = re.compile(
    r'(?:(?:base_model|model|module|diffusion_model|transformer|pipe|dit)\.)+'
    r'|lora_unet_+|lycoris_')
_DORA = re.compile(r'dora_scale|lora_magnitude_vector')
_FACTORS = {'A': 'down', 'B': 'up', 'down': 'down', 'up': 'up'}
_TWINS = {'A': 'B', 'B': 'A', 'down': 'up', 'up': 'down'}
# What a part is added to; a table of modulation has no `.weight`.
_LEAVES = {'diff': ('.weight', ''), 'diff_b': ('.bias',),
           'diff_m': ('.modulation',)}
_METADATA = 'lora_adapter_metadata'  # Where diffusers keeps peft's config.
# Quantised weights have scales beside them, which would have to change too.
_MERGEABLE = tuple(map(jnp.dtype, (
    np.float64, np.float32, np.float16, jnp.bfloat16)))


def is_lora(names: Iterable[str]) -> bool:
  """Whether tensors of these names are an adapter's, of whatever kind."""
  return any(_MARK.search(name) for name in names)


def merged(base: Mapping[str, Readable], lora: Weights, network=None,
           alpha: float | None = None) -> dict[str, Readable]:
  """The tensors of a transformer, those that a LoRA changes as their sums.

  Args:
    base: by bare names (`wan_dit_keys.bare`) of either family.
    lora: as opened; its names may be of the other family.
    network: which of the file's groups, 'generator' or 'critic', if it has
      some; by default the generator's or the only one.
    alpha: where the file has no `.alpha`; by default that of its metadata,
      else the rank, which scales by one.

  Returns:
    All tensors of the base; those without LoRA are the same objects.

  Raises:
    UserError: if the file is no LoRA of this base; said before any tensor of
      either is read.
  """
  if alpha is not None and not _is_alpha(alpha):
    raise ValueError(f'alpha={alpha!r} should be a finite number but 0')
  lora = _of_network(lora, network)
  parts = _parts(base, lora)
  if alpha is None:
    alpha = _declared_alpha(lora)
  found = dict(base)
  for target, part in parts.items():
    weight = base[target]
    _check(target, weight, lora, part)
    found[target] = tensors.Computed(
        tuple(weight.shape), weight.dtype,
        functools.partial(_sum, weight, lora, part, alpha))
  return found


def _of_network(lora: Weights, network: str | None) -> Weights:
  """The group of one network, if the file has groups."""
  groups = lora.groups()
  if not groups:
    return lora
  wanted = network or 'generator'
  for name in (wanted, f'{wanted}_lora', f'{wanted.removesuffix("_ema")}_lora'):
    if name in groups:
      return lora.group(name)
  if network is None and len(groups) == 1:
    return lora.group(*groups)
  raise UserError(f'{lora.file} has no LoRA of the network {wanted!r} but '
                  f'{short(", ".join(groups))}')


def _parts(base, lora: Weights) -> dict[str, dict[str, str]]:
  """{tensor of the base: {'down', 'up', 'alpha', 'diff': name in the file}}."""
  by_flat_name = {_flat(name): name for name in base}
  for name in base:
    other = wan_dit_keys.other_name(name)
    if other:
      by_flat_name.setdefault(_flat(other), name)
  # Next to it, PyTorch's files may have any number, such as a step.
  numbers = [name for name in lora.scalars if name.endswith('.alpha')]
  found = {}
  for name in (*lora, *numbers):
    module, kind = _split(name, lora)
    leaves = _LEAVES.get(kind, ('.weight',))
    targets = [by_flat_name.get(_flat(module + leaf)) for leaf in leaves]
    target = next(filter(None, targets), None)
    if target is None:
      raise UserError(
          f'{_shown(lora, name)} is for {short(module + leaves[0])}, which '
          f'{getattr(base, "file", "the base")} does not have')
    part, kind = found.setdefault(target, {}), kind.partition('_')[0]
    if kind in part:
      raise UserError(f'{_shown(lora, name)} is there twice, also as '
                      f'{short(part[kind])}')
    part[kind] = name
  if not found:
    raise UserError(f'{lora.file} has no LoRA')
  return found


def _flat(name: str) -> str:
  """As kohya writes it, who makes one word of a path."""
  return name.replace('.', '_')


def _split(name: str, lora: Weights) -> tuple[str, str]:
  """(the module, 'down', 'up', 'alpha' or a key of _LEAVES) of a name."""
  if _DORA.search(name):
    raise UserError(f'{_shown(lora, name)} is of DoRA, which also changes the '
                    'lengths of W, and is not merged here')
  bare = wan_dit_keys.bare(name)
  front = _FRONT.match(bare)
  match = _PART.fullmatch(bare, front.end() if front else 0)
  if match is None:
    raise UserError(
        f'{_shown(lora, name)} is no part of a LoRA that is merged here: those '
        'are lora_A, lora_B, lora_down, lora_up, alpha, diff, diff_b, diff_m')
  module, factor, kind = match.groups()
  return module, _FACTORS[factor] if factor else kind


def _check(target: str, weight: Readable, lora: Weights, part):
  """Raises UserError unless the parts are those of this tensor."""
  if weight.dtype not in _MERGEABLE:
    raise UserError(
        f'{_shown(lora, next(iter(part.values())))} cannot be merged into '
        f'{target}, which is {weight.dtype}; take a base of bfloat16, float16 '
        'or float32')
  for kind, name in part.items():
    if kind in _TWINS and _TWINS[kind] not in part:
      twin = re.sub(r'(?<=\.lora_)(?:A|B|down|up)\b',
                    lambda factor: _TWINS[factor[0]], name)
      raise UserError(f'{_shown(lora, name)} has no {short(twin)} beside it')
    if kind == 'alpha' and 'down' not in part:
      raise UserError(f'{_shown(lora, name)} has no factors beside it')
    if kind == 'alpha' and name in lora.scalars:
      _check_alpha(lora, name, lora.scalars[name])
    elif not jnp.issubdtype(lora[name].dtype, jnp.floating) and not (
        kind == 'alpha' and jnp.issubdtype(lora[name].dtype, jnp.integer)):
      raise UserError(f'{_shown(lora, name)} is {lora[name].dtype}, expected '
                      'floating point numbers')
  for kind, expected in _shapes(tuple(weight.shape), lora, part).items():
    shape = tuple(lora[part[kind]].shape)
    # Of a convolution, B is a convolution of one pixel; a number may be [1].
    if shape[:len(expected)] != expected or math.prod(shape) != math.prod(
        expected):
      raise UserError(
          f'{_shown(lora, part[kind])} has shape {shape}, expected {expected}: '
          f'{target} is {tuple(weight.shape)}')


def _shapes(shape, lora: Weights, part) -> dict[str, tuple[int, ...]]:
  """What the shapes of the parts of a tensor should be."""
  found = {'diff': shape} if 'diff' in part else {}
  if 'down' in part:
    if len(shape) < 2:
      raise UserError(f'{_shown(lora, part["down"])} is for a tensor of shape '
                      f'{shape}, which has no factors')
    rank = max([1, *lora[part['down']].shape[:1]])
    found |= {'down': (rank, *shape[1:]), 'up': (shape[0], rank)}
  if part.get('alpha') in lora:
    found['alpha'] = ()
  return found


def _sum(weight: Readable, lora: Weights, part, alpha) -> np.ndarray:
  """W + alpha / rank * B A, and a difference, if there is one."""
  dtype = np.promote_types(weight.dtype, np.float32)
  total = np.zeros((), dtype)
  if 'down' in part:
    down, up = (lora[part[kind]].read() for kind in ('down', 'up'))
    rank = down.shape[0]
    total = up.reshape(-1, rank).astype(dtype) @ down.reshape(
        rank, -1).astype(dtype)
    if 'alpha' in part:
      alpha = _alpha(lora, part['alpha'])
    if alpha is not None:
      total *= alpha / rank
    total = total.reshape(weight.shape)
  if 'diff' in part:
    difference = lora[part['diff']].read().astype(dtype)
    total = total + difference.reshape(weight.shape)
  found = weight.read().astype(dtype, copy=False)
  unchanged = total == 0
  total += found
  np.copyto(total, found, where=unchanged)  # The sum of -0 and 0 is 0.
  return total.astype(weight.dtype, copy=False)


def _alpha(lora: Weights, name: str) -> float:
  if name in lora.scalars:
    return lora.scalars[name]
  alpha = float(lora[name].read().reshape(()))
  _check_alpha(lora, name, alpha)
  return alpha


def _check_alpha(lora: Weights, name: str, alpha):
  if not _is_alpha(alpha):
    raise UserError(f'{_shown(lora, name)} is {short(str(alpha))}, expected a '
                    'finite number but 0')


def _is_alpha(alpha) -> bool:
  # Infinity and NaN are out, and what float32 does not hold.
  return type(alpha) in (int, float) and 0 < abs(alpha) < 1e30


def _declared_alpha(lora: Weights) -> float | None:
  """The alpha of peft's config, which diffusers writes beside the tensors."""
  text = lora.scalars.get(_METADATA)
  if text is None:
    return None
  try:
    config = json.loads(text)
    config = {key.removeprefix('transformer.'): config[key] for key in config}
  except (TypeError, ValueError, AttributeError, RecursionError) as e:
    raise UserError(f'{lora.file}: {_METADATA} is no JSON of a config') from e
  for key in ('use_rslora', 'alpha_pattern'):
    if config.get(key):
      raise UserError(f'{lora.file}: {_METADATA} has {key}, which is not '
                      'merged here unless alpha is given')
  alpha = config.get('lora_alpha')
  if alpha is not None:
    _check_alpha(lora, _METADATA, alpha)
  return alpha


def _shown(lora: Weights, name: str) -> str:
  return f'{lora.file}: {short(name)}'

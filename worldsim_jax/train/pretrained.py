"""Networks that start from published weights: `config.<stage>.weights`.

It names a world that `--mode=convert` wrote (or a run left), whose transformer
becomes the stage's network before its first step. With num_steps=0 there is no
step: the network is used as it is, and keeps the bits of the file.

A network may have more than its weights do, such as actions for a model of
prompts; the new parameters start as in a training from nothing, where what is
added to a pretrained model starts at zero.
"""

import functools

from flax import traverse_util
import jax

from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.parallel import layout
from worldsim_jax.storage import checksums
from worldsim_jax.streaming import files


def key(stage: str) -> str:
  """What a stage's weights are called among the trained networks."""
  return f'{stage}.weights'


def names(config) -> list[str]:
  """The stages that have weights."""
  return [name for name in config.stages if config[name].get('weights')]


def check(config):
  """Whether all weights fit their networks, without reading any.

  Raises:
    UserError: with the name of the first parameter that does not.
  """
  for name in names(config):
    _matched(config, name, files.described(config[name].weights).shapes)


def fingerprint(config, name: str) -> str:
  """Another one for other weights, wherever they lie."""
  return checksums.fingerprint(
      files.described(config[name].weights).directory)


def load(config, name: str, mesh):
  """The weights of a stage, on the mesh; what they do not have is left out.

  Each process reads the parts that its devices need.

  Raises:
    UserError: if they are damaged or do not fit.
  """
  stored = files.stored(config[name].weights).variables['student']
  shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored)
  new = _matched(config, name, {'student': shapes})
  told = f'; new beside them: {", ".join(new[:4])}' if new else ''
  print(f'{name}: starts from {config[name].weights}{told}')
  return jax.tree.map(
      lambda x, sharding: jax.make_array_from_callback(
          x.shape, sharding, x.__getitem__),
      stored, layout.shardings(mesh, shapes))


def laid_over(initial, weights):
  """The initial parameters of a network, with weights where there are some.

  Optimisers want float32, whatever the weights were saved in.
  """
  flat = traverse_util.flatten_dict(initial)
  for path, x in traverse_util.flatten_dict(weights).items():
    flat[path] = x.astype(flat[path].dtype)
  return traverse_util.unflatten_dict(flat)


def _matched(config, name, shapes) -> list[str]:
  """Names of the network's parameters that the weights do not have."""
  where = f'config.{name}.weights={config[name].weights}'
  given = traverse_util.flatten_dict(shapes['student'])
  if not given:
    raise UserError(f'{where} has no transformer')
  own = traverse_util.flatten_dict(_initial_shapes(config, name))
  for path, x in given.items():
    if path not in own:
      raise UserError(f'{where}: its {"/".join(path)} {x.shape} has no place '
                      f'in the network of config.model')
    if own[path].shape != tuple(x.shape):
      raise UserError(
          f'{where}: its {"/".join(path)} has shape {tuple(x.shape)}, the '
          f'network of config.model {own[path].shape}')
  new = ['/'.join(path) for path in own if path not in given]
  if new and not config[name].num_steps:
    raise UserError(f'{where} lacks {new[0]}, and config.{name}.num_steps=0 '
                    'trains nothing')
  return new


def _initial_shapes(config, name):
  own = build.for_network(config, name)
  return jax.eval_shape(functools.partial(
      build.denoiser(own).init, jax.random.key(0)),
                        *build.example_inputs(own))['params']

"""Worlds from the checkpoints of a run, finished or not.

A finished run leaves its world in <workdir>/world. Before that, and for any
stage, a world is the tokenizer (<workdir>/latent_space, which is written as
soon as latents are) and the network of a stage's newest checkpoint. Unless it
is asked for, that is a causal one, if there are any.
"""

import json

import ml_collections

from worldsim_jax.errors import UserError
from worldsim_jax.forcing import paradigms
from worldsim_jax.storage import paths
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World
from worldsim_jax.train import checkpoints

LATENT_SPACE, WORLD = 'latent_space', 'world'


def load(path, stage: str = '') -> World:
  """The world of a folder.

  Args:
    path: a world, or a workdir.
    stage: of a workdir: the stage whose newest checkpoint is the student.
      Default: the finished world; while there is none, the latest stage that
      has a checkpoint, of the causal ones if the config has such.

  Raises:
    UserError: if there is no world.
  """
  path = paths.folder(path)
  with paths.named_errors(path):
    return _load(path, stage)


def _load(path, stage: str) -> World:
  if not stage and (files.is_world(path) or files.is_world(path / WORLD)):
    return files.load(path)
  if not files.is_world(path / LATENT_SPACE):
    if stage:
      raise UserError(f'{path} has no {LATENT_SPACE}/, which a run leaves '
                      'there when its tokenizer is trained.')
    return files.load(path)  # It says what is missing.
  world = files.load(path / LATENT_SPACE)
  stages = _playing(world.config)
  if stage and stage not in stages:
    raise UserError(f'--stage={stage} is not one of {", ".join(stages)}, whose '
                    'networks can play.')
  for name in [stage] if stage else reversed(stages):
    found = checkpoints.newest_params(path / name, name)
    if found is not None:
      step, params = found
      print(f'student: {name} after {step} of '
            f'{world.config[name].num_steps} steps')
      config = world.config.copy_and_resolve_references()
      # What a world can do is told by its last stage.
      config.stages = config.stages[:config.stages.index(name) + 1]
      return World(config, params, world.vae_variables, world.starts)
  raise UserError(f'{path} has no checkpoint of {stage or " or ".join(stages)} '
                  'yet.')


def _playing(config) -> list[str]:
  """Stages whose networks are worlds: causal ones, if there are any."""
  models = [name for name in config.stages
            if config[name].paradigm != 'tokenizer']
  causal = [name for name in models
            if config[name].paradigm in paradigms.CAUSAL]
  return causal or models


def tokenizer(path) -> World:
  """The tokenizer of a workdir, a world or a latent set; it has no student.

  Raises:
    UserError: if there is none.
  """
  path = paths.folder(path)
  if files.is_world(path / LATENT_SPACE):
    return files.load(path / LATENT_SPACE)
  world = files.load(path)
  return World(world.config, {}, world.vae_variables, world.starts)

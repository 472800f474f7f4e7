"""Trials on a small record set of the real engine, made once per process."""

import atexit
import dataclasses
import functools
import shutil
import tempfile

from tests.streaming import tiny_world
from worldsim_jax.data import splits
from worldsim_jax.data import worlds
from worldsim_jax.evaluate import replay
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.trial import Trial
from worldsim_jax.streaming.world import World

GIVEN = 2


def config(**evaluate):
  """Of 48x64 frames on four test maps; evaluate.* can be changed."""
  small = tiny_world.config()
  small.data.update(
      dict(
          height=48,
          width=64,
          tics_per_frame=2,
          frames_per_second=17.5,
          policy='navigate',
          generated_train_maps=6,
          generated_test_maps=4,
          train_episodes=1,
          test_episodes=2,
          num_frames=24,
      )
  )
  small.evaluate.update(
      dict(
          num_clips=8,
          horizon=8,
          min_motion=2.0,
          walks=2,
          walk_frames=64,
          walk_policy='tour',
          film_clips=2,
      )
      | evaluate
  )
  return small


@functools.cache
def records() -> str:
  """The folder of the record set that `config` describes."""
  folder = tempfile.mkdtemp(prefix='worldsim_trial_')
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  data = config().data
  world = worlds.World(
      train_maps=splits.generated_maps('train', data.generated_train_maps),
      test_maps=splits.generated_maps('test', data.generated_test_maps),
      train_episodes=data.train_episodes,
      test_episodes=data.test_episodes,
      num_frames=data.num_frames,
      policy=data.policy,
      height=data.height,
      width=data.width,
      tics_per_frame=data.tics_per_frame,
  )
  return worlds.build(world, folder, num_workers=0)


def make(subject: str = 'truth', **evaluate) -> Trial:
  """A trial of a subject that is made of the truth."""
  settings = config(subject=subject, **evaluate)
  known = subjects.of_truth(
      settings.data.frames_per_second, settings.evaluate.seed)
  return Trial(settings, subject, known[subject], records(), GIVEN)


def of(play, **evaluate) -> Trial:
  """A trial of any function of clips."""
  return dataclasses.replace(make(**evaluate), name='ours', subject=play)


@functools.cache
def world() -> World:
  """Of random weights, and of the frames that `config` describes."""
  return tiny_world.of_config(config())


def of_world(**evaluate) -> Trial:
  """A trial of its student."""

  def play(clips):
    return subjects.Played(replay.student_continuation(world(), clips))

  return dataclasses.replace(
      of(play, **evaluate), world=world(), tokenizer=world())


def figures_of(section) -> dict:
  """A section's figures by name."""
  return {figure.name: figure for figure in section.figures}

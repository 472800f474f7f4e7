"""Record sets of the embedded world: a configuration becomes episodes."""

import dataclasses
import hashlib

from worldsim_jax.data import captions
from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import navigator
from worldsim_jax.data import records
from worldsim_jax.data import shards
from worldsim_jax.data import splits
from worldsim_jax.data import workers
from worldsim_jax.errors import UserError

JOB_BYTES = 2**25  # of frames that a worker sends back at once
SHARD_BYTES = 2**28  # of frames that a killed process renders again


@dataclasses.dataclass(frozen=True)
class World(engine_lib.Options):
  """All that a record set depends on; numbers of episodes are per map."""

  train_maps: tuple[str, ...]
  test_maps: tuple[str, ...]
  train_episodes: int = 12
  test_episodes: int = 8
  num_frames: int = 40
  policy: str = 'random_walk'
  seed: int = 0
  shots: int = 1  # of each episode, of equal length, in other rooms
  shot_captions: bool = False  # of what each shot shows; see `captions`

  def __post_init__(self):
    for split in splits.SPLITS:
      for name in self.maps(split):
        if splits.split_of(name) != split:
          raise UserError(
              f'{name} is a map of the {splits.split_of(name)} '
              f'split; it cannot be in {split}_maps'
          )

  @property
  def key(self) -> str:
    """The record set's. Fields that came later count where they are used."""
    content = dataclasses.asdict(self)
    for name in LATER_FIELDS:
      if content[name] == getattr(World, name):
        del content[name]
    return records.key_of('world', content)

  def maps(self, split: str) -> tuple[str, ...]:
    return self.train_maps if split == 'train' else self.test_maps


LATER_FIELDS = ('geometry', 'shots', 'shot_captions')

# What keys of config.data must at least be.
LEAST = dict(height=1, width=1)
LEAST_OF_A_WORLD = dict(
    tics_per_frame=1,
    generated_train_maps=0,
    generated_test_maps=0,
    train_episodes=1,
    test_episodes=1,
    num_frames=2,
    num_workers=0,
    shots=1,
)


def check_config(data):
  """Raises UserError, naming the key, for a config.data that cannot be.

  Of a user's own records little is asked here: see `pipeline.check_films`.
  """
  least = LEAST if data.records else LEAST | LEAST_OF_A_WORLD
  for key, low in least.items():
    if data[key] < low:
      raise UserError(f'config.data.{key}={data[key]} must be at least {low}.')
  if not data.frames_per_second > 0:
    raise UserError(
        f'config.data.frames_per_second={data.frames_per_second} must be more '
        'than 0.'
    )
  if data.records:
    return
  if data.num_frames < 2 * data.shots:
    raise UserError(
        f'config.data.num_frames={data.num_frames} must be at least '
        f'{2 * data.shots}, for config.data.shots={data.shots} of two frames.'
    )
  if data.policy not in navigator.PLAYERS:
    raise UserError(
        f'config.data.policy={data.policy!r} is not one of '
        f'{", ".join(navigator.PLAYERS)}.'
    )
  for split in splits.SPLITS:
    _check_maps(data, split)


def _check_maps(data, split):
  count = data[f'generated_{split}_maps']
  if not count and not data[f'{split}_maps']:
    raise UserError(
        f'there are no maps to {split} on: config.data.{split}_maps is empty '
        f'and config.data.generated_{split}_maps=0.'
    )
  for key, names in (
      (f'{split}_maps', lambda: data[f'{split}_maps']),
      (f'generated_{split}_maps', lambda: splits.generated_maps(split, count)),
  ):
    try:
      actual = {name: splits.split_of(name) for name in names()}
    except UserError as e:
      raise UserError(f'config.data.{key}: {e}') from e
    for name, other in actual.items():
      if other != split:
        raise UserError(
            f'config.data.{key} has {name!r}, a map of the {other} split.'
        )


def build(world: World, data_dir: str, num_workers: int = 2) -> str:
  """Renders and records a world, unless it was; returns its folder.

  Open its splits with `records.Source(folder, 'train')`.

  Args:
    world: what to record.
    data_dir: shared by all record sets.
    num_workers: processes that render; 0 renders in this one. The records do
      not depend on it.
  """
  return records.write(
      data_dir,
      world.key,
      {
          split: _shards(world, split, num_workers)
          for split in splits.SPLITS
          if world.maps(split)
      },
  )


def _shards(world, split, num_workers):
  """All episodes of a split, in an order that workers do not change."""
  film_bytes = 3 * world.num_frames * world.height * world.width
  parts = shards.cut(
      list(_jobs(world, split, film_bytes)),
      lambda job: len(job[2]) * film_bytes,
      SHARD_BYTES,
  )
  return shards.of_items(
      parts,
      lambda jobs: workers.run(
          _play, jobs, num_workers, name_of=lambda job: job[1]
      ),
      sum(len(numbers) for _, _, numbers in parts[0]),
  )


def _jobs(world, split, film_bytes):
  """(world, map, episode numbers) of one engine's work each."""
  count = world.train_episodes if split == 'train' else world.test_episodes
  per_job = max(1, JOB_BYTES // film_bytes)
  for name in world.maps(split):
    for first in range(0, count, per_job):
      yield world, name, range(first, min(first + per_job, count))


def _play(world, map_name, numbers):
  with engine_lib.Engine(map_name, **world.engine_options) as engine:
    made = [
        episodes.record(
            engine,
            policy=world.policy,
            num_frames=world.num_frames,
            seed=_seed(world.seed, map_name, number),
            shots=world.shots,
        )
        for number in numbers
    ]
  return [captions.tell(film) for film in made] if world.shot_captions else made


def _seed(seed, map_name, number):
  """31 bits that differ for every episode."""
  text = f'{seed} {map_name} {number}'.encode()
  return int.from_bytes(hashlib.sha256(text).digest()[:4], 'big') >> 1

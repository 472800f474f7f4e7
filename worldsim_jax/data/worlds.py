"""Record sets of the embedded world: a configuration becomes episodes."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import multiprocessing
import os
import threading

from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import records
from worldsim_jax.data import splits
from worldsim_jax.errors import UserError

JOB_BYTES = 2**25  # of frames that a worker sends back at once


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

  def __post_init__(self):
    for split in splits.SPLITS:
      for name in self.maps(split):
        if splits.split_of(name) != split:
          raise UserError(
              f'{name} is a map of the {splits.split_of(name)} '
              f'split; it cannot be in {split}_maps'
          )

  def maps(self, split: str) -> tuple[str, ...]:
    return self.train_maps if split == 'train' else self.test_maps


def build(world: World, data_dir: str, num_workers: int = 2) -> str:
  """Renders and records a world, unless it was; returns its folder.

  Open its splits with `records.Source(folder, 'train')`.

  Args:
    world: what to record.
    data_dir: shared by all record sets.
    num_workers: processes that render; 0 renders in this one. The records do
      not depend on it.
  """
  key = records.key_of('world', dataclasses.asdict(world))
  return records.write(
      data_dir,
      key,
      {
          split: lambda split=split: _episodes(world, split, num_workers)
          for split in splits.SPLITS
          if world.maps(split)
      },
  )


def _episodes(world, split, num_workers):
  """All episodes of a split, in an order that workers do not change."""
  jobs = list(_jobs(world, split))
  if not num_workers:
    for job in jobs:
      yield from _play(*job)
    return
  # Spawned, not forked: this process may hold accelerator threads.
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(
      num_workers, context, initializer=_end_with_parent
  ) as pool:
    pending = collections.deque()
    try:
      while jobs or pending:
        # A short queue: films must not pile up if the disk is slow.
        while jobs and len(pending) < 2 * num_workers:
          pending.append(pool.submit(_play, *jobs.pop(0)))
        yield from pending.popleft().result()
    finally:
      for future in pending:
        future.cancel()


def _end_with_parent():
  """A worker whose parent is killed would wait for jobs for ever."""

  def watch():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _jobs(world, split):
  """(world, map, episode numbers) of one engine's work each."""
  count = world.train_episodes if split == 'train' else world.test_episodes
  film_bytes = 3 * world.num_frames * world.height * world.width
  per_job = max(1, JOB_BYTES // film_bytes)
  for name in world.maps(split):
    for first in range(0, count, per_job):
      yield world, name, range(first, min(first + per_job, count))


def _play(world, map_name, numbers):
  with engine_lib.Engine(map_name, **world.engine_options) as engine:
    return [
        episodes.record(
            engine,
            policy=world.policy,
            num_frames=world.num_frames,
            seed=_seed(world.seed, map_name, number),
        )
        for number in numbers
    ]


def _seed(seed, map_name, number):
  """31 bits that differ for every episode."""
  text = f'{seed} {map_name} {number}'.encode()
  return int.from_bytes(hashlib.sha256(text).digest()[:4], 'big') >> 1

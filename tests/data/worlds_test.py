"""A configuration becomes the same records, whoever renders them."""

import contextlib
import glob
import multiprocessing
import os
import subprocess
import sys
import threading
import time

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from configs import base
from configs import doom
from configs import quickstart
from worldsim_jax.data import episodes
from worldsim_jax.data import records
from worldsim_jax.data import splits
from worldsim_jax.data import worlds
from worldsim_jax.errors import UserError


def small_world(**changes):
  return worlds.World(
      **{
          **dict(
              train_maps=splits.generated_maps('train', 2),
              test_maps=splits.generated_maps('test', 1),
              train_episodes=3,
              test_episodes=2,
              num_frames=10,
              height=12,
              width=16,
          ),
          **changes,
      }
  )


class WorldsTest(absltest.TestCase):

  def build(self, world, num_workers=0):
    return worlds.build(world, self.create_tempdir().full_path, num_workers)

  def test_every_map_gives_its_episodes_to_its_own_split(self):
    directory = self.build(small_world())
    for split, count in (('train', 6), ('test', 2)):
      source = records.Source(directory, split)
      self.assertLen(source, count)
      for number in range(count):
        recipe = episodes.Recipe.from_json(source[number]['recipe'])
        self.assertEqual(splits.split_of(recipe.map), split)
        self.assertLen(recipe.actions, 10)

  def test_episodes_differ(self):
    source = records.Source(self.build(small_world()), 'train')
    films = {source[k]['rgb'].tobytes() for k in range(len(source))}
    self.assertLen(films, len(source))

  @pytest.mark.slow
  def test_workers_do_not_change_the_records(self):
    alone, together = (
        records.Source(self.build(small_world(policy='navigate'), n), 'train')
        for n in (0, 2)
    )
    for number in range(len(alone)):
      for name, value in alone[number].items():
        np.testing.assert_array_equal(value, together[number][name])

  def test_a_killed_build_leaves_no_process_and_no_records(self):
    data_dir, temporary = (self.create_tempdir().full_path for _ in range(2))
    process = subprocess.Popen(
        [sys.executable, '-c', BUILD_FOR_LONG, data_dir],
        env={**os.environ, 'TMPDIR': temporary},
    )
    # Each of two workers runs an engine.
    family = set()
    while len(family) < 5 and process.poll() is None:
      family |= _descendants(process.pid)
      time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.time() + 20
    while any(map(_is_alive, family)) and time.time() < deadline:
      time.sleep(0.05)
    self.assertGreaterEqual(len(family), 5)
    self.assertEmpty([pid for pid in family if _is_alive(pid)])
    self.assertEmpty(glob.glob(f'{temporary}/worldsim_workers_*'))
    self.assertEmpty(glob.glob(f'{data_dir}/**/features.json', recursive=True))

  def test_a_worker_that_dies_is_one_line_and_leaves_no_records(self):
    data_dir = self.create_tempdir().full_path
    world = small_world(num_frames=10**6)

    def kill_a_worker():
      while not (workers := multiprocessing.active_children()):
        time.sleep(0.05)
      workers[0].kill()

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    with self.assertRaisesRegex(
        UserError, 'a worker process died at gen:0 .killed, '
    ) as caught:
      worlds.build(world, data_dir, num_workers=2)
    killer.join()
    self.assertNotIn('\n', str(caught.exception))
    self.assertEmpty(glob.glob(f'{data_dir}/**/features.json', recursive=True))

  def test_a_stored_recipe_renders_to_the_stored_film(self):
    film = records.Source(self.build(small_world()), 'test')[1]
    again = episodes.render(episodes.Recipe.from_json(film['recipe']))
    np.testing.assert_array_equal(film['rgb'], again['rgb'])

  def test_worlds_that_were_recorded_before_keep_their_keys(self):
    self.assertEqual(
        worlds.World(
            train_maps=splits.generated_maps('train', 2),
            test_maps=splits.generated_maps('test', 1),
        ).key,
        'world-84bd2a35fe26',
    )
    keys = {
        small_world(**changes).key
        for changes in ({}, dict(shots=2), dict(shot_captions=True))
    }
    self.assertLen(keys, 3)

  def test_films_of_shots_have_captions_for_each(self):
    world = small_world(shots=5, shot_captions=True)
    source = records.Source(self.build(world), 'train')
    for number in range(len(source)):
      film = source[number]
      lines = film['shot_captions'].split('\n')
      self.assertLen(lines, 5)
      np.testing.assert_array_equal(film['shot_id'], np.repeat(range(5), 2))
      self.assertEqual(film['caption'], '. '.join(lines))

  def test_films_without_them_have_the_fields_that_they_had(self):
    source = records.Source(self.build(small_world()), 'test')
    self.assertCountEqual(
        source[0], ['rgb', 'actions', 'pose', 'shot_id', 'caption', 'recipe']
    )

  def test_a_test_map_cannot_be_trained_on(self):
    with self.assertRaisesRegex(UserError, 'MAP30 is a map of the test split'):
      small_world(train_maps=('MAP01', 'MAP30'))


class ConfigTest(parameterized.TestCase):

  def check(self, **changes):
    data = base.get_config().data
    data.update(changes)
    worlds.check_config(data)

  def test_the_configs_of_this_repository_pass(self):
    for config in (base, quickstart, doom):
      worlds.check_config(config.get_config().data)
    worlds.check_config(doom.get_config('tiny').data)

  @parameterized.parameters(
      (
          dict(policy='fly'),
          "data.policy='fly' is not one of random_walk, navig",
      ),
      (dict(train_maps=('MAP99',)), "data.train_maps: there is no map 'MAP99'"),
      (dict(test_maps=('gen:x',)), "data.test_maps: map 'gen:x': a generated"),
      (
          dict(train_maps=('MAP30',)),
          "train_maps has 'MAP30', a map of the test",
      ),
      (dict(test_maps=('gen:1',)), "test_maps has 'gen:1', a map of the train"),
      (
          dict(generated_test_maps=0),
          'no maps to test on: config.data.test_maps',
      ),
      (dict(generated_train_maps=0), 'config.data.generated_train_maps=0'),
      (dict(generated_test_maps=-1), 'data.generated_test_maps=-1 must be at'),
      (
          dict(generated_train_maps=2**21),
          'data.generated_train_maps: the train',
      ),
      (dict(num_frames=1), 'config.data.num_frames=1 must be at least 2'),
      (dict(shots=0), 'config.data.shots=0 must be at least 1'),
      (dict(shots=21), 'config.data.num_frames=40 must be at least 42, for'),
      (dict(train_episodes=0), 'config.data.train_episodes=0 must be at least'),
      (dict(tics_per_frame=0), 'config.data.tics_per_frame=0 must be at least'),
      (dict(height=0), 'config.data.height=0 must be at least 1'),
      (
          dict(frames_per_second=0.0),
          'config.data.frames_per_second=0.0 must be',
      ),
      (dict(records='x', width=-1), 'config.data.width=-1 must be at least 1'),
  )
  def test_what_cannot_be_names_its_key_in_one_line(self, changes, said):
    with self.assertRaises(UserError) as caught:
      self.check(**changes)
    self.assertIn(said, str(caught.exception))
    self.assertIn('config.data.', str(caught.exception))
    self.assertNotIn('\n', str(caught.exception))

  def test_a_users_own_records_need_no_maps(self):
    self.check(records='there', generated_test_maps=0, policy='none')


BUILD_FOR_LONG = """
import sys
from worldsim_jax.data import worlds
world = worlds.World(('gen:1', 'gen:2'), (), train_episodes=1, num_frames=10**6)
worlds.build(world, sys.argv[1], num_workers=2)
"""


def _descendants(pid):
  """Process ids; a thread's children are listed with the thread."""
  found = set()
  for path in glob.glob(f'/proc/{pid}/task/*/children'):
    with contextlib.suppress(OSError), open(path) as f:
      for child in f.read().split():
        found |= {child} | _descendants(child)
  return found


def _is_alive(pid):
  try:
    with open(f'/proc/{pid}/stat') as f:
      return f.read().rpartition(')')[2].split()[0] != 'Z'
  except OSError:
    return False


if __name__ == '__main__':
  absltest.main()

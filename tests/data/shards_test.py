"""Record sets survive kills, and are the same whoever makes which shard."""

import hashlib
import os
import pathlib
import random
import resource
import subprocess
import sys
import time

from absl.testing import absltest
import numpy as np
import pytest

from worldsim_jax.data import records
from worldsim_jax.data import shards
from worldsim_jax.errors import UserError

SHARDS, PER_SHARD = 10, 3
# A process of its own, slow enough to be killed at any moment of its work.
PROGRAM = """
import sys, time
from tests.data import shards_test
from worldsim_jax.data import records, shards
def slowly(episodes):
  for episode in episodes:
    print('next', flush=True)
    time.sleep(float(sys.argv[4]))
    yield episode
splits = {name: made.map(slowly) for name, made in shards_test.splits().items()}
records.write(
    sys.argv[1], 'k', splits, share=shards.Share(*map(int, sys.argv[2:4])))
"""


def episode(number, frames=6):
  rng = np.random.default_rng(number)
  return dict(
      rgb=rng.integers(0, 256, (frames, 4, 4, 3)).astype(np.uint8),
      caption=f'number {number}',
  )


def of_numbers(count, damaged=()):
  """Shards of PER_SHARD numbered episodes, some of them damaged."""
  parts = shards.cut(range(count), lambda _: 1, PER_SHARD)
  film = lambda number: [
      shards.Damaged(f'{number}.mp4') if number in damaged else episode(number)
  ]
  return shards.of_items(parts, lambda numbers: map(film, numbers), PER_SHARD)


def splits(**options):
  return {
      'train': of_numbers(SHARDS * PER_SHARD, **options),
      'test': of_numbers(2),
  }


def start(data_dir, index=0, count=1, pause=0.0):
  return subprocess.Popen(
      [sys.executable, '-c', PROGRAM, data_dir, *map(str, (
          index, count, pause))],
      stdout=subprocess.PIPE,
      env=os.environ | {'PYTHONPATH': os.getcwd()},
  )


def contents(data_dir):
  """A hash of every file of the record set, by name."""
  folder = pathlib.Path(records.folder(data_dir, 'k'))
  return {
      path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:8]
      for path in sorted(folder.iterdir())
  }


class ShardsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.data_dir = self.create_tempdir().full_path
    self.folder = records.folder(self.data_dir, 'k')

  def write(self, made=None, **options):
    return records.write(self.data_dir, 'k', made or splits(), **options)

  def uninterrupted(self):
    other = self.create_tempdir().full_path
    records.write(other, 'k', splits())
    return contents(other)

  @pytest.mark.slow
  def test_after_kills_at_any_time_the_set_is_the_same_bit_for_bit(self):
    dice = random.Random(0)
    for _ in range(4):
      process = start(self.data_dir, pause=0.01)
      for _ in range(dice.randint(2, 8)):
        self.assertEqual(process.stdout.readline(), b'next\n')
      time.sleep(dice.uniform(0, 0.02))
      process.kill()
      process.communicate()
      self.assertFalse(records.is_complete(self.folder))
    whole = len(list(pathlib.Path(self.folder).glob('*array_record*')))
    self.assertGreater(whole, 0)  # The kills met it at work.
    self.write()
    self.assertEqual(contents(self.data_dir), self.uninterrupted())
    self.assertEqual(
        os.listdir(os.path.dirname(self.folder)).count('incomplete.1.0.1'), 0
    )

  @pytest.mark.slow
  def test_processes_side_by_side_make_the_same_set(self):
    processes = [start(self.data_dir, index, 3, 0.01) for index in range(3)]
    for process in processes:
      process.communicate()
      self.assertEqual(process.returncode, 0)
    self.assertEqual(contents(self.data_dir), self.uninterrupted())

  def test_a_set_is_complete_when_the_last_share_is_done(self):
    for index in (2, 0, 1):
      self.assertFalse(records.is_complete(self.folder))
      self.write(share=shards.Share(index, 3))
      if index != 1:
        with self.assertRaisesRegex(UserError, 'not complete; run what makes'):
          records.Source(self.folder, 'train')
    self.assertEqual(contents(self.data_dir), self.uninterrupted())

  def test_what_is_whole_is_not_made_again_and_what_is_cut_off_is(self):
    self.write(share=shards.Share(0, 2))
    shard = os.path.join(self.folder, shards.file_name('train', 4, SHARDS))
    os.truncate(shard, os.path.getsize(shard) - 1)
    made = []

    def note(episodes):
      for film in episodes:
        made.append(film['caption'])
        yield film

    self.write({name: made.map(note) for name, made in splits().items()})
    again = {4, *range(1, SHARDS, 2)}
    numbers = [number for number in range(SHARDS * PER_SHARD)
               if number // PER_SHARD in again]
    self.assertEqual(made, [f'number {number}' for number in numbers])
    self.assertEqual(contents(self.data_dir), self.uninterrupted())

  def test_damaged_items_are_left_out_named_and_counted(self):
    damaged = (1, 6, 7, 8)  # Of the third shard nothing is left.
    told = []
    progress = shards.Progress()
    progress.damaged = told.append
    self.write(splits(damaged=damaged), progress=progress)
    source = records.Source(self.folder, 'train')
    self.assertLen(source, SHARDS * PER_SHARD - 4)
    left = [n for n in range(SHARDS * PER_SHARD) if n not in damaged]
    for index, number in enumerate(left):
      self.assertEqual(source[index]['caption'], f'number {number}')
    self.assertEqual(source.metadata['num_damaged'], 4)
    self.assertEqual(
        source.metadata['damaged'], [f'{number}.mp4' for number in damaged])
    self.assertEqual(told, source.metadata['damaged'])
    self.assertLen(source.longest_shots, len(left))

  def test_it_is_an_error_if_everything_is_damaged(self):
    with self.assertRaisesRegex(UserError, '30 damaged, 0.mp4'):
      self.write(splits(damaged=range(30)))
    self.assertFalse(records.is_complete(self.folder))
    self.write()  # As when the disk of the films is back.
    self.assertEqual(contents(self.data_dir), self.uninterrupted())

  def test_what_is_raised_after_the_last_episode_is_not_lost(self):
    def work(numbers):
      yield from ([episode(n)] for n in numbers)
      raise InterruptedError('told to stop while workers end')

    made = shards.of_items(shards.cut(range(4), lambda _: 1, 2), work)
    with self.assertRaisesRegex(UserError, 'told to stop'):
      records.write(self.create_tempdir().full_path, 'k', {'train': made})

  def test_a_disk_that_refuses_is_named_and_whole_shards_stay(self):
    program = (
        'import resource, signal; '
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN); '
        'resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n'
        'import sys\n'
        'from tests.data import shards_test\n'
        'from worldsim_jax.data import records, shards\n'
        'made = shards_test.splits()\n'
        'large = lambda: (shards_test.episode(n, 9000) for n in range(3))\n'
        'made["test"] = shards.single(large)\n'
        'records.write(sys.argv[1], "k", made)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', program, self.data_dir],
        env=os.environ | {'PYTHONPATH': os.getcwd()},
        capture_output=True, text=True, check=False)
    self.assertIn('UserError', done.stderr)
    self.assertIn('could not write records', done.stderr.splitlines()[-1])
    self.assertLen(os.listdir(self.folder), SHARDS)
    work = pathlib.Path(shards.work_folder(self.folder))
    self.assertEmpty(list(work.glob('*.partial')))
    self.write()
    self.assertEqual(contents(self.data_dir), self.uninterrupted())

  def test_shards_with_other_fields_are_refused(self):
    def other(episodes):
      return (film | {'text': np.ones((2, 2))} for film in episodes)

    self.write(share=shards.Share(0, 2))
    with self.assertRaisesRegex(UserError, 'shard train 0 has fields .* but'):
      self.write({name: made.map(other) for name, made in splits().items()})

  def test_more_shards_than_a_process_may_open_files(self):
    many = of_numbers(360)  # 120 shards
    self.write({'train': many})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
      resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
      source = records.Source(self.folder, 'train')
      self.assertEqual(source[359]['caption'], 'number 359')
    finally:
      resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

  def test_zeros_behind_a_text_are_not_stored_but_read(self):
    films = [episode(n) | {'text': np.ones((n, 2), np.float32)}
             for n in range(4)]
    self.write({'train': shards.single(lambda: films)},
               metadata={'padded': {'text': 3}})
    source = records.Source(self.folder, 'train')
    for number in range(4):
      text = source[number]['text']
      self.assertEqual(text.shape, (3, 2))
      np.testing.assert_array_equal(text.sum(1), 2 * (np.arange(3) < number))

  def test_items_are_cut_into_parts_of_at_most_so_much(self):
    cut = lambda *sizes: shards.cut(sizes, lambda size: size, 10)
    self.assertEqual(cut(4, 6, 1, 12, 3), [[4, 6], [1], [12], [3]])
    self.assertEqual(cut(), [])

  def test_equal_lengths_take_one_pair(self):
    self.assertEqual(shards.run_lengths([3, 3, 5, 3]), [[3, 2], [5, 1], [3, 1]])


if __name__ == '__main__':
  absltest.main()

"""Films and frames become latents that a run trains on, whatever happens."""

import contextlib
import functools
import io
import os
import pathlib
import subprocess
import sys
import unittest
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np
import pytest

from tests.data import film_folders_test
from tests.streaming import tiny_world
from worldsim_jax.data import records
from worldsim_jax.data import shards
from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World
from worldsim_jax.train import assemble
from worldsim_jax.train import datasets
from worldsim_jax.train import encoding
from worldsim_jax.train import recording


def config():
  """The tokenizer merges two frames of 24 x 32 pixels."""
  small = tiny_world.config(vae=dict(time_strides=(2,), latent_channels=4))
  small.data.update(dict(frames_per_second=10., num_workers=0))
  return small


@functools.cache
def world():
  variables = tiny_world.random_variables(config())['vae']
  return World(config(), {}, variables, np.zeros((1, 1, 24, 32, 3), np.uint8))


def film(number, frames):
  rng = np.random.default_rng(number)
  return dict(
      rgb=rng.integers(0, 256, (frames, 24, 32, 3), np.uint8),
      actions=rng.normal(size=(frames, 3)).astype(np.float32),
      shot_id=np.zeros(frames, np.int32), caption=f'film {number}')


@functools.cache
def wan_vae_world():
  return tiny_world.of_config(tiny_world.wan_vae_config())


def encode(rgb, world=world):
  """One film alone and at once, as no batch would."""
  length = len(rgb) - (len(rgb) - 1) % 2
  z, _ = world().vae.apply(
      world().vae_variables, jnp.float32(rgb[None, :length]) / 255,
      method='encode')
  return np.asarray(z[0])


def setUpModule():
  # Else eight virtual devices would encode 64 films at once.
  patch = mock.patch.object(encoding, 'EPISODES', 1)
  patch.start()
  unittest.addModuleCleanup(patch.stop)


class EncoderTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_a_batch_is_as_its_films_alone_whatever_their_lengths(self):
    encoder = encoding.Encoder(config(), world().vae, world().vae_variables)
    films = [film(n, frames) for n, frames in enumerate(
        (7, 7, 8, 7, 67, 2, 1))]
    damaged = shards.Damaged('x.mp4')
    made = list(encoder(iter([*films[:3], damaged, *films[3:]])))
    self.assertIn(damaged, made)
    made.remove(damaged)
    self.assertLen(made, len(films))
    for one, latents in zip(films, made):
      expected = encode(one['rgb'])
      # Programs for batches add up in another order: a few rounding errors.
      np.testing.assert_allclose(
          latents['latents'], expected, atol=2e-5, rtol=2e-5)
      self.assertLen(latents['actions'], len(expected))
      self.assertLen(latents['shot_id'], len(expected))

  @parameterized.parameters(('float16', 2**-11), ('bfloat16', 2**-8))
  def test_half_precision_is_half_the_bytes_and_rounds_once(self, dtype, eps):
    stored = {}
    for name in ('float32', dtype):
      encoder = encoding.Encoder(
          config(), world().vae, world().vae_variables, name)
      [made] = encoder(iter([film(0, 5)]))
      self.assertEqual(str(made['latents'].dtype), name)
      stored[name] = np.asarray(made['latents'], np.float64)
    np.testing.assert_allclose(stored[dtype], stored['float32'], rtol=eps,
                               atol=1e-7)

  def test_lengths_are_rounded_up_by_a_sixteenth_at_most(self):
    for count in range(1, 2000):
      rounded = encoding._rounded(count)
      self.assertBetween(rounded, count, count * 17 / 16)
    self.assertLess(len({encoding._rounded(n) for n in range(1, 2000)}), 150)

  def test_an_unknown_type_names_the_flag(self):
    with self.assertRaisesRegex(UserError, '--latent_dtype=int8 is not one'):
      encoding.Encoder(config(), world().vae, world().vae_variables, 'int8')


class RecordTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    folder = pathlib.Path(self.create_tempdir().full_path)
    self.films, self.target = folder / 'films', str(folder / 'sets')
    self.tokenizer = str(folder / 'run')
    files.save(world(), pathlib.Path(self.tokenizer) / 'latent_space')
    self.told = io.StringIO()

  def add_films(self, count):
    for split in ('train', 'test'):
      (self.films / split).mkdir(parents=True)
      for number in range(count):
        path = self.films / split / f'{number}.mp4'
        video_files.write_mp4(
            str(path), film_folders_test.film(10 + number, 24, 32), 10)

  def record(self, source=None, **options):
    return recording.record(
        str(source or self.films), self.target, tokenizer=self.tokenizer,
        stream=self.told, **options)

  @pytest.mark.slow
  def test_films_become_latents_without_storing_frames(self):
    self.add_films(3)
    (self.films / 'train' / '1.txt').write_text('a wave')
    directory = self.record()
    source = records.Source(directory, 'train')
    self.assertLen(source, 3)
    for number in range(3):
      rgb = video_files.read(str(self.films / 'train' / f'{number}.mp4'))
      np.testing.assert_allclose(
          source[number]['latents'], encode(rgb), atol=2e-5, rtol=2e-5)
    self.assertNotIn('rgb', source.shapes)
    self.assertIn('6 records in', self.told.getvalue())

  @pytest.mark.slow
  def test_wans_tokenizer_records_too_and_its_set_is_of_its_kind_only(self):
    self.tokenizer += '_of_wan'  # A world, as a converted one is.
    files.save(wan_vae_world(), self.tokenizer)
    self.add_films(1)
    own = tiny_world.wan_vae_config()
    own.data.update(dict(frames_per_second=10., num_workers=0))
    directory = self.record(config=own)
    rgb = video_files.read(str(self.films / 'train' / '0.mp4'))
    np.testing.assert_allclose(
        records.Source(directory, 'train')[0]['latents'],
        encode(rgb, wan_vae_world), atol=2e-5, rtol=2e-5)
    own.data.latents, own.stages = directory, ('teacher',)
    made_with = assemble.tokenizer(directory).config
    datasets.check_latents(own, made_with)
    own.vae.base = 5
    with self.assertRaisesRegex(UserError, 'config.vae.base=4, but it is 5'):
      datasets.check_latents(own, made_with)
    own.vae = config().vae
    with self.assertRaisesRegex(UserError, 'config.vae.kind=wan, but it is ta'):
      datasets.check_latents(own, made_with)

  def test_a_damaged_film_is_told_counted_and_left_out(self):
    self.add_films(3)
    os.truncate(self.films / 'train' / '1.mp4', 700)
    directory = self.record()
    source = records.Source(directory, 'train')
    self.assertLen(source, 2)
    self.assertEqual(source.metadata['num_damaged'], 1)
    self.assertIn('1.mp4', source.metadata['damaged'][0])
    self.assertRegex(self.told.getvalue(), 'left out: .*1.mp4')
    self.assertIn('1 films left out', self.told.getvalue())

  def test_frames_on_disk_give_the_same_latents_in_any_share(self):
    frames = records.write(self.target, 'frames', {
        split: lambda: (film(n, 9) for n in range(3))
        for split in ('train', 'test')})
    for index in range(2):
      directory = self.record(frames, share=shards.Share(index, 2))
    self.assertIn('complete when those of the other', self.told.getvalue())
    source = records.Source(directory, 'test')
    for number in range(3):
      np.testing.assert_allclose(
          source[number]['latents'], encode(film(number, 9)['rgb']),
          atol=2e-5, rtol=2e-5)

  def test_a_latent_set_is_a_tokenizer_too_and_fits_its_own_config(self):
    self.add_films(2)
    directory = self.record(dtype='float16')
    self.tokenizer, first = directory, directory
    self.assertEqual(self.record(dtype='float16'), first)
    own = config()
    own.data.latents, own.stages = directory, ('teacher',)
    own.teacher.clip_frames = 5
    datasets.check_latents(own, world().config)
    batches = datasets.Batches(
        directory, datasets.latent_fields(own), 0, meshes.make_mesh())(
            own.teacher)()
    self.assertEqual(next(batches)['latents'].dtype, np.float32)
    for key, value in (('vae.latent_channels', 8), ('data.height', 48),
                       ('teacher.clip_frames', 99)):
      other = own.copy_and_resolve_references()
      other.update_from_flattened_dict({key: value})
      with self.assertRaisesRegex(UserError, f'config.{key}'):
        datasets.check_latents(other, world().config)

  def test_what_cannot_be_recorded_is_refused(self):
    frames = records.write(
        self.target, 'x', {'train': lambda: [{'y': np.ones(3)}]})
    with self.assertRaisesRegex(UserError, 'is a record set already; --token'):
      recording.record(frames, self.target, config())
    with self.assertRaisesRegex(UserError, 'has no frames'):
      self.record(frames)
    with self.assertRaisesRegex(UserError, '--target=gs://.* in folders only'):
      recording.record(frames, 'gs://bucket/sets', config())
    uneven = config()
    uneven.data.height = 25
    with self.assertRaisesRegex(UserError, 'config.data.height=25 must be a'):
      self.record(config=uneven)

  @pytest.mark.slow
  def test_the_command_line_shares_the_work(self):
    self.add_films(2)
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    done = [subprocess.run(
        [sys.executable, '-m', 'worldsim_jax.main', '--mode=record',
         f'--source={self.films}', f'--target={self.target}',
         f'--tokenizer={self.tokenizer}', '--latent_dtype=bfloat16',
         '--num_processes=2', f'--process_id={index}'],
        env=environment, text=True, capture_output=True, check=False)
            for index in (0, 1, 2)]
    self.assertEqual([p.returncode for p in done], [0, 0, 2], done[0].stderr)
    self.assertIn('--process_id=2 must be from 0 to', done[2].stderr)
    directory = done[1].stdout.split('--config.data.latents=')[1].strip()
    self.assertLen(records.Source(directory, 'train'), 2)


class ProgressTest(absltest.TestCase):

  def test_what_is_left_follows_from_the_rate(self):
    now = [0.]
    told = io.StringIO()
    progress = recording.Progress(told, lambda: now[0])
    progress.begin(100, 4, 1)
    for _ in range(20):
      now[0] += 0.5
      progress.record()
    progress.shard()
    with contextlib.suppress(FileNotFoundError):
      progress.close('/nowhere')
    self.assertIn('goes on: 1 of 4 shards', told.getvalue())
    self.assertEqual(progress._fields()['rate'], '2.00 records/s')
    self.assertEqual(progress._fields()['left'], 'left 00:40')
    # Of films, how many records are to come is guessed from whole shards.
    progress = recording.Progress(told, lambda: now[0])
    progress.begin(None, 3, 0)
    now[0] += 10
    progress.records = 20
    self.assertNotIn('left', progress._fields())
    progress.shard()
    self.assertEqual(progress._fields()['left'], 'left 00:20')


if __name__ == '__main__':
  absltest.main()

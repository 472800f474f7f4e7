"""Latents line up with the frames that they were made of, and with actions."""

import functools
import os
import pathlib
import shutil
from unittest import mock

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.streaming import tiny_world
from worldsim_jax.data import records
from worldsim_jax.data.actions import ActionSpace
from worldsim_jax.evaluate import image_metrics
from worldsim_jax.models import build
from worldsim_jax.models import pixels
from worldsim_jax.models import text_encoder
from worldsim_jax.models import tiny_vae
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import datasets

# Of this process: someone else may be running the same tests.
WORKDIR = pathlib.Path(
    absltest.get_default_test_tmpdir(), f'datasets_test.{os.getpid()}')


def setUpModule():
  shutil.rmtree(WORKDIR, ignore_errors=True)


def tearDownModule():
  shutil.rmtree(WORKDIR, ignore_errors=True)


def config():
  """Three films of 12 frames; the tokenizer merges two frames."""
  small = tiny_world.config(vae=dict(time_strides=(2,), latent_channels=32))
  small.data.update(dict(
      generated_train_maps=1, generated_test_maps=1, train_episodes=2,
      test_episodes=1, num_frames=12, num_workers=0))
  return small


@functools.cache
def frames_dir():
  return datasets.frames(config(), WORKDIR)


@functools.cache
def codec():
  """The tokenizer's shortcut alone: a linear codec that sees well."""
  vae = build.tokenizer(config())
  variables = tiny_world.random_variables(config())['vae']
  params = jax.tree.map(jnp.zeros_like, variables['params'])
  films = datasets.films(config(), frames_dir(), 9)
  return vae, {'params': tiny_vae.fit_shortcut(vae, params, films),
               'latent_stats': variables['latent_stats']}


@functools.cache
def latents_dir():
  return datasets.latents(config(), WORKDIR, frames_dir(), *codec())


class FramesTest(absltest.TestCase):

  def test_both_splits_are_rendered_into_the_workdir(self):
    self.assertStartsWith(frames_dir(), str(WORKDIR / 'data'))
    self.assertLen(records.Source(frames_dir(), 'train'), 2)
    film = records.Source(frames_dir(), 'test')[0]
    self.assertEqual(film['rgb'].shape, (12, 24, 32, 3))

  def test_the_same_config_finds_them_again(self):
    before = os.stat(frames_dir()).st_mtime_ns
    self.assertEqual(datasets.frames(config(), WORKDIR), frames_dir())
    self.assertEqual(os.stat(frames_dir()).st_mtime_ns, before)

  def test_a_users_records_are_taken_instead(self):
    own = config()
    own.data.records = '/their/records'
    self.assertEqual(datasets.frames(own, WORKDIR), '/their/records')

  def test_films_are_of_the_training_split_and_fit_the_tokenizer(self):
    source = records.Source(frames_dir(), 'train')
    films = list(datasets.films(config(), frames_dir(), 9))
    self.assertLen(films, 2)
    for index, film in enumerate(films):  # P = 1 + 2 n
      np.testing.assert_array_equal(film, source[index]['rgb'][None, :11])
    self.assertLen(list(datasets.films(config(), frames_dir(), 1)), 1)


class LatentsTest(absltest.TestCase):

  @pytest.mark.slow
  def test_decoded_latents_are_the_frames_of_the_same_episode(self):
    vae, variables = codec()
    for split in ('train', 'test'):
      films = records.Source(frames_dir(), split)
      made = records.Source(latents_dir(), split)
      self.assertLen(made, len(films))
      for index in range(len(films)):
        latents = made[index]['latents']
        self.assertEqual(latents.dtype, np.float32)
        self.assertEqual(latents.shape, (6, 3, 4, 32))
        video, _ = vae.apply(variables, latents[None], method='decode')
        rgb = films[index]['rgb'][None, :11]
        psnr = image_metrics.psnr(pixels.to_uint8(video), rgb)
        late = image_metrics.psnr(pixels.to_uint8(video[:, 1:]), rgb[:, :-1])
        self.assertGreater(psnr.mean(), 20)
        self.assertGreater(psnr.mean(), late.mean() + 0.5)

  @pytest.mark.slow
  def test_a_latent_frame_has_the_actions_of_its_frames(self):
    film = records.Source(frames_dir(), 'train')[1]
    actions = ActionSpace().normalise(film['actions'])
    made = records.Source(latents_dir(), 'train')[1]['actions']
    self.assertEqual(made.shape, (6, 6))
    # The first latent frame is one pixel frame; later ones are two.
    np.testing.assert_array_equal(made[0], [0, 0, 0, *actions[0]])
    for f in range(1, 6):
      np.testing.assert_array_equal(
          made[f], [*actions[2 * f - 1], *actions[2 * f]])

  def test_latents_keep_the_shots_of_their_frames(self):
    film = records.Source(frames_dir(), 'train')[0]
    cut = film | {'shot_id': (np.arange(12) >= 4).astype(np.int32)}
    folder = records.write(
        str(WORKDIR / 'data'), 'cut', {'train': lambda: iter([cut])})
    made = records.Source(
        datasets.latents(config(), WORKDIR, folder, *codec()), 'train')
    # Frames 0 | 1 2, then 4 | 5 6 | 7 8 | 9 10: of each shot whole groups.
    np.testing.assert_array_equal(made[0]['shot_id'], [0, 0, 1, 1, 1, 1])
    self.assertEqual(made.longest_shots.tolist(), [4])
    for part, latents in ((slice(4), slice(2)), (slice(4, 12), slice(2, 6))):
      alone = {name: film[name][part] for name in ('rgb', 'actions')}
      folder = records.write(
          str(WORKDIR / 'data'), f'alone{part.start}',
          {'train': lambda: iter([film | alone])})
      shot = records.Source(
          datasets.latents(config(), WORKDIR, folder, *codec()), 'train')[0]
      for name in ('latents', 'actions'):
        np.testing.assert_allclose(
            made[0][name][latents], shot[name], atol=1e-5)

  def test_they_are_made_once_for_the_same_weights(self):
    before = os.stat(latents_dir()).st_mtime_ns
    again = datasets.latents(config(), WORKDIR, frames_dir(), *codec())
    self.assertEqual(again, latents_dir())
    self.assertEqual(os.stat(again).st_mtime_ns, before)

  def test_other_weights_or_statistics_make_others(self):
    vae, variables = codec()
    for collection in ('params', 'latent_stats'):
      other = variables | {collection: jax.tree.map(
          lambda x: x + 1, variables[collection])}
      self.assertNotEqual(
          datasets.latents(config(), WORKDIR, frames_dir(), vae, other),
          latents_dir())

  def test_a_model_with_text_gets_the_embeddings_of_captions(self):
    embed = lambda encoder, length, path: lambda prompts: np.full(
        (len(prompts), length, 2), len(prompts[0]))
    folders = []
    for length in (3, 5):
      told = config()
      told.text.update(dict(dim=2, length=length))
      with mock.patch.object(text_encoder, 'make', embed):
        folders.append(datasets.latents(
            told, WORKDIR, frames_dir(), *codec()))
      film, made = (records.Source(folder, 'test')[0]
                    for folder in (frames_dir(), folders[-1]))
      np.testing.assert_array_equal(
          made['text'], np.full((length, 2), len(film['caption'])))
      self.assertEqual(
          datasets.latent_fields(told), ('latents', 'actions', 'text'))
    self.assertLen({*folders, latents_dir()}, 3)


class BatchesTest(absltest.TestCase):

  def batches(self, seed=0):
    stage = config().teacher
    stage.update(dict(batch_size=2, clip_frames=4))
    return datasets.Batches(
        latents_dir(), datasets.latent_fields(config()), seed,
        meshes.make_mesh(devices=jax.devices()[:1]))(stage)()

  def test_a_stage_gets_clips_of_its_own_size(self):
    batch = next(self.batches())
    self.assertEqual(
        {name: x.shape for name, x in batch.items()},
        {'latents': (2, 4, 3, 4, 32), 'actions': (2, 4, 6)})

  def test_clips_keep_latents_and_actions_together(self):
    source = records.Source(latents_dir(), 'train')
    batch = next(self.batches())
    for latents, actions in zip(batch['latents'], batch['actions']):
      places = [
          (index, start) for index in range(len(source)) for start in range(3)
          if np.array_equal(source[index]['latents'][start:start + 4], latents)]
      self.assertLen(places, 1)
      (index, start), = places
      np.testing.assert_array_equal(
          source[index]['actions'][start:start + 4], actions)

  def test_the_seed_gives_the_order(self):
    first = lambda seed: np.stack([
        next(batches)['latents'] for batches in [self.batches(seed)]
        for _ in range(4)])
    np.testing.assert_array_equal(first(0), first(0))
    self.assertFalse(np.array_equal(first(0), first(1)))


if __name__ == '__main__':
  absltest.main()

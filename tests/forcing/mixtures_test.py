"""Films of several shots in training, and students that recall."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import stages
from tests.streaming import tiny_world
from worldsim_jax.attention.moc import reference
from worldsim_jax.attention.moc import routing
from worldsim_jax.forcing import mixtures
from worldsim_jax.models import build
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.train import students

NAME, FRAMES = 'film', 6


def film_config(shots=3, **mixture):
  config = tiny_world.config()
  config.model.update(dict(image=False, parameterization='velocity'))
  config.stages = (NAME,)
  config[NAME] = stages.full_sequence(
      shots=shots, clip_frames=FRAMES,
      moc=stages.mixture(**mixture) if mixture else {})
  return config


def recalling_config(chunk=1, **recall):
  """A window of two frames, one sink."""
  config = tiny_world.config(student=dict(window=2, sink=1, chunk=chunk))
  config.student.recall = stages.recall(slots=FRAMES, **recall)
  config.student.relative_positions = False
  config.stages = (NAME,)
  config[NAME] = stages.diffusion_forcing(
      clip_frames=FRAMES, past='student')
  return config


@functools.cache
def params(seed=0):
  return tiny_world.random_variables(recalling_config(top_k=1), seed)['student']


def latents(config, seed=1, batch=1):
  size = (batch, FRAMES, *build.latent_size(config),
          build.denoiser(config).latent_channels)
  return jnp.asarray(np.random.default_rng(seed).normal(size=size), jnp.float32)


class FilmsTest(parameterized.TestCase):

  def test_shots_are_counted_from_their_cuts(self):
    found = mixtures.shots(jnp.array([[4, 4, 9, 9, 3, 3], [0, 1, 1, 1, 1, 2]]))
    np.testing.assert_array_equal(
        found, [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 2]])

  def test_clips_of_one_shot_have_no_context(self):
    self.assertIsNone(mixtures.of_stage(NAME, film_config(shots=1)))

  def test_without_a_mixture_all_frames_read_all(self):
    config = film_config()
    context = mixtures.of_stage(NAME, config)(jnp.zeros((2, FRAMES), jnp.int32))
    self.assertIsNone(context.mixture)
    self.assertIsNone(context.mask)
    self.assertIsNone(context.texts)

  @pytest.mark.slow
  def test_frames_read_no_later_shot(self):
    config = film_config(top_k=1)
    config.film.moc.drop_in = 1.  # Of earlier shots, it too.
    shot_id = jnp.array([[7, 7, 8, 8, 8, 9]])
    velocity = students.velocity(config, NAME)
    weights = tiny_world.random_variables(config)['student']

    @jax.jit
    def gradient(x, frame):
      context = mixtures.of_stage(NAME, config)(shot_id, jax.random.key(0))
      out = lambda x: jnp.sum(velocity(
          weights, x, jnp.full(x.shape[:2], 500.), Conditioning(), context
          )[0, frame]**2)
      return jnp.abs(jax.grad(out)(x)).sum((0, 2, 3, 4))

    x = latents(config)
    np.testing.assert_array_equal(gradient(x, 1) > 0, [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(gradient(x, 3)[2:] > 0, [1, 1, 1, 0])
    self.assertGreater(gradient(x, 3)[:2].sum(), 0)

  @parameterized.parameters((8, 0, 3, 16), (2, 1, 2, 10))
  def test_keys_are_counted_for_films_of_equal_shots(self, shots, window, top_k,
                                                     tokens_of_chunk):
    # Shots of 64 tokens, counted one by one.
    expected = 0
    for shot in range(shots):
      read = 64 * (1 + min(window, shot))
      read += min(top_k * tokens_of_chunk, 64 * max(0, shot - window))
      expected += read
    self.assertEqual(
        mixtures.keys_read(shots * 64, shots, tokens_of_chunk, top_k, window),
        expected // shots)


class OfPastTest(parameterized.TestCase):

  @parameterized.parameters(1, 2)
  @pytest.mark.slow
  def test_training_reads_what_a_stream_recalls(self, chunk):
    config = recalling_config(chunk, top_k=1, most=FRAMES)
    own = build.for_network(config, NAME)
    velocity = students.velocity(config, NAME)
    x = latents(own)
    actions = jnp.zeros((1, FRAMES, build.denoiser(own).action_dim))

    @jax.jit
    def at_once(x):
      image = jnp.repeat(x[:, :1], FRAMES, axis=1)  # Anything, alike in both.
      return velocity(params(), x, jnp.zeros(x.shape[:2]), Conditioning(
          actions=actions, image=image), mixtures.of_past(NAME, config)(1))

    @jax.jit
    def streamed(x):
      cache, out = build.new_cache(own, 1), []
      for first in range(0, FRAMES, chunk):
        now = x[:, first:first + chunk]
        v, kv = velocity(params(), now, jnp.zeros(now.shape[:2]), Conditioning(
            actions=actions[:, :chunk],
            image=jnp.repeat(x[:, :1], chunk, axis=1)), None, cache)
        cache = cache.append(kv)
        out.append(v)
      return jnp.concatenate(out, axis=1)

    # fp32; means of keys that were roped before or after.
    np.testing.assert_allclose(at_once(x), streamed(x), atol=2e-5)

  def test_who_recalls_nothing_has_the_mask_of_its_window(self):
    config = recalling_config(top_k=1)
    config.student.recall = {}
    mask = np.array(mixtures.of_past(NAME, config)(1).mask, int)
    np.testing.assert_array_equal(mask, [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 0, 1, 1, 1, 0],
        [1, 0, 0, 1, 1, 1]])
    config.film.past = 'all'
    self.assertIsNone(mixtures.of_past(NAME, config))

  @parameterized.parameters((1, 1, 1), (1, 0, 2), (2, 1, 1), (2, 3, 2))
  @pytest.mark.slow
  def test_as_many_keys_are_counted_as_are_read(self, chunk, sink, top_k):
    config = recalling_config(chunk, top_k=top_k)
    config.student.sink = sink
    mixture = mixtures.of_past(NAME, config)(1).mixture
    table, rules = mixture.plan.table, mixture.plan.rules
    tokens = FRAMES * build.tokens_per_frame(config)
    q, k = np.random.default_rng(0).normal(size=(2, 1, tokens, 2, 4))
    selection = routing.select(
        q, routing.descriptors(k, table.chunk_of_token(tokens), FRAMES), table,
        rules, mixture.routing, table.shot_of_token(tokens))
    read = reference.mask(table, rules, selection, tokens)
    self.assertEqual(mixture.keys, read.sum(axis=-1).mean())

  def test_the_cache_has_room_for_what_is_recalled(self):
    config = recalling_config(top_k=1, most=2)
    config.student.recall.slots = 64
    cache = build.new_cache(build.for_network(config, NAME), 1)
    self.assertEqual((cache.num_slots, cache.recall.most), (64, 2))
    self.assertEqual((cache.recall.window, cache.recall.sink), (2, 1))


if __name__ == '__main__':
  absltest.main()

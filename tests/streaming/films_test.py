"""A bidirectional world makes films of several shots, all at once."""

import functools

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import stages
from tests.streaming import tiny_world
from worldsim_jax.errors import UserError
from worldsim_jax.models import pixels
from worldsim_jax.streaming import films

SHOTS, FRAMES = 3, 8  # latent frames, three pixel frames after the first two


@functools.cache
def world(top_k=1):
  config = tiny_world.wan_vae_config()
  config.stages = ('film',)
  config.student.context_frames = 1
  config.data.actions = True
  config.model.update(dict(image=False, parameterization='velocity'))
  config.film = stages.full_sequence(
      shots=SHOTS, clip_frames=FRAMES, moc=stages.mixture(top_k=top_k))
  config.evaluate.update(dict(teacher='film', teacher_steps=2))
  return tiny_world.of_config(config)


@functools.cache
def film(seed=0, shots=None, top_k=1):
  return films.make(world(top_k), seed=seed, num_shots=shots)


@pytest.mark.slow
class FilmsTest(absltest.TestCase):

  def test_shots_are_as_long_as_one_another_but_for_a_frame(self):
    cut = films.plan(world())
    self.assertEqual(cut.lengths, [3, 3, 2])
    self.assertEqual(cut.frames, [5, 5, 3])  # 1 + 2 (n - 1)
    self.assertEqual(cut.shot_F.tolist(), [0, 0, 0, 1, 1, 1, 2, 2])

  def test_a_film_has_the_frames_of_its_shots(self):
    self.assertEqual(film().shape, (13, 24, 32, 3))
    self.assertEqual(film().dtype, np.uint8)
    self.assertEqual(film(shots=2).shape, (14, 24, 32, 3))

  def test_the_first_frame_is_the_given_one(self):
    variables = world().vae_variables
    given = world().starts[0]
    latents, _ = world().vae.apply(
        variables, pixels.to_float(given[None]), method='encode')
    again, _ = world().vae.apply(variables, latents, method='decode')
    # One grey level: a product may round otherwise in a longer film.
    np.testing.assert_allclose(
        np.int32(film()[0]), np.int32(pixels.to_uint8(again)[0, 0]), atol=1)

  def test_a_seed_picks_the_film(self):
    np.testing.assert_array_equal(film(), films.make(world(), seed=0))
    self.assertGreater(np.abs(np.int32(film()) - film(seed=3)).mean(), 1)

  def test_later_shots_read_earlier_ones_and_not_the_other_way(self):
    cut = films.plan(world())
    size = (1, FRAMES, 3, 4, world().model.latent_channels)
    x = jax.random.normal(jax.random.key(0), size)
    timesteps = jnp.full((1, FRAMES), 500.)

    @jax.jit
    def shot_of(x, shot):
      out = films.with_context(world(), cut)(
          world().params, x, timesteps, films.Conditioning(
              actions=jnp.zeros((1, FRAMES, world().model.action_dim))))
      of_shot = jnp.asarray(cut.shot_F) == shot
      return jnp.sum(jnp.where(of_shot[:, None, None, None], out[0], 0)**2)

    for shot in range(SHOTS):
      gradient = np.abs(jax.grad(shot_of)(x, shot)[0]).sum((1, 2, 3))
      np.testing.assert_array_equal(gradient[cut.shot_F > shot], 0)
      self.assertTrue(np.all(gradient[cut.shot_F == shot] > 0))
      if shot:
        self.assertGreater(gradient[cut.shot_F < shot].sum(), 0)

  def test_it_says_what_it_cannot(self):
    with self.assertRaisesRegex(UserError, 'film of 4 shots: .* 1 to 3'):
      films.plan(world(), 4)
    with self.assertRaisesRegex(UserError, 'film. is bidirectional'):
      world().stream()
    with self.assertRaisesRegex(UserError, '2 prompts, but .*per_shot'):
      films.make(world(), ['a', 'b'])
    with self.assertRaisesRegex(UserError, 'trained without text'):
      films.make(world(), ['a'])


if __name__ == '__main__':
  absltest.main()

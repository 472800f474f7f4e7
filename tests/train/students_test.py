"""What distils a student: its videos, and what their judges are shown."""

import functools

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import self_forcing
from tests.streaming import tiny_world
from worldsim_jax.distill import sid
from worldsim_jax.models import build
from worldsim_jax.train import programs
from worldsim_jax.train import stages
from worldsim_jax.train import students

NAME = 'self_forcing'


@functools.cache
def config(gradient_frames):
  """Latents of four pixel frames, but for the first; 3 are given, 6 are new."""
  made = self_forcing.get_config('sid,tiny')
  made.model.dtype = 'float32'
  made[NAME].update(dict(gradient_frames=gradient_frames, batch_size=2))
  return made


@functools.cache
def params():
  variables = tiny_world.random_variables(config(0))
  return {NAME: variables['student'], students.LATENT_SPACE: variables['vae']}


def batch_of(settings):
  dice = np.random.default_rng(0)
  return {name: jnp.asarray(dice.normal(size=x.shape), jnp.float32)
          for name, x in programs.batch(NAME, settings).items()}


@functools.cache
def video(gradient_frames):
  """[B, F, H, W, C], and its gradient in the student's parameters."""
  generate = students.generator(NAME, config(gradient_frames))
  batch = batch_of(config(gradient_frames))

  @jax.jit
  def run(own):
    made, _ = generate(params() | {NAME: own}, batch, jax.random.key(0))
    return jnp.sum(made[:, 0]), made

  gradient, made = jax.grad(run, has_aux=True)(params()[NAME])
  return np.asarray(made), gradient


@pytest.mark.slow
class ContextTest(absltest.TestCase):

  def test_nobody_knows_what_the_data_did_after_the_given_frames(self):
    long = config(3).copy_and_resolve_references()
    long.model.update(dict(image=True, parameterization='residual'))
    networks = {name: tiny_world.random_variables(long, seed)['student']
                for seed, name in enumerate((NAME, 'teacher', 'critic'))}
    networks[students.LATENT_SPACE] = params()[students.LATENT_SPACE]
    loss = students.matched(sid.generator_loss, students.generator(NAME, long),
                            NAME, long)

    @jax.jit
    def of_clip(latents):
      clips = batch_of(long) | {'latents': latents}
      return loss(networks, clips, jax.random.key(0))[0]

    given, latents = long.student.context_frames, batch_of(long)['latents']
    expected = of_clip(latents)
    self.assertEqual(of_clip(latents.at[:, given:].add(1.)), expected)
    self.assertNotEqual(of_clip(latents.at[:, :given].add(1.)), expected)


class LatentSpaceTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_video_from_the_middle_begins_with_one_pixel_frame(self):
    whole, _ = video(0)
    end, gradient = video(3)
    self.assertEqual((whole.shape[1], end.shape[1]), (9, 6))
    # Frame 3 is the first that is kept.
    vae, variables = build.tokenizer(config(0)), params()[students.LATENT_SPACE]
    pixels, _ = vae.apply(variables, whole[:, :4], method='decode')
    self.assertEqual(pixels.shape[1], 1 + 3 * 4)
    first, _ = vae.apply(variables, pixels[:, 12:], method='encode')
    # fp32, other programs.
    np.testing.assert_allclose(end[:, :1], first, rtol=0, atol=1e-4)
    np.testing.assert_allclose(end[:, 1:], whole[:, 4:], rtol=0, atol=1e-4)
    self.assertGreater(np.abs(first - whole[:, 3:4]).max(), 0.1)
    for x in jax.tree.leaves(gradient):
      np.testing.assert_array_equal(x, 0)

  def test_only_then_is_the_tokenizer_read(self):
    trained = params() | {'base': params()[NAME]}
    for frames, needs in (0, False), (3, True), (6, False):
      stage = stages.make(NAME, stages.Inputs(
          config(frames), lambda stage: None, films=tuple))
      self.assertEqual(
          students.needs_latent_space(NAME, config(frames)), needs)
      self.assertEqual(set(stage.frozen(trained)), {
          'teacher', *([students.LATENT_SPACE] if needs else [])})


if __name__ == '__main__':
  absltest.main()

"""A past that is worth recalling: films of noise that repeat themselves.

Frames are white noise, so that nothing but a frame's copy, PERIOD frames ago,
tells what it shows. Who reads it learns that within minutes; whose window ends
before it never does.
"""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import optax
import pytest

from configs import stages
from tests.streaming import tiny_world
from worldsim_jax.diffusion import objective
from worldsim_jax.forcing import diffusion
from worldsim_jax.forcing import mixtures
from worldsim_jax.forcing import sequences
from worldsim_jax.models import build
from worldsim_jax.models.conditioning import Conditioning

PERIOD, FRAMES, BATCH, STEPS, NAME = 4, 8, 16, 250, 'past'


def student(**recall):
  """A window of one frame and a sink; with `recall`, also what it recalls."""
  config = tiny_world.config(
      student=dict(window=1, sink=1, relative_positions=False))
  config.data.update(dict(actions=False, height=16, width=16))
  config.model.update(dict(image=False, parameterization='velocity'))
  if recall:
    config.student.recall = stages.recall(slots=FRAMES, **recall)
  config.stages = (NAME,)
  config[NAME] = stages.diffusion_forcing(
      past='student', clip_frames=FRAMES, context_frames=PERIOD, shift=1.,
      guidance_dropout=0.)
  return config


def films(config, rng):
  size = (*build.latent_size(config), build.denoiser(config).latent_channels)
  period = jax.random.normal(rng, (BATCH, PERIOD, *size))
  return jnp.tile(period, (1, FRAMES // PERIOD, 1, 1, 1))


def error_when_trained(config):
  """Of the last frame's velocity, from noise and the true past.

  Knowing nothing makes it 1, the variance of a frame: the noise is seen.
  """
  model = build.denoiser(config)
  fn, optimizer = build.velocity_fn(model), optax.adam(3e-3)
  context_of = mixtures.of_past(NAME, config)
  loss = diffusion.diffusion_forcing_loss(
      fn, config[NAME], NAME, chunk=1, context_frames=PERIOD,
      context_of=context_of)

  @jax.jit
  def update(params, moments, key):
    rng_data, rng_loss = jax.random.split(key)
    gradient, _ = jax.grad(loss, has_aux=True)(
        {NAME: params}, {'latents': films(config, rng_data)}, rng_loss)
    change, moments = optimizer.update(gradient[NAME], moments)
    return optax.apply_updates(params, change), moments

  @jax.jit
  def error(params, key):
    sigma_BF = jnp.zeros((BATCH, FRAMES)).at[:, -1].set(1)
    x, target = objective.noised(key, films(config, key), sigma_BF)
    v = sequences.noisy_past(fn, params, x, sigma_BF, Conditioning(), 1,
                             context=context_of(BATCH))
    return jnp.mean((v - target)[:, -1]**2)

  params = model.init(
      jax.random.key(0), *build.example_inputs(config))['params']
  moments = optimizer.init(params)
  for step in range(STEPS):
    params, moments = update(params, moments, jax.random.key(step))
  return error(params, jax.random.key(STEPS))


@pytest.mark.slow
class RememberingTest(absltest.TestCase):

  def test_one_recalled_frame_tells_all_if_it_is_the_right_one(self):
    # A twentieth where this was written, as with the whole past.
    self.assertLess(error_when_trained(student(top_k=1)), .3)

  def test_who_recalls_nothing_never_learns_it(self):
    self.assertGreater(error_when_trained(student()), .9)


if __name__ == '__main__':
  absltest.main()

"""DMD on networks whose predictions are known."""

import functools
import types

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import objective
from worldsim_jax.distill import dmd
from worldsim_jax.distill import matching
from worldsim_jax.models.conditioning import Conditioning

B, F, H, W, C = 2, 4, 2, 2, 3
GIVEN = 1
KEY = jax.random.key(0)
LEVELS = np.full(B, 0.5)


def draw(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


VIDEO = draw(B, F, H, W, C)
CONDITIONING = Conditioning(
    actions=draw(B, F, 1, seed=1),
    image=draw(B, F, H, W, C, seed=2),
    image_mask=np.ones((B, F), np.float32),
)


def velocity_fn(params, x, timesteps, conditioning):
  """Leads to the datum `params`; known actions move the datum."""
  given = conditioning.with_masks()
  moved = (given.actions[..., 0] * given.actions_mask)[..., None, None, None]
  return flow.velocity_from_x0(
      x, jnp.broadcast_to(params + moved, x.shape), timesteps / 1000
  )


def config(**changes):
  return types.SimpleNamespace(
      **dict(
          guidance_scale=1.0,
          shift=3.0,
          min_sigma=0.02,
          max_sigma=0.98,
          critic_weight='none',
      )
      | changes
  )


def networks(fn=velocity_fn, **params):
  return {name: functools.partial(fn, data) for name, data in params.items()}


def sample(video):
  return matching.Sample(video, VIDEO, CONDITIONING, GIVEN)


def generator_loss(video, teacher, critic, fn=velocity_fn, **changes):
  return dmd.generator_loss(
      networks(fn, teacher=teacher, critic=critic),
      sample(video),
      KEY,
      config(**changes),
  )


def critic_loss(video, critic, **changes):
  return dmd.critic_loss(
      networks(critic=critic), sample(video), KEY, config(**changes)
  )


@jax.jit
def gradient(video, teacher, critic):
  return jax.grad(generator_loss, has_aux=True)(video, teacher, critic)[0]


class GeneratorTest(parameterized.TestCase):

  def test_agreement_of_critic_and_teacher_is_exactly_no_gradient(self):
    same = np.float32(0.3)
    np.testing.assert_array_equal(gradient(VIDEO, same, same), 0)

  def test_agreement_on_the_very_sample_is_no_gradient_and_not_a_nan(self):
    x = np.ones_like(VIDEO)
    np.testing.assert_array_equal(
        dmd.score_difference(x, x, x, LEVELS), 0
    )

  def test_the_gradient_is_the_score_difference_over_the_size(self):
    # Both networks lead to constants, so x0-predictions need no noise here:
    # r = teacher + action, f = critic + action.
    teacher, critic = np.float32(0.3), np.float32(0.8)
    found = gradient(VIDEO, teacher, critic)[:, GIVEN:]
    made = VIDEO[:, GIVEN:]
    real = teacher + CONDITIONING.actions[:, GIVEN:, :, None, None]
    scale = np.abs(made - real).mean(axis=(1, 2, 3, 4), keepdims=True)
    expected = np.broadcast_to((critic - teacher) / scale, made.shape)
    # x - (x - g) keeps g to a rounding of x; x0 of (x - x0) / σ, σ ≥ 0.02,
    # to a few roundings of x.
    np.testing.assert_allclose(found, expected / made.size, rtol=2e-5)

  def test_descent_leads_from_the_critic_towards_the_teacher(self):
    # The student's samples are where the critic says, the teacher is above.
    step = -gradient(VIDEO, np.float32(1), np.float32(0))[:, GIVEN:]
    self.assertTrue(np.all(step > 0))

  def test_given_frames_have_exactly_no_gradient(self):
    found = gradient(VIDEO, np.float32(0.3), np.float32(0.8))
    np.testing.assert_array_equal(found[:, :GIVEN], 0)
    self.assertTrue(np.all(found[:, GIVEN:] != 0))

  def test_networks_have_exactly_no_gradient(self):
    found = jax.jit(
        jax.grad(lambda t, c: generator_loss(VIDEO, t, c)[0], argnums=(0, 1))
    )
    self.assertEqual(found(np.float32(0.3), np.float32(0.8)), (0, 0))

  def test_samples_are_normalised_one_by_one(self):
    x, real, fake = draw(3, B, F, H, W, C)
    scale = np.float32([1, 100])[:, None, None, None, None]
    np.testing.assert_allclose(
        dmd.score_difference(scale * x, scale * real, scale * fake, LEVELS),
        dmd.score_difference(x, real, fake, LEVELS),
        rtol=1e-5,
    )

  def test_guidance_is_for_the_teacher_alone(self):
    calls = []

    def spy(params, x, timesteps, conditioning):
      known = conditioning.with_masks().actions_mask
      calls.append((float(params), known.mean(axis=1).tolist()))
      return velocity_fn(params, x, timesteps, conditioning)

    generator_loss(
        jnp.asarray(VIDEO),
        np.float32(1),
        np.float32(2),
        spy,
        guidance_scale=4.0,
    )
    self.assertEqual(calls, [(1, [1, 1, 0, 0]), (2, [1, 1])])

  def test_both_networks_see_the_same_noise_and_a_clean_context(self):
    calls = []

    def spy(unused_params, x, timesteps, unused_conditioning):
      calls.append((x, timesteps))
      return x

    generator_loss(jnp.asarray(VIDEO), 0, 0, spy)
    (x, timesteps), (other_x, other_timesteps) = calls
    np.testing.assert_array_equal(x, other_x)
    np.testing.assert_array_equal(timesteps, other_timesteps)
    np.testing.assert_array_equal(x[:, :GIVEN], VIDEO[:, :GIVEN])
    np.testing.assert_array_equal(timesteps[:, :GIVEN], 0)
    # One level for all frames of a sample.
    self.assertTrue(np.all(timesteps[:, GIVEN:] == timesteps[:, GIVEN:][:, :1]))
    self.assertTrue(np.all(timesteps[:, GIVEN:] > 0))

  def test_noise_levels_keep_away_from_the_ends(self):
    levels = matching.noise_levels(KEY, 1000, config(shift=5.0))
    np.testing.assert_allclose(
        [levels.min(), levels.max()], [0.02, 0.98], rtol=1e-6
    )


class CriticTest(absltest.TestCase):

  def test_regresses_the_velocity_of_the_samples(self):
    loss, _ = critic_loss(jnp.asarray(VIDEO), np.float32(0.5))
    rng_sigma, rng_eps = jax.random.split(KEY)
    sigma = matching.noise_levels(rng_sigma, B, config())[:, None] * (
        np.arange(F) >= GIVEN
    )
    x, target = objective.noised(rng_eps, VIDEO, sigma)
    v = velocity_fn(np.float32(0.5), x, 1000 * sigma, CONDITIONING)
    np.testing.assert_allclose(
        loss, np.mean((v - target)[:, GIVEN:] ** 2), rtol=1e-5
    )

  def test_is_zero_where_the_critic_knows_the_samples(self):
    moved = CONDITIONING.actions[..., None, None]
    video = np.broadcast_to(0.5 + moved, VIDEO.shape)
    loss, _ = critic_loss(jnp.asarray(video), np.float32(0.5))
    # (x - x0) / σ - (ε - x0): roundings of values near 4, divided by σ ≥ 0.02.
    self.assertLess(loss, (4 * 2**-23 / 0.02) ** 2)

  def test_the_samples_have_exactly_no_gradient(self):
    found = jax.jit(jax.grad(lambda v: critic_loss(v, np.float32(0.5))[0]))
    np.testing.assert_array_equal(found(VIDEO), 0)

  def test_given_frames_are_not_in_the_loss(self):
    per_frame = jax.jit(
        jax.grad(lambda c: critic_loss(jnp.asarray(VIDEO), c)[0])
    )
    found = per_frame(np.zeros((F, 1, 1, 1), np.float32))[:, 0, 0, 0]
    self.assertEqual(found[0], 0)
    self.assertTrue(np.all(found[GIVEN:] != 0))


if __name__ == '__main__':
  absltest.main()

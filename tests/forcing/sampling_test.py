"""How a chunk is denoised and remembered, with networks that can be read."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.forcing import tiny_student as tiny
from worldsim_jax.attention import kv_cache
from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import guidance
from worldsim_jax.diffusion import samplers
from worldsim_jax.forcing import rollout
from worldsim_jax.models.conditioning import Conditioning

B, GIVEN = tiny.B, tiny.GIVEN
CONTEXT, NOISE = tiny.CONTEXT, tiny.NOISE
SAMPLING = rollout.Sampling(tiny.SIGMAS, chunk=1)


def linear(params, x, timesteps, unused_given, unused_context, unused_cache):
  """v = w x; its key holds the mean that it saw, its value the timestep."""
  per_slot = lambda y: y[None, :, :, None, None, None]
  kv = kv_cache.KeyValues(
      per_slot(jnp.mean(x, axis=(2, 3, 4))), per_slot(timesteps)
  )
  return params * x, kv


class LinearModelTest(parameterized.TestCase):
  """What passes through the network, shown by one that can be read."""

  def setUp(self):
    super().setUp()
    cache = kv_cache.empty(
        num_layers=1,
        batch=B,
        num_slots=4,
        tokens_per_frame=1,
        num_heads=1,
        head_dim=1,
    )
    noisy_memory = SAMPLING._replace(context_sigma=0.1)
    self.state = rollout.start(
        linear, np.float32(1), cache, CONTEXT, Conditioning(), noisy_memory
    )

  def chunk(self, w, sampling=SAMPLING):
    return rollout.generate_chunk(
        linear,
        w,
        self.state,
        NOISE[:, :1],
        Conditioning(),
        sampling,
        2,
        jax.random.key(0),
    )

  def test_only_the_exit_step_has_a_gradient(self):
    def total(w):
      _, video = rollout.rollout(
          linear,
          w,
          self.state,
          NOISE[:, :2],
          Conditioning(),
          SAMPLING,
          2,
          jax.random.key(0),
          given=GIVEN,
      )
      return jnp.sum(video)

    w = np.float32(0.5)
    value, gradient = jax.value_and_grad(total)(w)
    # x0 = x - σ w x, and x is a constant.
    sigma = SAMPLING.sigmas[2]
    x = value / (1 - sigma * w)
    np.testing.assert_allclose(gradient, -sigma * x, rtol=1e-5)

  def test_given_frames_are_remembered_clean(self):
    remembered = self.state.cache
    np.testing.assert_allclose(
        remembered.k[0, 0, :2, 0, 0, 0],
        CONTEXT.mean(axis=(0, 2, 3, 4)),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(remembered.v, 0)

  def test_made_frames_are_remembered_clean(self):
    state, x0 = self.chunk(np.float32(0.5))
    np.testing.assert_allclose(
        state.cache.k[0, 0, 2, 0, 0, 0], jnp.mean(x0), rtol=1e-5
    )
    self.assertEqual(state.cache.v[0, 0, 2, 0, 0, 0], 0)
    np.testing.assert_array_equal(state.last_frame, x0[:, -1])

  @parameterized.parameters(
      (dict(context_sigma=0.1), 100, 0.9),
      # Upstream's inference: told a level, not noised to it.
      (dict(context_sigma=0.1, context_noise=0.), 100, None),
      # Upstream's training where context_noise is 0.
      (dict(context_noise=0.00498), 0, 0.99502),
  )
  def test_what_memory_is_told_and_what_noise_it_has(self, levels, told, kept):
    state, x0 = self.chunk(np.float32(0.5), SAMPLING._replace(**levels))
    self.assertAlmostEqual(state.cache.v[0, 0, 2, 0, 0, 0], told, places=4)
    seen = state.cache.k[0, 0, 2, 0, 0, 0]
    if kept is None:
      np.testing.assert_allclose(seen, jnp.mean(x0), rtol=1e-5)
      return
    key = jax.random.fold_in(jax.random.key(0), len(SAMPLING.sigmas))
    noisy = samplers.renoise(key, x0, 1 - kept)
    np.testing.assert_allclose(seen, jnp.mean(noisy), rtol=1e-5)
    self.assertGreater(abs(seen - jnp.mean(x0)), 1e-5)


@pytest.mark.slow
class ManyStepsTest(absltest.TestCase):
  """Students that are not distilled: the flow ODE, with guidance."""

  def setUp(self):
    super().setUp()
    sigmas = flow.sampling_sigmas(5, 3.)
    self.sampling = rollout.Sampling(sigmas, chunk=1, step='euler')

  def chunk(self, sampling, state):
    return jax.jit(lambda state: rollout.generate_chunk(
        tiny.velocity_fn, tiny.random_params(), state, tiny.NOISE[:, :1],
        tiny.ACTIONS.frames(tiny.GIVEN, 1), sampling, len(sampling.sigmas) - 1,
        jax.random.key(0)))(state)

  def expected(self, sampling, state, velocity):
    """By the sampler for whole clips, x0 and what goes into the cache."""
    given = tiny.ACTIONS.headed().frames(tiny.GIVEN, 1).with_image(
        tiny.CONTEXT[:, -1:], jnp.ones((B, 1)))
    fn = lambda x, t, given: velocity(
        tiny.random_params(), x, t, given, None, state.cache)
    denoise = guidance.guided(
        fn, given, given.unconditional(), sampling.guidance_scale)
    return jax.jit(lambda noise: samplers.euler(
        lambda x, t: denoise(x, t)[0], noise, sampling.sigmas))(
            tiny.NOISE[:, :1])

  def test_euler_steps_solve_the_ode(self):
    state = tiny.started(self.sampling, tiny.empty_cache(4))
    _, found = self.chunk(self.sampling, state)
    expected = self.expected(self.sampling, state, tiny.velocity_fn)
    # x0 + σ'/σ (x - x0) for x + (σ' - σ) v: roundings of values near 1.
    np.testing.assert_allclose(found, expected, atol=1e-5)
    renoised = self.sampling._replace(step='renoise')
    self.assertGreater(np.abs(self.chunk(renoised, state)[1] - found).max(), .1)

  def test_guidance_goes_away_from_the_unconditional_past_and_future(self):
    guided = self.sampling._replace(guidance_scale=3.)
    state = tiny.started(guided, tiny.empty_cache(4, batch=2 * B))
    # The second half of the cache is of a student that knows no actions.
    known = tiny.started(self.sampling, tiny.empty_cache(4))
    blind = tiny.started(
        self.sampling, tiny.empty_cache(4), tiny.ACTIONS.unconditional())
    halves = np.concatenate([known.cache.k, blind.cache.k], axis=1)
    np.testing.assert_allclose(state.cache.k, halves, atol=1e-5)
    self.assertGreater(np.abs(known.cache.k - blind.cache.k).max(), 1e-2)
    end, found = self.chunk(guided, state)
    expected = self.expected(guided, state, tiny.velocity_fn)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    self.assertEqual(end.cache.length, tiny.GIVEN + 1)
    _, unguided = self.chunk(self.sampling, known)
    self.assertGreater(np.abs(found - unguided).max(), 1e-2)


if __name__ == '__main__':
  absltest.main()

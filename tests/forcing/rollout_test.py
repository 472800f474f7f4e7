"""The rollout: one chunk function, any exit step, no gradient to the past."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import kv_cache
from worldsim_jax.diffusion import samplers
from worldsim_jax.forcing import rollout
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.models.transformer import VideoTransformer

B, H, W, C, A = 1, 2, 3, 3, 2
GIVEN, NEW = 2, 3  # Frames of context, and chunks of one frame after it.
SAMPLING = rollout.Sampling(np.float32([1.0, 0.9, 0.6]), chunk=1)


def draw(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


CONTEXT, NOISE = draw(B, GIVEN, H, W, C), draw(B, NEW, H, W, C, seed=1)
ACTIONS = Conditioning(actions=draw(B, GIVEN + NEW, A, seed=2))
MODEL = VideoTransformer(
    dim=16,
    ffn_dim=32,
    num_heads=2,
    num_layers=2,
    latent_channels=C,
    patch=(1, 1),
    action_dim=A,
    image=True,
)


def velocity_fn(params, *args):
  return MODEL.apply({'params': params}, *args)


def random_params(seed=0):
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(
      MODEL.init, jax.random.key(0), CONTEXT, np.zeros((B, GIVEN))
  )
  return jax.tree.map(
      lambda s: np.float32(0.2 * rng.normal(size=s.shape)), shapes['params']
  )


@functools.cache
def started():
  """Parameters, and a video whose context is in the cache."""
  params = random_params()
  empty = kv_cache.empty(
      num_layers=2,
      batch=B,
      num_slots=GIVEN + NEW,
      tokens_per_frame=H * W,
      num_heads=2,
      head_dim=8,
  )
  start = jax.jit(
      functools.partial(rollout.start, velocity_fn, sampling=SAMPLING)
  )
  return params, start(params, empty, CONTEXT, ACTIONS.frames(0, GIVEN))


def chunk_inputs(index):
  """Noise, conditioning and key of a chunk of the rollout."""
  return (
      NOISE[:, index : index + 1],
      ACTIONS.frames(GIVEN + index, 1),
      jax.random.fold_in(jax.random.key(5), index),
  )


@jax.jit
def generate_chunk(params, state, inputs, exit_step):
  noise, given, key = inputs
  return rollout.generate_chunk(
      velocity_fn, params, state, noise, given, SAMPLING, exit_step, key
  )


@jax.jit
def generate_all(params, state, exit_step):
  return rollout.rollout(
      velocity_fn,
      params,
      state,
      NOISE,
      ACTIONS.frames(GIVEN, NEW),
      SAMPLING,
      exit_step,
      jax.random.key(5),
      given=GIVEN,
  )


class RolloutTest(parameterized.TestCase):

  def test_the_context_is_in_the_cache(self):
    _, state = started()
    self.assertEqual(state.cache.length, GIVEN)
    np.testing.assert_array_equal(state.last_frame, CONTEXT[:, -1])

  @parameterized.parameters(0, 2)
  def test_a_rollout_is_one_chunk_after_the_other(self, exit_step):
    params, state = started()
    end, video = generate_all(params, state, exit_step)
    for i in range(NEW):
      state, chunk = generate_chunk(params, state, chunk_inputs(i), exit_step)
      # The same program inside and outside of a loop, values near 1.
      np.testing.assert_allclose(video[:, i : i + 1], chunk, atol=1e-5)
    chex.assert_trees_all_close(end, state, atol=1e-5)
    self.assertEqual(end.cache.length, GIVEN + NEW)

  def test_one_program_stops_at_any_step(self):
    params, state = started()
    cached = jax.jit(velocity_fn)
    noise, given, key = chunk_inputs(0)
    given = given.with_image(CONTEXT[:, -1:], np.ones((B, 1), np.float32))
    x = noise
    for step, sigma in enumerate(SAMPLING.sigmas):
      timesteps = np.full((B, 1), 1000 * sigma)
      v, _ = cached(params, x, timesteps, given, None, state.cache)
      x0 = x - sigma * v
      _, found = generate_chunk(params, state, chunk_inputs(0), step)
      # Up to three passes of two layers, values near 1.
      np.testing.assert_allclose(found, x0, atol=1e-5)
      if step + 1 < len(SAMPLING.sigmas):
        x = samplers.renoise(
            jax.random.fold_in(key, step), x0, SAMPLING.sigmas[step + 1]
        )
    self.assertEqual(generate_chunk._cache_size(), 1)

  @parameterized.parameters(0, 2)
  def test_the_gradient_is_that_of_every_chunk_by_itself(self, exit_step):
    params, state = started()
    weight = draw(*NOISE.shape, seed=3)  # Of the frames, in the loss.

    def one_chunk(params, inputs, weight, state):
      noise, given, key = inputs
      image = jnp.broadcast_to(state.last_frame[:, None], noise.shape)
      given = given.with_image(image, np.ones((B, 1), np.float32))
      x = noise
      for step, sigma in enumerate(SAMPLING.sigmas[: exit_step + 1]):
        timesteps = np.full((B, 1), 1000 * sigma)
        v, _ = velocity_fn(
            params, jax.lax.stop_gradient(x), timesteps, given, None,
            state.cache,
        )
        x0 = jax.lax.stop_gradient(x) - sigma * v
        if step < exit_step:
          x = samplers.renoise(
              jax.random.fold_in(key, step), x0, SAMPLING.sigmas[step + 1]
          )
      return jnp.sum(x0 * weight)

    gradient_of_chunk = jax.jit(jax.grad(one_chunk))
    gradients = []
    for i in range(NEW):
      gradients.append(gradient_of_chunk(
          params, chunk_inputs(i), weight[:, i : i + 1], state))
      state, _ = generate_chunk(params, state, chunk_inputs(i), exit_step)
    expected = jax.tree.map(lambda *x: sum(x), *gradients)
    _, start = started()
    found = jax.jit(
        jax.grad(
            lambda p: jnp.sum(weight * generate_all(p, start, exit_step)[1])
        )
    )(params)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    # fp32 sums over frames in another order.
    chex.assert_trees_all_close(found, expected, atol=1e-5 * scale)

  def test_what_came_before_a_chunk_has_exactly_no_gradient(self):
    params, state = started()

    def total(noise, k, last_frame):
      start = state.replace(
          cache=state.cache.replace(k=k), last_frame=last_frame
      )
      _, video = rollout.rollout(
          velocity_fn, params, start, noise, ACTIONS.frames(GIVEN, NEW),
          SAMPLING, 1, jax.random.key(5), given=GIVEN,
      )
      return jnp.sum(video)

    arguments = (NOISE, state.cache.k, state.last_frame)
    value_and_grad = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    value, gradients = value_and_grad(*arguments)
    for index, gradient in enumerate(gradients):
      np.testing.assert_array_equal(gradient, 0)
      changed = [x + (i == index) for i, x in enumerate(arguments)]
      self.assertNotEqual(value_and_grad(*changed)[0], value)

  def test_a_cache_that_forgets_frames_cannot_be_trained_with(self):
    params, state = started()
    with self.assertRaisesRegex(ValueError, '6 frames .* of 5 slots'):
      rollout.rollout(
          velocity_fn, params, state, NOISE, ACTIONS.frames(GIVEN, NEW),
          SAMPLING, 0, jax.random.key(0), given=GIVEN + 1,
      )

  def test_a_chunk_that_does_not_divide_names_the_key(self):
    with self.assertRaisesRegex(ValueError, 'config.student.chunk'):
      rollout.rollout(
          None, None, None, NOISE, ACTIONS, SAMPLING._replace(chunk=2), 0,
          None, given=GIVEN,
      )


def linear(params, x, timesteps, unused_given, unused_context, unused_cache):
  """v = w x; its key holds the mean that it saw, its value the timestep."""
  per_slot = lambda y: y[None, :, :, None, None, None]
  kv = kv_cache.KeyValues(
      per_slot(jnp.mean(x, axis=(2, 3, 4))), per_slot(timesteps)
  )
  return params * x, kv


class LinearModelTest(absltest.TestCase):
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
    self.noisy_memory = SAMPLING._replace(context_sigma=0.1)
    self.state = rollout.start(
        linear, np.float32(1), cache, CONTEXT, Conditioning(), self.noisy_memory
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

  def test_made_frames_are_remembered_with_noise_where_asked_for(self):
    state, x0 = self.chunk(np.float32(0.5), self.noisy_memory)
    seen = state.cache.k[0, 0, 2, 0, 0, 0]
    self.assertGreater(abs(seen - 0.9 * jnp.mean(x0)), 1e-3)
    self.assertEqual(state.cache.v[0, 0, 2, 0, 0, 0], 100)


if __name__ == '__main__':
  absltest.main()

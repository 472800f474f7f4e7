"""Diffusion Forcing as it was published: a recurrent model, and no window."""

import functools
import types

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from worldsim_jax.diffusion import objective
from worldsim_jax.diffusion import samplers
from worldsim_jax.forcing import diffusion
from worldsim_jax.forcing import rollout
from worldsim_jax.forcing import schedules
from worldsim_jax.forcing import sequences
from worldsim_jax.models import build
from worldsim_jax.models import recurrent
from worldsim_jax.models.conditioning import Conditioning

B, H, W, C, A = 1, 2, 3, 3, 2
GIVEN, NEW = 2, 6
MODEL = recurrent.RecurrentDenoiser(
    dim=8, num_layers=1, latent_channels=C, freq_dim=16, action_dim=A,
    image=True)
SAMPLING = rollout.Sampling(np.float32([1., .9, .6]), chunk=1)
FN = build.velocity_fn(MODEL)
SETTINGS = types.SimpleNamespace(
    shift=1., weight='none', guidance_dropout=0.)


def draw(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


CONTEXT, NOISE = draw(B, GIVEN, H, W, C), draw(B, NEW, H, W, C, seed=1)
ACTIONS = Conditioning(actions=draw(B, GIVEN + NEW, A, seed=2))


@functools.cache
def params():
  shapes = jax.eval_shape(
      MODEL.init, jax.random.key(0), CONTEXT, np.zeros((B, GIVEN)))
  return jax.tree.map(
      lambda s: 0.3 * draw(*s.shape, seed=s.size), shapes['params'])


def no_past(sampling=SAMPLING):
  return recurrent.empty(
      batch=rollout.cache_batch(sampling, B), height=H, width=W, dim=MODEL.dim)


def started(sampling=SAMPLING):
  return jax.jit(functools.partial(rollout.start, FN, sampling=sampling))(
      params(), no_past(sampling), CONTEXT, ACTIONS.frames(0, GIVEN))


@pytest.mark.slow
class RolloutTest(parameterized.TestCase):

  @parameterized.parameters(1, 2)
  def test_a_rollout_is_one_chunk_after_the_other(self, chunk):
    sampling = SAMPLING._replace(chunk=chunk)
    state, exit_step = started(sampling), 2
    end, video = jax.jit(lambda state: rollout.rollout(
        FN, params(), state, NOISE, ACTIONS.frames(GIVEN, NEW), sampling,
        exit_step, jax.random.key(5), given=GIVEN))(state)

    @jax.jit
    def one_chunk(state, index):
      noise = jax.lax.dynamic_slice_in_dim(NOISE, index * chunk, chunk, 1)
      return rollout.generate_chunk(
          FN, params(), state, noise,
          ACTIONS.frames(GIVEN + index * chunk, chunk), sampling, exit_step,
          jax.random.fold_in(jax.random.key(5), index))

    for index in range(NEW // chunk):
      state, made = one_chunk(state, index)
      # The same program inside and outside of a loop, values near 1.
      np.testing.assert_allclose(
          video[:, index * chunk:(index + 1) * chunk], made, atol=1e-5)
    chex.assert_trees_all_close(end, state, atol=1e-5)
    self.assertEqual(end.cache.length, GIVEN + NEW)

  def test_all_passes_over_a_frame_begin_with_the_state_before_it(self):
    state, sampling = started(), SAMPLING._replace(step='euler')
    after, made = jax.jit(lambda state: rollout.generate_chunk(
        FN, params(), state, NOISE[:, :1], ACTIONS.frames(GIVEN, 1), sampling,
        2, jax.random.key(0)))(state)
    given = ACTIONS.frames(GIVEN, 1).with_image(
        CONTEXT[:, -1:], np.ones((B, 1), np.float32))
    cached = jax.jit(FN)
    run = lambda x, sigma: cached(
        params(), x, np.full((B, 1), 1000 * sigma), given, None, state.cache)
    x = NOISE[:, :1]
    for sigma, following in zip(SAMPLING.sigmas, [*SAMPLING.sigmas[1:], 0]):
      x = x + (following - sigma) * run(x, sigma)[0]
    # Three passes, values near 1.
    np.testing.assert_allclose(made, x, atol=1e-5)
    chex.assert_trees_all_close(
        after.cache, state.cache.append(run(x, 0)[1]), atol=1e-5)

  def test_two_hundred_frames_are_one_program_and_a_state_of_one_size(self):
    step = jax.jit(lambda state, index: rollout.generate_chunk(
        FN, params(), state,
        jax.random.normal(jax.random.key(index), CONTEXT[:, :1].shape),
        ACTIONS.frames(0, 1), SAMPLING, 2, jax.random.key(index)))
    begin = state = started()
    for index in range(200):
      state, frame = step(state, index)
    self.assertEqual(jax.tree.map(jnp.shape, state),
                     jax.tree.map(jnp.shape, begin))
    self.assertEqual(step._cache_size(), 1)
    self.assertEqual(state.cache.length, GIVEN + 200)
    self.assertTrue(np.isfinite(frame).all())
    self.assertLessEqual(
        np.abs(state.cache.z).max(), max(1, np.abs(params()['z_0']).max()))

  def test_guidance_keeps_a_state_of_both_halves(self):
    guided = SAMPLING._replace(guidance_scale=2.)
    self.assertEqual(started(guided).cache.batch, 2 * B)
    with self.assertRaisesRegex(ValueError, 'for 1 videos .* must be for 2'):
      rollout.start(FN, params(), no_past(), CONTEXT,
                    ACTIONS.frames(0, GIVEN), guided)

  @parameterized.parameters(None, 2)
  def test_self_forcing_has_the_gradient_of_each_exit_step(self, last):
    state, weight = started(), draw(*NOISE.shape, seed=3)
    exit_steps = np.int32([0, 2, 1, 0, 1, 2])

    @functools.partial(jax.grad, has_aux=True)
    def trained(params):
      _, video = rollout.rollout(
          FN, params, state, NOISE, ACTIONS.frames(GIVEN, NEW), SAMPLING,
          exit_steps, jax.random.key(5), given=GIVEN, gradient_frames=last)
      return jnp.sum(weight * video), video

    found, video = jax.jit(trained)(params())
    gradients = []
    for index, exit_step in enumerate(exit_steps):
      x = _before_exit(state, index, exit_step)
      if last is None or index >= NEW - last:
        gradients.append(_exit_gradient(
            x, SAMPLING.sigmas[exit_step], state, index,
            weight[:, index:index + 1]))
      state, x0 = _one_chunk(state, index, exit_step)
      np.testing.assert_allclose(x0, video[:, index:index + 1], atol=1e-5)
    expected = jax.tree.map(lambda *x: sum(x), *gradients)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    # fp32 sums over frames in another order.
    chex.assert_trees_all_close(found, expected, atol=1e-5 * scale)
    self.assertGreater(scale, 1)


@jax.jit
def _one_chunk(state, index, exit_step):
  cut = lambda x: jax.lax.dynamic_slice_in_dim(x, index, 1, 1)
  return rollout.generate_chunk(
      FN, params(), state, cut(NOISE), ACTIONS.frames(GIVEN + index, 1),
      SAMPLING, exit_step, jax.random.fold_in(jax.random.key(5), index))


def _before_exit(state, index, exit_step):
  """What the exit step of a frame denoises, [B, 1, H, W, C]."""
  noise = NOISE[:, index:index + 1]
  if not exit_step:
    return noise
  _, x0 = _one_chunk(state, index, exit_step - 1)
  key = jax.random.fold_in(jax.random.key(5), index)
  return samplers.renoise(
      jax.random.fold_in(key, exit_step - 1), x0, SAMPLING.sigmas[exit_step])


@jax.jit
def _exit_gradient(x, sigma, state, index, weight):
  """Of sum(weight x0), where the state is a constant."""
  given = ACTIONS.frames(GIVEN + index, 1).with_image(
      state.last_frame[:, None], jnp.ones((B, 1)))

  def total(params):
    v, _ = FN(params, x, jnp.full((B, 1), 1000 * sigma), given, None,
              state.cache)
    return jnp.sum(weight * (x - sigma * v))

  return jax.grad(total)(params())


class SequenceTest(absltest.TestCase):

  def test_of_frames_that_are_noise_the_state_knows_nothing(self):
    sigma_BF = jnp.float32([[1., .5, 1., 1.]])

    @jax.jit
    def velocity(x0):
      x, _ = objective.noised(jax.random.key(0), x0, sigma_BF)
      return sequences.noisy_past(
          FN, params(), x, sigma_BF, ACTIONS.frames(0, 4), chunk=1)

    x0 = draw(B, 4, H, W, C)
    hidden, seen = (x0 + np.isin(np.arange(4), frames)[:, None, None, None]
                    for frames in ([0, 2, 3], [1]))
    np.testing.assert_array_equal(velocity(hidden), velocity(x0))
    change = np.abs(velocity(seen) - velocity(x0)).max(axis=(0, 2, 3, 4))
    self.assertEqual(change[0], 0)
    self.assertGreater(change[1:].min(), 1e-4)

  def test_sampling_matrices_work_without_a_window(self):
    matrix = schedules.matrix('pyramid', SAMPLING.sigmas, 3)
    video = jax.jit(lambda rng: schedules.sample(
        FN, params(), CONTEXT, ACTIONS.frames(0, GIVEN + 3), rng, matrix,
        chunk=1, stabilisation_sigma=.02))(jax.random.key(0))
    self.assertEqual(video.shape, (B, 3, H, W, C))
    self.assertTrue(np.isfinite(video).all())


@pytest.mark.slow
class MemoryTest(absltest.TestCase):
  """A blob goes left or right, around a ring: the direction tells two frames.

  Whoever knows the frame before, and no more, says 'half here, half there': of
  a blob of height h in one of two pixels, an error of h² / 4 in each.
  """
  WIDTH, FRAMES, HEIGHT, STEPS = 8, 3, 2., 100
  MODEL = recurrent.RecurrentDenoiser(
      dim=16, num_layers=1, latent_channels=1, freq_dim=32)

  def clips(self, rng):
    rng_place, rng_side = jax.random.split(rng)
    place = jax.random.randint(rng_place, (32, 1), 0, self.WIDTH)
    side = 2 * jax.random.bernoulli(rng_side, shape=(32, 1)) - 1
    pixel = (place + side * jnp.arange(self.FRAMES)) % self.WIDTH
    return self.HEIGHT * jax.nn.one_hot(pixel, self.WIDTH)[:, :, None, :, None]

  def trained(self):
    fn, optimizer = build.velocity_fn(self.MODEL), optax.adam(1e-2)
    loss = diffusion.diffusion_forcing_loss(
        fn, SETTINGS, 'student', chunk=1, context_frames=self.FRAMES - 1)

    @jax.jit
    def update(params, moments, key):
      rng_data, rng_loss = jax.random.split(key)
      gradient, _ = jax.grad(loss, has_aux=True)(
          {'student': params}, {'latents': self.clips(rng_data)}, rng_loss)
      change, moments = optimizer.update(gradient['student'], moments)
      return optax.apply_updates(params, change), moments

    x, sigma_BF = jnp.zeros((1, 1, 1, self.WIDTH, 1)), jnp.zeros((1, 1))
    params = jax.jit(self.MODEL.init)(jax.random.key(0), x, sigma_BF)['params']
    moments = optimizer.init(params)
    for step in range(self.STEPS):
      params, moments = update(params, moments, jax.random.key(step))
    return params

  def test_what_two_frames_tell_is_learned(self):
    fn = build.velocity_fn(self.MODEL)
    sigma_BF = jnp.zeros((32, self.FRAMES)).at[:, -1].set(1)

    @jax.jit
    def error(params, key):
      """Of the last frame, from noise alone; that of v is that of x0."""
      x, target = objective.noised(key, self.clips(key), sigma_BF)
      v = sequences.noisy_past(
          fn, params, x, sigma_BF, Conditioning(), chunk=1)
      return jnp.mean((v - target)[:, -1]**2)

    memoryless = 2 * self.HEIGHT**2 / 4 / self.WIDTH
    # A seventh of it where this was written.
    self.assertLess(error(self.trained(), jax.random.key(0)), memoryless / 3)


if __name__ == '__main__':
  absltest.main()

"""The rollout: one chunk function, any exit step, no gradient to the past."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.forcing import tiny_student as tiny
from worldsim_jax.diffusion import samplers
from worldsim_jax.forcing import rollout
from worldsim_jax.models.conditioning import Conditioning

B, GIVEN, NEW = tiny.B, tiny.GIVEN, tiny.NEW
CONTEXT, NOISE, ACTIONS = tiny.CONTEXT, tiny.NOISE, tiny.ACTIONS
SAMPLING = rollout.Sampling(tiny.SIGMAS, chunk=1)
MODES = {  # Sampling, exit steps, slots of the cache, frames with gradient.
    'shared': (SAMPLING, 1, 8, None),
    'per_chunk': (SAMPLING, np.int32([0, 2, 1, 0, 1, 2]), 8, None),
    'chunks_of_2': (SAMPLING._replace(chunk=2), np.int32([1, 0, 2]), 8, None),
    'rolling': (SAMPLING, 1, 3, None),
    'last_frames': (SAMPLING, 1, 8, 2),
    'last_frames_rolling': (SAMPLING, np.int32([1] * 6), 3, 2),
    'euler_guided': (
        SAMPLING._replace(step='euler', guidance_scale=2.), 1, 3, 2),
}


def started(sampling=SAMPLING, slots=GIVEN + NEW):
  batch = rollout.cache_batch(sampling, B)
  return tiny.started(sampling, tiny.empty_cache(slots, batch, sink=1))


def chunk_inputs(index):
  """Noise, conditioning and key of a chunk of the rollout."""
  return (
      NOISE[:, index : index + 1],
      ACTIONS.frames(GIVEN + index, 1),
      jax.random.fold_in(jax.random.key(tiny.KEY), index),
  )


@jax.jit
def generate_chunk(state, inputs, exit_step):
  noise, given, key = inputs
  return rollout.generate_chunk(
      tiny.velocity_fn, tiny.random_params(), state, noise, given, SAMPLING,
      exit_step, key,
  )


@jax.jit
def generate_all(state, exit_step):
  return tiny.rolled_out(SAMPLING, state, exit_step)


class RolloutTest(parameterized.TestCase):

  def test_the_context_is_in_the_cache(self):
    state = started()
    self.assertEqual(state.cache.length, GIVEN)
    np.testing.assert_array_equal(state.last_frame, CONTEXT[:, -1])

  @pytest.mark.slow
  def test_the_heading_is_carried_on_from_chunk_to_chunk(self):
    whole = ACTIONS.headed().heading
    state = started()
    np.testing.assert_allclose(state.heading, whole[:, GIVEN - 1], rtol=1e-6)
    for i in range(2):
      state, _ = generate_chunk(state, chunk_inputs(i), 0)
    told = rollout.tell(
        tiny.velocity_fn, tiny.random_params(), state, CONTEXT[:, :1],
        ACTIONS.frames(GIVEN + 2, 1), SAMPLING)
    np.testing.assert_allclose(told.heading, whole[:, GIVEN + 2], rtol=1e-6)

  @parameterized.parameters(0, 2)
  @pytest.mark.slow
  def test_a_rollout_is_one_chunk_after_the_other(self, exit_step):
    state = started()
    end, video = generate_all(state, exit_step)
    for i in range(NEW):
      state, chunk = generate_chunk(state, chunk_inputs(i), exit_step)
      # The same program inside and outside of a loop, values near 1.
      np.testing.assert_allclose(video[:, i : i + 1], chunk, atol=1e-5)
    chex.assert_trees_all_close(end, state, atol=1e-5)
    self.assertEqual(end.cache.length, GIVEN + NEW)

  def test_one_program_stops_at_any_step(self):
    state = started()
    cached = jax.jit(tiny.velocity_fn)
    noise, given, key = chunk_inputs(0)
    given = given.headed(state.heading).with_image(
        CONTEXT[:, -1:], np.ones((B, 1), np.float32))
    x = noise
    for step, sigma in enumerate(SAMPLING.sigmas):
      timesteps = np.full((B, 1), 1000 * sigma)
      v, _ = cached(
          tiny.random_params(), x, timesteps, given, None, state.cache
      )
      x0 = x - sigma * v
      _, found = generate_chunk(state, chunk_inputs(0), step)
      # Up to three passes of two layers, values near 1.
      np.testing.assert_allclose(found, x0, atol=1e-5)
      if step + 1 < len(SAMPLING.sigmas):
        x = samplers.renoise(
            jax.random.fold_in(key, step), x0, SAMPLING.sigmas[step + 1]
        )
    self.assertEqual(generate_chunk._cache_size(), 1)

  @parameterized.named_parameters((name, name) for name in MODES)
  @pytest.mark.slow
  def test_what_came_before_a_chunk_has_exactly_no_gradient(self, mode):
    sampling, exit_steps, slots, gradient_frames = MODES[mode]
    state = started(sampling, slots)

    def last_chunk(noise, k, last_frame):
      begin = state.replace(
          cache=state.cache.replace(k=k), last_frame=last_frame
      )
      _, video = tiny.rolled_out(
          sampling, begin, exit_steps, noise=noise,
          gradient_frames=gradient_frames,
      )
      return jnp.sum(video[:, -sampling.chunk:])

    arguments = (NOISE, state.cache.k, state.last_frame)
    value_and_grad = jax.jit(jax.value_and_grad(last_chunk, argnums=(0, 1, 2)))
    value, gradients = value_and_grad(*arguments)
    for index, gradient in enumerate(gradients):
      np.testing.assert_array_equal(gradient, 0)
      changed = [x + (i == index) for i, x in enumerate(arguments)]
      self.assertNotEqual(value_and_grad(*changed)[0], value)

  @parameterized.parameters(3, 8)
  @pytest.mark.slow
  def test_of_a_long_rollout_the_last_frames_have_the_gradient(self, slots):
    state, weight = started(slots=slots), tiny.draw(*NOISE.shape, seed=3)
    exit_steps = np.int32([0, 2, 1, 0, 1, 2])

    @functools.partial(jax.grad, has_aux=True)
    def gradient(params):
      _, video = tiny.rolled_out(
          SAMPLING, state, exit_steps, params, gradient_frames=2
      )
      return jnp.sum(weight * video), video

    found, video = jax.jit(gradient)(tiny.random_params())
    late = (np.arange(NEW) >= NEW - 2)[:, None, None, None]
    whole, expected = tiny.written_out(
        state, weight * late, SAMPLING, exit_steps
    )
    # Loops or not, values near 1; fp32 sums over frames in another order.
    np.testing.assert_allclose(video, whole, atol=1e-5)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    chex.assert_trees_all_close(found, expected, atol=1e-5 * scale)

  @parameterized.parameters(
      (dict(exit_steps=3), 'exit_step=3 .* 3 denoising steps 0 to 2'),
      (dict(exit_steps=-1), 'exit_step=-1'),
      (dict(exit_steps=np.int32([0, 1])), r'shape \(2,\).* its 6 chunks'),
      (dict(gradient_frames=0), 'gradient_frames=0'),
      (dict(gradient_frames=8), 'gradient_frames=8 .* at most the 6 frames'),
      (dict(chunk=2, gradient_frames=3), 'gradient_frames=3 .* chunk=2'),
      (dict(chunk=4), 'chunk=4 .*6 frames.*config.student.chunk'),
      (dict(chunk=3), '3 frames .* window of 2 slots .config.student.window'),
      (dict(step='heun'), "step='heun'"),
      (dict(guidance_scale=2.), 'for 1 videos .* it must be for 2'),
  )
  def test_what_does_not_fit_together_is_refused(self, changed, message):
    state = started(slots=3)
    arguments = {'exit_steps': 0} | changed
    fields = {name: arguments.pop(name) for name in SAMPLING._fields
              if name in arguments}
    with self.assertRaisesRegex(ValueError, message):
      tiny.rolled_out(SAMPLING._replace(**fields), state, **arguments)

  def test_guidance_needs_something_to_leave_out(self):
    with self.assertRaisesRegex(ValueError, 'text or actions'):
      rollout.start(
          tiny.velocity_fn, None, None, CONTEXT, Conditioning(),
          SAMPLING._replace(guidance_scale=2.),
      )


if __name__ == '__main__':
  absltest.main()

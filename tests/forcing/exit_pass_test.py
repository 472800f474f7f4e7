"""Training makes what streaming makes, and its gradient is the plain one's."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.forcing import tiny_student as tiny
from worldsim_jax.forcing import exit_pass
from worldsim_jax.forcing import rollout

WEIGHT = tiny.draw(*tiny.NOISE.shape, seed=3)  # Of the frames, in the loss.
EXIT_STEPS = {1: np.int32([0, 2, 1, 0, 1, 2]), 2: np.int32([2, 0, 1])}
# Chunk, window, sink, relative. All forget frames of the 8 of the video; the
# last one's window is no whole number of chunks.
ROLLING = (
    (1, 2, 1, True),
    (1, 3, 0, False),
    (2, 2, 2, True),
    (2, 3, 1, False),
)


@functools.cache
def training(chunk):
  """The rollout and its gradient, one program for all exit steps."""
  sampling = rollout.Sampling(tiny.SIGMAS, chunk)

  def loss(params, state, exit_steps):
    end, video = tiny.rolled_out(sampling, state, exit_steps, params)
    return jnp.sum(video * WEIGHT), (end, video)

  return sampling, jax.jit(jax.grad(loss, has_aux=True))


class RollingTest(parameterized.TestCase):

  @parameterized.parameters(*ROLLING, (1, 8, 0, False), (2, 6, 2, True))
  @pytest.mark.slow
  def test_video_and_gradient_are_those_of_a_stream(
      self, chunk, window, sink, relative
  ):
    sampling, train = training(chunk)
    cache = tiny.empty_cache(window + sink, sink=sink, relative=relative)
    state = tiny.started(sampling, cache)
    found, (end, video) = train(tiny.random_params(), state, EXIT_STEPS[chunk])
    stream_end, streamed = tiny.streamed(sampling, state, EXIT_STEPS[chunk])
    # The same program inside and outside of a loop, values near 1.
    np.testing.assert_allclose(video, streamed, atol=1e-5)
    chex.assert_trees_all_close(end, stream_end, atol=1e-5)
    video, expected = tiny.written_out(
        state, WEIGHT, sampling, EXIT_STEPS[chunk]
    )
    np.testing.assert_allclose(video, streamed, atol=1e-5)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    # fp32 sums over frames in another order.
    chex.assert_trees_all_close(found, expected, atol=1e-5 * scale)

  def test_what_is_forgotten_would_have_changed_the_video(self):
    sampling, train = training(1)
    videos = []
    for cache in (tiny.empty_cache(3, sink=1, relative=True),
                  tiny.empty_cache(tiny.GIVEN + tiny.NEW)):
      state = tiny.started(sampling, cache)
      _, (_, video) = train(tiny.random_params(), state, EXIT_STEPS[1])
      videos.append(video)
    # The first new frame reads both frames before it, in either cache.
    np.testing.assert_allclose(videos[0][:, 0], videos[1][:, 0], atol=1e-5)
    self.assertGreater(np.abs(videos[0] - videos[1]).max(), 1e-3)


class KnownValueTest(absltest.TestCase):

  def test_a_value_is_taken_as_it_is_and_its_gradient_computed(self):
    known = exit_pass.known_value(lambda g, w, x: jnp.sum(g) * jnp.cos(w) * x)
    loss = lambda w, x: 3 * known(np.float32(7), w, x)
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(0.5, 2.0)
    self.assertEqual(value, 21)
    np.testing.assert_allclose(gradients[0], 6 * np.cos(0.5), rtol=1e-6)
    self.assertEqual(gradients[1], 0)


if __name__ == '__main__':
  absltest.main()

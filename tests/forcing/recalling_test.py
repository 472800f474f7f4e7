"""A student that recalls: what it remembers, in training as in streaming."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.forcing import tiny_student as tiny
from worldsim_jax.attention import kv_cache
from worldsim_jax.attention.moc.recall import Recall
from worldsim_jax.forcing import rollout

SLOTS = tiny.GIVEN + tiny.NEW
EXITS = (1, 2, 1, 0, 2, 1)


def cache(recall=None, num_slots=SLOTS):
  return kv_cache.empty(
      num_layers=2, batch=tiny.B, num_slots=num_slots,
      tokens_per_frame=tiny.H * tiny.W, num_heads=2, head_dim=8, recall=recall)


@functools.cache
def streamed(recall=None, chunk=1):
  sampling = rollout.Sampling(tiny.SIGMAS, chunk=chunk)
  return tiny.streamed(sampling, tiny.started(sampling, cache(recall)),
                       EXITS[:tiny.NEW // chunk])[1]


@pytest.mark.slow
class RecallingTest(parameterized.TestCase):

  @parameterized.parameters(1, 2)
  def test_who_recalls_everything_is_as_with_the_whole_past(self, chunk):
    # fp32; the softmax is merged of two.
    np.testing.assert_allclose(
        streamed(Recall(top_k=SLOTS, most=SLOTS), chunk), streamed(None, chunk),
        atol=2e-5)

  def test_who_recalls_little_is_not(self):
    little = streamed(Recall(top_k=1, most=1, window=1))
    self.assertGreater(np.abs(little - streamed())[:, 3:].max(), 1e-3)
    # Two frames of context and one of its own are all that the first one has.
    np.testing.assert_allclose(little[:, 0], streamed()[:, 0], atol=2e-5)

  def test_training_makes_the_video_that_streaming_makes(self):
    sampling = rollout.Sampling(tiny.SIGMAS, chunk=1)
    recall = Recall(top_k=1, most=2, window=1, sink=1)
    _, video = jax.jit(lambda state: tiny.rolled_out(
        sampling, state, jnp.array(EXITS)))(
            tiny.started(sampling, cache(recall)))
    np.testing.assert_allclose(video, streamed(recall), atol=2e-5)

  def test_its_gradient_is_that_of_its_exit_steps(self):
    sampling = rollout.Sampling(tiny.SIGMAS, chunk=1)
    state = tiny.started(sampling, cache(Recall(top_k=1, most=2, window=1)))
    weight = tiny.draw(*tiny.NOISE.shape, seed=7)

    @jax.jit
    @jax.grad
    def found(params):
      _, video = tiny.rolled_out(sampling, state, jnp.array(EXITS), params)
      return jnp.sum(weight * video)

    _, expected = tiny.written_out(state, weight, sampling, EXITS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-4),
                 found(tiny.random_params()), expected)

  def test_a_cache_too_short_to_recall_from_is_refused(self):
    message = '8 slots .* beside the 2 . 6 frames'
    with self.assertRaisesRegex(ValueError, message):
      cache(Recall(top_k=1, most=1, window=6, sink=2))


if __name__ == '__main__':
  absltest.main()

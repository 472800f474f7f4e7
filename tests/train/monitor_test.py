"""What the monitor of a distilled student measures."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import kv_cache
from worldsim_jax.diffusion import flow
from worldsim_jax.forcing import rollout as rollouts
from worldsim_jax.train import monitor

GIVEN, TRAINED, FRAMES = 1, 3, 7
SIGMAS = np.array([1., 0.5], np.float32)
LATENTS = np.random.default_rng(0).normal(
    size=(2, FRAMES, 4, 4, 3)).astype(np.float32)


def new_cache(batch):
  # Shorter than the clips, as that of a stream.
  return kv_cache.empty(num_layers=1, batch=batch, num_slots=2,
                        tokens_per_frame=1, num_heads=1, head_dim=1)


def velocity_fn(params, x, timesteps, conditioning, context, cache):
  """Of a student that makes, of frame f, `params['made'][:, f]`."""
  del conditioning, context
  frames = x.shape[1]
  made = jax.lax.dynamic_slice_in_dim(
      params['made'], cache.length, frames, axis=1)
  kv = jnp.zeros((1, x.shape[0], frames, 1, 1, 1))
  return (flow.velocity_from_x0(x, made, timesteps / flow.NUM_TIMESTEPS),
          kv_cache.KeyValues(kv, kv))


def measured(made):
  measure = monitor.continuation(
      velocity_fn, new_cache, rollouts.Sampling(SIGMAS, 1),
      context_frames=GIVEN, trained_frames=TRAINED)
  return jax.device_get(jax.jit(measure)(
      {'made': made}, {'latents': LATENTS}, jax.random.key(0)))


class ContinuationTest(absltest.TestCase):

  def test_the_truth_has_no_error_and_its_contrast(self):
    found = measured(LATENTS)
    # σ v of values below 4, from σ = ½ on: roundings.
    self.assertLess(found['error'], 1e-12)
    self.assertAlmostEqual(found['contrast'], 1, places=5)

  def test_drift_is_the_error_beyond_the_trained_length_over_that_within(self):
    off = np.array([9., 1., 1., 2., 2., 2., 2.], np.float32)  # 9 is given.
    found = measured(LATENTS + off[:, None, None, None])
    self.assertAlmostEqual(found['drift'], 4, places=4)
    self.assertAlmostEqual(found['error'], (2 * 1 + 4 * 4) / 6, places=4)
    # The same everywhere in a frame: no contrast.
    self.assertAlmostEqual(found['contrast'], 1, places=4)

  def test_contrast_is_relative_to_the_truth(self):
    found = measured(1.5 * LATENTS)
    self.assertAlmostEqual(found['contrast'], 1.5, places=4)
    self.assertAlmostEqual(
        found['mean_abs_x'], 1.5 * np.abs(LATENTS[:, GIVEN:]).mean(), places=4)


class CollapseTest(absltest.TestCase):

  def test_limits_hold_both_ways_and_zero_is_none(self):
    of = lambda limit: monitor.Monitor('student', 1, None, None, limit)
    found = {x: of(2.).is_collapsed(x) for x in (.4, .6, 1., 1.9, 2.1)}
    self.assertEqual([x for x, over in found.items() if over], [.4, 2.1])
    self.assertTrue(of(2.).is_collapsed(float('nan')))
    self.assertFalse(of(0.).is_collapsed(100.))


if __name__ == '__main__':
  absltest.main()

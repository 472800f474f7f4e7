"""Self Forcing's generator, with a network that can be read."""

import functools

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import kv_cache
from worldsim_jax.diffusion import flow
from worldsim_jax.forcing import rollout
from worldsim_jax.forcing import self_forcing

B, F, H, W, C = 2, 6, 1, 2, 2
GIVEN = 2
SAMPLING = rollout.Sampling(np.float32([1.0, 0.75, 0.5]), chunk=2)
FRAME_NUMBERS = np.arange(F, dtype=np.float32)
BATCH = {
    'latents': np.random.default_rng(0).normal(size=(B, F, H, W, C)),
    'actions': np.broadcast_to(FRAME_NUMBERS[:, None], (B, F, 1)),
}
BATCH = {name: x.astype(np.float32) for name, x in BATCH.items()}


def obedient(params, x, timesteps, given, unused_context, cache):
  """Leads to frames that hold `params` times their action."""
  target = jnp.broadcast_to((params * given.actions)[..., None, None], x.shape)
  nothing = jnp.zeros((1, *x.shape[:2], *cache.k.shape[3:]))
  v = flow.velocity_from_x0(x, target, timesteps / 1000)
  return v, kv_cache.KeyValues(nothing, nothing)


@jax.jit
def generate(params, key):
  new_cache = functools.partial(
      kv_cache.empty,
      num_layers=1,
      num_slots=F,
      tokens_per_frame=1,
      num_heads=1,
      head_dim=1,
  )
  generator = self_forcing.make_generator(
      obedient,
      lambda batch: new_cache(batch=batch),
      SAMPLING,
      context_frames=GIVEN,
  )
  batch = jax.tree.map(jnp.asarray, BATCH)
  return generator(params, batch, key)


class SelfForcingTest(absltest.TestCase):

  def test_context_is_given_and_each_new_frame_obeys_its_action(self):
    video, _ = generate(np.float32(1), jax.random.key(0))
    np.testing.assert_array_equal(video[:, :GIVEN], BATCH['latents'][:, :GIVEN])
    expected = np.broadcast_to(
        FRAME_NUMBERS[:, None, None, None], (B, F, H, W, C)
    )
    # Roundings of values near 5.
    np.testing.assert_allclose(video[:, GIVEN:], expected[:, GIVEN:], atol=5e-6)

  def test_only_generated_frames_have_a_gradient(self):
    gradient = jax.jit(
        jax.jacrev(
            lambda w: jnp.sum(generate(w, jax.random.key(0))[0], (0, 2, 3, 4))
        )
    )
    found = gradient(np.float32(1))
    np.testing.assert_array_equal(found[:GIVEN], 0)
    # Each of B · H · W · C values is w times its frame number.
    np.testing.assert_allclose(
        found[GIVEN:], B * H * W * C * FRAME_NUMBERS[GIVEN:], rtol=1e-6
    )

  def test_every_step_is_an_exit_step_equally_often(self):
    keys = jax.random.split(jax.random.key(0), 300)
    exits = jax.jit(
        jax.vmap(lambda key: generate(np.float32(1), key)[1]['exit_step'])
    )(keys)
    # 100 ± 8 each, four standard deviations.
    np.testing.assert_allclose(np.bincount(exits, minlength=3), 100, atol=33)
    self.assertEqual(exits.max(), 2)

  def test_metrics_describe_the_generated_frames_alone(self):
    video, metrics = generate(np.float32(1), jax.random.key(0))
    made = video[:, GIVEN:]
    np.testing.assert_allclose(
        metrics['mean_abs_x'], jnp.mean(jnp.abs(made)), rtol=1e-6
    )
    np.testing.assert_allclose(metrics['std_x'], jnp.std(made), rtol=1e-6)


if __name__ == '__main__':
  absltest.main()

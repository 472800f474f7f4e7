"""Self Forcing's generator, with a network that can be read."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import kv_cache
from worldsim_jax.diffusion import flow
from worldsim_jax.forcing import batches
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


@functools.cache
def generator(**options):
  new_cache = functools.partial(
      kv_cache.empty,
      num_layers=1,
      num_slots=F,
      tokens_per_frame=1,
      num_heads=1,
      head_dim=1,
  )
  generate = self_forcing.make_generator(
      obedient,
      lambda batch: new_cache(batch=batch),
      SAMPLING,
      context_frames=GIVEN,
      **options,
  )
  batch = jax.tree.map(jnp.asarray, BATCH)
  return jax.jit(lambda params, key: generate(params, batch, key))


def generate(params, key):
  return generator()(params, key)


class SelfForcingTest(parameterized.TestCase):

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

  def test_each_chunk_may_have_its_own_exit_step(self):
    drawn = jax.jit(jax.vmap(
        lambda key: generator(exit_steps='per_chunk')(1.0, key)[1]['exit_step']
    ))(jax.random.split(jax.random.key(0), 300))
    # Means of the steps of two chunks: five values, the ends 1 in 9.
    values, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(values, [0, 0.5, 1, 1.5, 2])
    # Four standard deviations.
    np.testing.assert_allclose(
        counts / 300, np.array([1, 2, 3, 2, 1]) / 9, atol=0.11
    )

  def test_of_a_long_rollout_the_end_is_matched_with_context_made_before(self):
    short = generator(gradient_frames=2)
    whole, _ = generate(np.float32(1), jax.random.key(0))
    video, metrics = short(np.float32(1), jax.random.key(0))
    # The same operations in one loop and in two.
    np.testing.assert_allclose(video, whole[:, -4:], atol=1e-5)
    np.testing.assert_allclose(
        metrics['std_x'], jnp.std(video[:, GIVEN:]), rtol=1e-6
    )
    gradient = jax.jit(jax.jacrev(
        lambda w: jnp.sum(short(w, jax.random.key(0))[0], (0, 2, 3, 4))
    ))(np.float32(1))
    np.testing.assert_array_equal(gradient[:GIVEN], 0)
    np.testing.assert_allclose(
        gradient[GIVEN:], B * H * W * C * FRAME_NUMBERS[4:], rtol=1e-6
    )
    batch = batches.last_frames(BATCH | {'text': np.ones((B, 9))}, 4)
    np.testing.assert_array_equal(batch['actions'], BATCH['actions'][:, 2:])
    self.assertEqual(batch['text'].shape, (B, 9))

  def test_its_first_frame_may_be_encoded_anew(self):
    seen = []

    def again(video):
      seen.append(video.shape[1])
      return 10 * video[:, -1]

    video, _ = generator(gradient_frames=2, first_latent=again)(
        np.float32(1), jax.random.key(0)
    )
    plain, _ = generator(gradient_frames=2)(np.float32(1), jax.random.key(0))
    self.assertEqual(seen, [3])  # Frames 0, 1 and 2, the first that is kept.
    np.testing.assert_array_equal(video[:, 0], 10 * plain[:, 0])
    np.testing.assert_array_equal(video[:, 1:], plain[:, 1:])

  @parameterized.parameters(
      (6, 1, 4, 1), (7, 1, 4, 1), (8, 2, 4, 2), (8, 2, 3, 1), (6, 2, 9, 3)
  )
  def test_training_caches_show_each_chunk_what_streams_show(
      self, clip, chunk, window, sink
  ):
    def shown(num_slots, relative):
      cache = kv_cache.empty(
          num_layers=1, batch=1, num_slots=num_slots, tokens_per_frame=1,
          num_heads=1, head_dim=1, sink=sink, relative=relative,
      )
      kv = kv_cache.KeyValues(*[jnp.zeros((1, 1, chunk, 1, 1, 1))] * 2)
      for _ in range(0, clip, chunk):
        frames = np.stack([cache.position, cache.slot_positions()])
        order = np.argsort(cache.position)
        yield (*frames[:, order][:, np.sort(cache.position) >= 0],
               cache.next_positions(chunk))
        cache = cache.append(kv)

    slots = self_forcing.cache_slots(clip, chunk, window, sink)
    self.assertLessEqual(slots, clip)
    for relative in (False, True):
      for training, streaming in zip(
          shown(slots, relative), shown(window + sink, relative), strict=True
      ):
        for ours, theirs in zip(training, streaming, strict=True):
          np.testing.assert_array_equal(ours, theirs)

  @parameterized.parameters(
      (dict(exit_steps='each'), "exit_steps='each' .*'per_chunk'"),
      (dict(gradient_frames=3), 'gradient_frames=3 .*chunk=2'),
      (dict(context_frames=6), 'context_frames=6 .* 6 frames'),
      (dict(context_frames=0), 'context_frames=0 .* at least 1'),
      (dict(context_frames=1), 'chunk=2 .*num_frames=1'),
      (dict(num_slots=1, context_frames=4),
       '2 frames .* 1 slots .config.student.window'),
      (dict(num_slots=2, context_frames=2, batch=1), 'for 1 videos .* for 2'),
  )
  def test_what_does_not_fit_together_is_refused(self, options, message):
    shape = {'batch': B, 'num_slots': F, 'num_layers': 1, 'head_dim': 1,
             'tokens_per_frame': 1, 'num_heads': 1}
    options = dict(context_frames=GIVEN) | options
    shape |= {name: options.pop(name) for name in shape if name in options}
    with self.assertRaisesRegex(ValueError, message):
      generate = self_forcing.make_generator(
          obedient, lambda unused_batch: kv_cache.empty(**shape), SAMPLING,
          **options)
      jax.eval_shape(generate, 1.0, BATCH, jax.random.key(0))


if __name__ == '__main__':
  absltest.main()

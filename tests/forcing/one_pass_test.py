"""Generators without a rollout: true clips in, predictions out."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.forcing import one_pass

B, F, H, W, C = 2, 6, 1, 2, 2
GIVEN, CHUNK = 2, 2
LEVELS = np.float32([1.0, 0.75, 0.5])
KEY = jax.random.key(0)
BOTH = parameterized.parameters(
    one_pass.teacher_forced, one_pass.diffusion_forced
)
BATCH = {
    'latents': np.random.default_rng(0).normal(size=(B, F, H, W, C)),
    'actions': np.broadcast_to(np.arange(F)[:, None], (B, F, 1)),
}
BATCH = {name: jnp.asarray(x, jnp.float32) for name, x in BATCH.items()}


def obedient(params, x, timesteps, given, unused_context):
  """Leads to frames that hold `params` times their action."""
  sigma = timesteps[..., None, None, None] / 1000
  target = (params * given.actions)[..., None, None]
  return (x - target) / jnp.maximum(sigma, 1e-3)


def generator(make, fn=obedient, levels=LEVELS):
  return make(fn, levels, chunk=CHUNK, context_frames=GIVEN)


def asked(make, key=KEY, levels=LEVELS):
  """What the network is asked: x, σ, conditioning, context."""
  seen = []

  def spy(unused_params, x, timesteps, given, context):
    seen.append((x, timesteps / 1000, given, context))
    return jnp.zeros_like(x)

  generator(make, spy, levels)(None, BATCH, key)
  return seen[0]


class OnePassTest(parameterized.TestCase):

  @BOTH
  def test_context_is_given_and_each_new_frame_obeys_its_action(self, make):
    video, metrics = jax.jit(generator(make))(np.float32(2), BATCH, KEY)
    np.testing.assert_array_equal(video[:, :GIVEN], BATCH['latents'][:, :GIVEN])
    expected = np.broadcast_to(
        2 * np.arange(GIVEN, F)[:, None, None, None], (B, F - GIVEN, H, W, C)
    )
    # Roundings of values near 10.
    np.testing.assert_allclose(video[:, GIVEN:], expected, atol=5e-6)
    np.testing.assert_allclose(metrics['mean_abs_x'], 7, rtol=1e-6)
    np.testing.assert_allclose(metrics['std_x'], 5**0.5, rtol=1e-6)

  @BOTH
  def test_only_generated_frames_have_a_gradient(self, make):
    of_frames = lambda w: jnp.sum(
        generator(make)(w, BATCH, KEY)[0], axis=(0, 2, 3, 4)
    )
    found = jax.jit(jax.jacrev(of_frames))(np.float32(2))
    np.testing.assert_array_equal(found[:GIVEN], 0)
    # Each of B · H · W · C values is w times its frame number.
    np.testing.assert_allclose(
        found[GIVEN:], B * H * W * C * np.arange(GIVEN, F), rtol=1e-6
    )

  @BOTH
  @pytest.mark.slow
  def test_every_chunk_is_at_a_level_of_the_student(self, make):
    noisy = lambda key: asked(make, key)[1][:, GIVEN - F :]
    levels = jax.vmap(noisy)(jax.random.split(KEY, 200))
    levels = np.asarray(levels).reshape(-1, (F - GIVEN) // CHUNK, CHUNK)
    np.testing.assert_array_equal(levels[..., 0], levels[..., 1])
    index = np.abs(levels[..., :1] - LEVELS).argmin(axis=-1)
    np.testing.assert_allclose(LEVELS[index], levels[..., 0], rtol=1e-6)
    # Of 400 pairs of chunks, 400 / 9 ± 6 at each pair of levels.
    pairs = np.bincount(3 * index[:, 0] + index[:, 1], minlength=9)
    np.testing.assert_allclose(pairs, 400 / 9, atol=26)

  def test_teacher_forced_chunks_read_the_true_past(self):
    x, sigma, given, context = asked(one_pass.teacher_forced)
    past = F - CHUNK
    np.testing.assert_array_equal(x[:, :past], BATCH['latents'][:, :past])
    np.testing.assert_array_equal(sigma[:, :past], 0)
    self.assertTrue(np.all(sigma[:, past:] > 0))
    np.testing.assert_array_equal(context.positions, [0, 1, 2, 3, 2, 3, 4, 5])
    np.testing.assert_array_equal(
        given.image[:, -1], BATCH['latents'][:, past - 1]
    )
    self.assertEqual(
        [''.join(str(int(v)) for v in row) for row in context.mask[past:]],
        ['11001100', '11001100', '11110011', '11110011'],
    )

  def test_diffusion_forced_chunks_read_noisy_ones_and_a_clean_context(self):
    x, sigma, given, context = asked(one_pass.diffusion_forced)
    np.testing.assert_array_equal(x[:, :GIVEN], BATCH['latents'][:, :GIVEN])
    np.testing.assert_array_equal(sigma[:, :GIVEN], 0)
    self.assertTrue(np.all(x[:, GIVEN:] != BATCH['latents'][:, GIVEN:]))
    np.testing.assert_array_equal(context.positions, np.arange(F))
    np.testing.assert_array_equal(given.image[:, GIVEN], x[:, GIVEN - 1])
    self.assertTrue(np.all(given.image_mask[:, -1] < 1))

  def test_with_levels_of_causvid_some_chunks_are_the_true_ones(self):
    levels = np.float32([1.0, 0.5, 0.0])
    _, sigma, _, _ = asked(one_pass.diffusion_forced, levels=levels)
    generate = generator(one_pass.diffusion_forced, levels=levels)
    value = lambda w: generate(w, BATCH, KEY)[0]
    video, tangent = jax.jvp(value, (jnp.float32(2),), (jnp.float32(1),))
    is_true = (sigma == 0) & (np.arange(F) >= GIVEN)
    self.assertTrue(0 < is_true.sum() < B * (F - GIVEN))
    np.testing.assert_array_equal(video[is_true], BATCH['latents'][is_true])
    np.testing.assert_array_equal(tangent[is_true], 0)
    np.testing.assert_allclose(
        tangent[sigma > 0],
        np.broadcast_to(BATCH['actions'][..., None, None], video.shape)[
            sigma > 0
        ],
        rtol=1e-5,
    )

  @BOTH
  def test_a_context_that_ends_in_a_chunk_names_the_keys(self, make):
    with self.assertRaisesRegex(ValueError, 'config.student.chunk'):
      make(obedient, LEVELS, chunk=4, context_frames=GIVEN)


if __name__ == '__main__':
  absltest.main()

"""What a chunk is given of the past: no more than it may know."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.forcing import sequences
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.models.transformer import VideoTransformer

B, F, H, W, C, A = 1, 4, 2, 2, 3, 2
CHUNK = 2
MODEL = VideoTransformer(
    dim=16,
    ffn_dim=32,
    num_heads=2,
    num_layers=2,
    latent_channels=C,
    patch=(1, 1),
    action_dim=A,
    image=True,
    parameterization='residual',
)


def draw(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


X0, EPS = draw(B, F, H, W, C), draw(B, F, H, W, C, seed=1)
LEVELS = np.float32([[0.3, 0.3, 0.8, 0.8]])
ACTIONS = Conditioning(actions=jnp.asarray(draw(B, F, A, seed=2)))


def velocity_fn(params, *args):
  return MODEL.apply({'params': params}, *args)


@functools.cache
def params():
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), X0, LEVELS)
  return jax.tree.map(
      lambda s: np.float32(0.2 * rng.normal(size=s.shape)), shapes['params']
  )


@jax.jit
def noisy_past(x, levels):
  return sequences.noisy_past(velocity_fn, params(), x, levels, ACTIONS, CHUNK)


@jax.jit
def clean_past(clean, x, levels):
  return sequences.clean_past(
      velocity_fn, params(), clean, x, levels, ACTIONS, CHUNK
  )


def picture(jacobian):
  """'1' where a frame (row) depends on a frame (column)."""
  return [
      ''.join('1' if np.any(frame) else '0' for frame in row)
      for row in np.asarray(jacobian)[:, 0]
  ]


class SequencesTest(parameterized.TestCase):

  def test_the_loss_of_a_frame_depends_on_noise_that_the_mask_allows(self):
    def frame_losses(eps):
      x = flow.add_noise(X0, eps, LEVELS)
      error = noisy_past(x, LEVELS) - (EPS - X0)
      return jnp.mean(error**2, axis=(0, 2, 3, 4))

    found = jax.jit(jax.jacrev(frame_losses))(EPS)
    # Exactly zero towards later chunks, and towards no other frame.
    self.assertEqual(picture(found), ['1100', '1100', '1111', '1111'])

  def test_with_a_clean_past_the_noise_of_other_chunks_is_not_seen(self):
    def frame_losses(clean, eps):
      x = flow.add_noise(X0, eps, LEVELS)
      error = clean_past(clean, x, LEVELS) - (EPS - X0)
      return jnp.mean(error**2, axis=(0, 2, 3, 4))

    by_clean, by_noise = jax.jit(jax.jacrev(frame_losses, argnums=(0, 1)))(
        X0, EPS
    )
    self.assertEqual(picture(by_noise), ['1100', '1100', '0011', '0011'])
    self.assertEqual(picture(by_clean), ['0000', '0000', '1100', '1100'])

  def test_of_frames_that_are_noise_alone_nothing_is_known(self):
    # x_σ = ε at σ = 1, and the answer is the same for any data.
    ones = np.ones((B, F), np.float32)
    answers = [
        noisy_past(np.asarray(flow.add_noise(x0, EPS, ones)), ones)
        for x0 in (X0, 3 - X0)
    ]
    np.testing.assert_array_equal(*answers)

  def test_a_past_without_noise_is_the_clean_past(self):
    levels = np.float32([[0, 0, 0.8, 0.8]])
    x = np.asarray(flow.add_noise(X0, EPS, levels))
    found = noisy_past(x, levels)[:, CHUNK:]
    expected = clean_past(X0, x, levels)[:, CHUNK:]
    # Two layers of fp32 sums in another order, values near 1.
    np.testing.assert_allclose(found, expected, atol=1e-5)

  def test_the_image_is_made_of_what_attention_reads(self):
    asked = []

    def spy(unused_params, x, timesteps, given, unused_context):
      asked.append((x, timesteps / 1000, given))
      return x

    x = flow.add_noise(X0, EPS, LEVELS)
    sequences.noisy_past(spy, None, x, LEVELS, ACTIONS, CHUNK)
    ((x, levels, given),) = asked
    guess = 0.7 / (0.7**2 + 0.3**2) * x[:, 1]
    np.testing.assert_allclose(levels, LEVELS, rtol=1e-6)
    for frame in (2, 3):
      np.testing.assert_allclose(given.image[:, frame], guess, rtol=1e-5)
    np.testing.assert_array_equal(given.image_mask[:, :CHUNK], 0)

  @parameterized.parameters('noisy', 'clean')
  def test_guidance_leads_away_from_unknown_actions(self, past):
    def fn(unused_params, x, unused_t, given, unused_context):
      known = given.with_masks().actions_mask[..., None, None, None]
      return jnp.broadcast_to(known, x.shape)

    args = dict(conditioning=ACTIONS, chunk=CHUNK, guidance_scale=3.0)
    if past == 'noisy':
      v = sequences.noisy_past(fn, None, X0, LEVELS, **args)
    else:
      v = sequences.clean_past(fn, None, X0, X0, LEVELS, **args)
    np.testing.assert_array_equal(v, np.full(X0.shape, 3))

  def test_levels_are_drawn_per_chunk(self):
    found = sequences.chunk_indices(jax.random.key(0), (500, F), CHUNK, 3)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    # Pairs of two chunks: 500 / 9 each, ± 7, four standard deviations.
    pairs = np.bincount(3 * found[:, 0] + found[:, 2], minlength=9)
    np.testing.assert_allclose(pairs, 500 / 9, atol=29)

  def test_context_that_ends_in_a_chunk_names_the_keys(self):
    with self.assertRaisesRegex(ValueError, 'config.student.context_frames'):
      sequences.check_context(3, 2)


if __name__ == '__main__':
  absltest.main()

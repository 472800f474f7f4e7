"""A recurrent denoiser: each frame from a state of the frames before it."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.attention import context as contexts
from worldsim_jax.models import recurrent
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.models.recurrent import RecurrentDenoiser

B, F, H, W, C, A, K = 2, 4, 3, 4, 3, 2, 5
MODEL = RecurrentDenoiser(
    dim=8, num_layers=1, latent_channels=C, freq_dim=16, text_dim=K,
    action_dim=A, image=True, coordinates=True, parameterization='residual')


def draw(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


X, TIMESTEPS = draw(B, F, H, W, C), np.float32([[0, 300, 1000, 700]] * B)
GIVEN = Conditioning(
    text=draw(B, 3, K, seed=1), actions=draw(B, F, A, seed=2),
    image=draw(B, F, H, W, C, seed=3)).with_masks()


@functools.cache
def params(model=MODEL):
  """Random, or the layers that start at zero would hide the rest."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), X, TIMESTEPS)
  return jax.tree.map(
      lambda s: draw(*s.shape, seed=s.size) * np.prod(s.shape[:-1])**-0.5
      if s.shape[1:] else draw(*s.shape), shapes['params'])


@jax.jit
def apply(x, timesteps, given, context=None, cache=None):
  return MODEL.apply({'params': params()}, x, timesteps, given, context, cache)


def no_past(batch=B):
  return recurrent.empty(batch=batch, height=H, width=W, dim=MODEL.dim)


class SequenceTest(parameterized.TestCase):

  @parameterized.parameters(1, 2)
  @pytest.mark.slow
  def test_a_clip_at_once_is_chunk_by_chunk_with_a_state(self, chunk):
    whole, state = apply(X, TIMESTEPS, GIVEN), no_past()
    for first in range(0, F, chunk):
      now = slice(first, first + chunk)
      v, states = apply(X[:, now], TIMESTEPS[:, now],
                        GIVEN.frames(first, chunk), None, state)
      state = state.append(states)
      # Sums of 72 products, values near 1, and another order of summation.
      np.testing.assert_allclose(v, whole[:, now], atol=1e-5)
    self.assertEqual(state.length, F)
    _, states = apply(X, TIMESTEPS, GIVEN, None, no_past())
    np.testing.assert_allclose(state.z, states.z[:, -1], atol=1e-5)

  @pytest.mark.slow
  def test_the_past_is_remembered_and_no_frame_reads_a_later_one(self):
    def influence(frame):
      """Of each input frame, and of its level, on this frame's velocity."""
      total = lambda x, t: jnp.sum(apply(x, t, GIVEN)[:, frame] ** 2)
      by_x, by_t = jax.grad(total, argnums=(0, 1))(X, TIMESTEPS)
      return jnp.max(jnp.abs(by_x), axis=(0, 2, 3, 4)), jnp.max(
          jnp.abs(by_t), axis=0)

    for by_frame in influence(1):
      self.assertGreater(by_frame[:2].min(), 1e-6)
      np.testing.assert_array_equal(by_frame[2:], 0)

  def test_a_state_stays_as_small_as_it_was(self):
    # z is a mean of what it was and of a tanh.
    state = no_past()
    for index in range(F):
      _, states = apply(1e4 * X[:, index:index + 1], TIMESTEPS[:, :1],
                        GIVEN.frames(index, 1), None, state)
      state = state.append(states)
      self.assertEqual(jax.tree.map(jnp.shape, state),
                       jax.tree.map(jnp.shape, no_past()))
    bound = max(1, np.abs(params()['z_0']).max())
    self.assertLessEqual(np.abs(state.z).max(), bound)

  def test_the_first_frame_begins_with_a_learned_state(self):
    other = no_past().replace(z=draw(B, H, W, MODEL.dim))
    first = lambda cache: apply(
        X[:, :1], TIMESTEPS[:, :1], GIVEN.frames(0, 1), None, cache)[0]
    np.testing.assert_array_equal(first(no_past()), first(other))
    later = other.replace(length=jnp.ones((), jnp.int32))
    self.assertGreater(np.abs(first(later) - first(other)).max(), 1e-3)


class ConvolutionTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_step_is_that_of_a_convolutional_gru(self):
    module = recurrent.Transition(MODEL.dim, jnp.float32)
    z, e = draw(B, H, W, MODEL.dim), draw(B, H, W, MODEL.dim, seed=1)
    told, own = draw(B, MODEL.dim, seed=2), params()['transition']
    _, found = module.apply({'params': own}, z, (e, told))

    def conv(name, x):
      return own[name]['bias'] + jax.lax.conv_general_dilated(
          x, own[name]['kernel'], (1, 1), 'SAME',
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    u = recurrent.Block(MODEL.dim, jnp.float32).apply(
        {'params': own['block']}, e + conv('past', z), told)
    n_r, n_s, n_n = np.split(conv('gates_input', u), 3, axis=-1)
    p_r, p_s, p_n = np.split(conv('gates_state', z), 3, axis=-1)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    g = sigmoid(n_s + p_s)
    expected = g * z + (1 - g) * np.tanh(n_n + sigmoid(n_r + p_r) * p_n)
    # Sums of 72 products, values near 1.
    np.testing.assert_allclose(found, expected, atol=1e-5)


  def test_products_are_the_convolution(self):
    x, kernel = draw(2, 3, 5, C), draw(3, 3, C, 4, seed=1)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    # Sums of 27 products.
    np.testing.assert_allclose(
        recurrent.convolve(x, kernel), expected, atol=1e-5)


class ConditioningTest(parameterized.TestCase):

  @parameterized.parameters(
      dict(actions=draw(B, F, A, seed=9)),
      dict(actions_mask=np.zeros((B, F), np.float32)),
      dict(image=draw(B, F, H, W, C, seed=9)),
      dict(image_mask=np.full((B, F), 0.5, np.float32)),
      dict(text=draw(B, 3, K, seed=9)))
  def test_each_stream_reaches_the_velocity(self, **changed):
    change = apply(X, TIMESTEPS, GIVEN.replace(**changed)) - apply(
        X, TIMESTEPS, GIVEN)
    # At every frame; the second one is neither clean nor noise alone.
    self.assertGreater(np.abs(change[:, 1:]).max(axis=(0, 2, 3, 4)).min(), 1e-3)

  @parameterized.parameters('actions', 'image')
  def test_a_stream_that_is_unknown_is_not_read(self, name):
    unknown = {f'{name}_mask': np.zeros((B, F), np.float32)}
    given = GIVEN.replace(**unknown)
    other = given.replace(**{name: 1 - getattr(GIVEN, name)})
    np.testing.assert_array_equal(
        apply(X, TIMESTEPS, given), apply(X, TIMESTEPS, other))

  def test_padding_of_a_text_does_not_thin_it_out(self):
    padded = GIVEN.replace(text=np.pad(GIVEN.text, ((0, 0), (0, 4), (0, 0))))
    np.testing.assert_allclose(
        apply(X, TIMESTEPS, padded), apply(X, TIMESTEPS, GIVEN), atol=1e-5)

  @pytest.mark.slow
  def test_an_untrained_model_predicts_nothing(self):
    model = MODEL.clone(image=False, parameterization='velocity')
    v, _ = jax.jit(model.init_with_output)(jax.random.key(0), X, TIMESTEPS)
    np.testing.assert_array_equal(v, np.zeros_like(X))

  def test_half_the_precision_keeps_the_state_in_full(self):
    half = MODEL.clone(dtype='bfloat16', remat='full')
    v, states = jax.jit(half.apply)(
        {'params': params()}, X, TIMESTEPS, GIVEN, None, no_past())
    self.assertEqual((v.dtype, states.z.dtype), (jnp.float32, jnp.float32))
    # bfloat16 has 8 bits; a dozen roundings of values near 1.
    exact = apply(X, TIMESTEPS, GIVEN)
    np.testing.assert_allclose(v, exact, atol=0.1 * np.abs(exact).max())


class ContextTest(parameterized.TestCase):

  @parameterized.parameters(
      contexts.bidirectional(F), contexts.block_causal(F, 1),
      contexts.block_causal(F, 2))
  def test_a_context_that_shows_the_past_changes_nothing(self, context):
    np.testing.assert_array_equal(
        apply(X, TIMESTEPS, GIVEN, context), apply(X, TIMESTEPS, GIVEN))

  @parameterized.parameters(
      contexts.teacher_forcing(3, 1, 1), contexts.block_causal(F, 1, window=1),
      contexts.cached_chunks(0, F, 1, F))
  def test_one_that_hides_the_past_says_what_to_do(self, context):
    with self.assertRaisesRegex(
        ValueError, "paradigm='diffusion_forcing'.*config.model.kind"):
      apply(X, TIMESTEPS, GIVEN, context)

  @parameterized.parameters(
      (dict(remat='dots'), r"remat='dots' is not one of.*config.model.remat"),
      (dict(parameterization='x0'), 'config.model.parameterization'),
      (dict(image=False), 'needs config.model.image=True'))
  def test_fields_that_cannot_be_name_their_key(self, changes, said):
    with self.assertRaisesRegex(ValueError, said):
      jax.eval_shape(MODEL.clone(**changes).init, jax.random.key(0), X,
                     TIMESTEPS)


if __name__ == '__main__':
  absltest.main()

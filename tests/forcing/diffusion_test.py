"""Denoising objectives: teacher forcing is the cache, seen all at once."""

import types

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.attention import context as contexts
from worldsim_jax.attention import kv_cache
from worldsim_jax.diffusion import objective
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import diffusion
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.models.transformer import VideoTransformer

B, F, H, W, C, A = 2, 4, 2, 3, 3, 2
CHUNK = 2
PAST = F - CHUNK  # clean frames in front of the noisy ones
CONFIG = types.SimpleNamespace(
    shift=3.0, weight='none', guidance_dropout=0.0, max_context_frames=1
)


def draw(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


BATCH = {'latents': draw(B, F, H, W, C), 'actions': draw(B, F, A, seed=1)}


class Spy:
  """A velocity function that remembers what it was asked and answered."""

  def __init__(self, fn):
    self.fn = fn

  def __call__(self, params, *args):
    self.asked, self.answered = args, self.fn(params, *args)
    return self.answered


def run(make_loss, velocity_fn, params=None):
  """(loss, metrics), what the network was asked, and its answer."""
  spy = Spy(velocity_fn)
  batch = jax.tree.map(jnp.asarray, BATCH)
  loss = make_loss(spy)({'net': params}, batch, jax.random.key(0))
  return loss, spy.asked, spy.answered


def nothing(unused_params, x, *unused_args):
  return jnp.zeros_like(x)


def full_sequence(config=CONFIG):
  return lambda fn: diffusion.full_sequence_loss(fn, config, 'net')


def teacher_forcing(context_frames=CHUNK, config=CONFIG):
  return lambda fn: diffusion.teacher_forcing_loss(
      fn, config, 'net', chunk=CHUNK, context_frames=context_frames
  )


def diffusion_forcing(context_frames=0, chunk=CHUNK, config=CONFIG):
  return lambda fn: diffusion.diffusion_forcing_loss(
      fn, config, 'net', chunk=chunk, context_frames=context_frames
  )


class TeacherForcingTest(absltest.TestCase):

  @pytest.mark.slow
  def test_equals_chunk_after_chunk_through_the_cache(self):
    model = VideoTransformer(
        dim=16,
        ffn_dim=32,
        num_heads=2,
        num_layers=2,
        latent_channels=C,
        patch=(1, 1),
        action_dim=A,
        image=True,
    )
    apply = jax.jit(
        lambda params, *args: model.apply({'params': params}, *args)
    )
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), BATCH['latents'], np.zeros((B, F))
    )
    params = jax.tree.map(
        lambda s: np.float32(0.2 * rng.normal(size=s.shape)), shapes['params']
    )

    (loss, _), asked, v = run(teacher_forcing(context_frames=0), apply, params)
    x, timesteps, _, _ = asked
    noisy, levels = x[:, PAST:], timesteps[:, PAST:]
    image = batches.image_before_chunks(BATCH['latents'], CHUNK)
    given = Conditioning(actions=BATCH['actions']).with_image(*image)
    cache = kv_cache.empty(
        num_layers=2,
        batch=B,
        num_slots=F,
        tokens_per_frame=H * W,
        num_heads=2,
        head_dim=8,
    )
    for first in range(0, F, CHUNK):
      here = slice(first, first + CHUNK)
      streams = given.frames(first, CHUNK)
      alone, _ = apply(
          params, noisy[:, here], levels[:, here], streams, None, cache
      )
      # Two layers of fp32 sums in another order, values near 1.
      np.testing.assert_allclose(v[:, PAST:][:, here], alone, atol=1e-5)
      clean = BATCH['latents'][:, here]
      _, kv = apply(params, clean, 0 * levels[:, here], streams, None, cache)
      cache = cache.append(kv)

    # The loss is that of the noisy frames alone.
    sigma_BF = levels / 1000
    sigma = sigma_BF[..., None, None, None]
    eps = (noisy - (1 - sigma) * BATCH['latents']) / sigma
    expected, _ = objective.regression(
        v[:, PAST:], eps - BATCH['latents'], sigma_BF, np.ones(F), 'none'
    )
    # ε is divided by σ ≥ 0.1, which the key was chosen for.
    self.assertGreater(float(sigma.min()), 0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)

  @pytest.mark.slow
  def test_chunks_of_context_are_given_and_never_denoised(self):
    _, (x, _, _, context), _ = run(teacher_forcing(), nothing)
    np.testing.assert_array_equal(context.positions, [0, 1, 2, 3])
    np.testing.assert_array_equal(x[:, :CHUNK], BATCH['latents'][:, :CHUNK])
    self.assertTrue(np.all(x[:, CHUNK:] != BATCH['latents'][:, CHUNK:]))

  def test_without_context_every_chunk_is_denoised_at_its_own_level(self):
    _, (x, timesteps, given, _), _ = run(
        teacher_forcing(context_frames=0), nothing
    )
    clean, noisy = slice(0, PAST), slice(PAST, None)
    np.testing.assert_array_equal(x[:, clean], BATCH['latents'][:, clean])
    np.testing.assert_array_equal(timesteps[:, clean], 0)
    levels = timesteps[:, noisy].reshape(B, -1, CHUNK)
    np.testing.assert_array_equal(levels[..., 0], levels[..., 1])
    self.assertLen(np.unique(levels), B * F // CHUNK)
    np.testing.assert_array_equal(
        given.actions,
        np.concatenate([BATCH['actions'][:, clean], BATCH['actions']], axis=1),
    )

  def test_context_inside_a_chunk_is_denoised_with_it_but_not_scored(self):
    def constant(v_F, x, *unused_args):
      return jnp.broadcast_to(v_F[:, None, None, None], x.shape)

    batch = jax.tree.map(jnp.asarray, BATCH)

    def loss(v_F):
      make = teacher_forcing(context_frames=CHUNK + 1)
      return make(constant)({'net': v_F}, batch, jax.random.key(0))[0]

    gradient = jax.jit(jax.grad(loss))(np.ones(F, np.float32))
    np.testing.assert_array_equal(gradient[:-1], 0)
    self.assertNotEqual(gradient[-1], 0)

  def test_context_without_an_end_names_the_keys(self):
    with self.assertRaisesRegex(ValueError, 'context_frames=4 .* 4 '):
      run(teacher_forcing(context_frames=F), nothing)


class DiffusionForcingTest(absltest.TestCase):

  def test_every_frame_is_noisy_at_the_level_of_its_chunk(self):
    _, (x, timesteps, _, context), _ = run(diffusion_forcing(), nothing)
    self.assertEqual(x.shape, BATCH['latents'].shape)
    self.assertTrue(np.all(x != BATCH['latents']))
    levels = timesteps.reshape(B, -1, CHUNK)
    np.testing.assert_array_equal(levels[..., 0], levels[..., 1])
    self.assertLen(np.unique(levels), B * F // CHUNK)
    self.assertEqual(context.mask, contexts.block_causal(F, CHUNK).mask)

  def test_with_chunks_of_one_frame_every_frame_has_its_own_level(self):
    _, (_, timesteps, _, _), _ = run(diffusion_forcing(chunk=1), nothing)
    self.assertLen(np.unique(timesteps), B * F)

  def test_all_frames_are_scored_but_those_that_are_given_clean(self):
    batch = jax.tree.map(jnp.asarray, BATCH)

    def constant(v_F, x, *unused_args):
      return jnp.broadcast_to(v_F[:, None, None, None], x.shape)

    for given in (0, 1):
      loss = diffusion_forcing(given)(constant)
      of_frame = lambda v: loss({'net': v}, batch, jax.random.key(0))[0]
      gradient = jax.jit(jax.grad(of_frame))(np.ones(F, np.float32))
      np.testing.assert_array_equal(gradient[:given], 0)
      self.assertTrue(np.all(gradient[given:] != 0))
    _, (x, timesteps, _, _), _ = run(diffusion_forcing(1), nothing)
    np.testing.assert_array_equal(x[:, 0], BATCH['latents'][:, 0])
    np.testing.assert_array_equal(timesteps[:, 0], 0)

  def test_of_pure_noise_nothing_of_the_clip_is_told(self):
    # A shift without bounds: every level is exactly 1.
    config = types.SimpleNamespace(**vars(CONFIG) | {'shift': 1e30})
    asked = []
    for scale in (1, -2):
      spy = Spy(nothing)
      loss = diffusion_forcing(config=config)(spy)
      batch = {'latents': scale * jnp.asarray(BATCH['latents'])}
      loss({'net': None}, batch, jax.random.key(0))
      asked.append(spy.asked)
    np.testing.assert_array_equal(asked[0][1], 1000)
    chex.assert_trees_all_equal(*asked)
    np.testing.assert_array_equal(asked[0][2].image_mask, 0)

  def test_the_loss_is_that_of_the_frames_at_their_levels(self):
    config = types.SimpleNamespace(**vars(CONFIG) | {'weight': 'fused_snr'})
    double = lambda unused_params, x, *unused_args: 2 * x
    (loss, _), (x, timesteps, _, _), v = run(
        diffusion_forcing(config=config), double
    )
    sigma_BF = timesteps / 1000
    sigma = sigma_BF[..., None, None, None]
    eps = (x - (1 - sigma) * BATCH['latents']) / sigma
    expected, _ = objective.regression(
        v, eps - BATCH['latents'], sigma_BF, np.ones(F), 'fused_snr'
    )
    # ε is divided by σ ≥ 0.1, which the key was chosen for.
    self.assertGreater(float(sigma.min()), 0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)

  def test_context_without_an_end_names_the_keys(self):
    with self.assertRaisesRegex(ValueError, 'context_frames=4 .* 4 '):
      run(diffusion_forcing(context_frames=F), nothing)


class FullSequenceTest(absltest.TestCase):

  def test_given_frames_are_clean_and_the_others_share_a_level(self):
    _, (x, timesteps, given, _), _ = run(full_sequence(), nothing)
    np.testing.assert_array_equal(x[:, 0], BATCH['latents'][:, 0])
    np.testing.assert_array_equal(timesteps[:, 0], 0)
    self.assertTrue(np.all(timesteps[:, 1:] == timesteps[:, 1:2]))
    self.assertTrue(np.all(timesteps[:, 1] > 0))
    self.assertTrue(np.all(x[:, 1:] != BATCH['latents'][:, 1:]))
    np.testing.assert_array_equal(given.image[:, 3], BATCH['latents'][:, 0])

  def test_given_frames_are_not_in_the_loss(self):
    def constant(v_F, x, *unused_args):
      return jnp.broadcast_to(v_F[:, None, None, None], x.shape)

    def loss(v_F, batch):
      return full_sequence()(constant)({'net': v_F}, batch, jax.random.key(0))

    gradient, metrics = jax.jit(jax.grad(loss, has_aux=True))(
        np.ones(F, np.float32), BATCH
    )
    self.assertEqual(gradient[0], 0)
    self.assertTrue(np.all(gradient[1:] != 0))
    self.assertGreater(metrics['loss'], 0)

  def test_the_number_of_given_frames_is_drawn_per_batch(self):
    config = types.SimpleNamespace(
        **vars(CONFIG) | {'max_context_frames': F - 1}
    )

    def traced(batch, rng):
      spy = Spy(nothing)
      full_sequence(config)(spy)({'net': None}, batch, rng)
      return jnp.sum(spy.asked[1][0] == 0)

    keys = jax.random.split(jax.random.key(0), 50)
    drawn = jax.jit(jax.vmap(traced, in_axes=(None, 0)))(BATCH, keys)
    self.assertEqual(set(drawn.tolist()), {1, 2, 3})

  def test_dropped_conditioning_is_unknown(self):
    config = types.SimpleNamespace(**vars(CONFIG) | {'guidance_dropout': 1.0})
    for make_loss in (full_sequence(config), teacher_forcing(config=config)):
      _, asked, _ = run(make_loss, nothing)
      self.assertIsInstance(asked[2], Conditioning)
      np.testing.assert_array_equal(asked[2].actions_mask, 0)

  def test_context_without_an_end_names_the_keys(self):
    config = types.SimpleNamespace(**vars(CONFIG) | {'max_context_frames': F})
    with self.assertRaisesRegex(ValueError, 'config.*max_context_frames'):
      run(full_sequence(config), nothing)


if __name__ == '__main__':
  absltest.main()

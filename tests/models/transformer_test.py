"""The transformer: who influences whom, and at which size.

One tiny model with every stream and random weights (at initialisation the head
is zero, and all would be equal).
"""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.attention import context as contexts
from worldsim_jax.attention import kv_cache
from worldsim_jax.models import transformer
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.models.transformer import VideoTransformer

B, F, H, W, C = 1, 4, 2, 3, 3  # Batch, frames, latent height, width, channels.
SIZE = dict(dim=16, ffn_dim=32, num_heads=2, num_layers=2)
STREAMS = dict(text_dim=5, action_dim=2, image=True)
LATENTS = dict(latent_channels=C, patch=(1, 1))

# Parameters of the released checkpoints, counted with PyTorch.
WAN = {
    '1.3B': (
        1_418_996_800,
        dict(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30),
    ),
    '14B': (
        14_288_491_584,
        dict(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40),
    ),
}


def draw(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


def shapes_of(model, *args):
  return jax.eval_shape(model.init, jax.random.key(0), *args)['params']


def random_params(model, *args):
  rng = np.random.default_rng(0)
  return jax.tree.map(
      lambda s: np.float32(0.2 * rng.normal(size=s.shape)),
      shapes_of(model, *args),
  )


@functools.cache
def jitted(**changes):
  """The tiny model, compiled: (params, x, t, conditioning, context, cache)."""
  model = VideoTransformer(**SIZE | STREAMS | LATENTS | changes)
  return jax.jit(lambda params, *args: model.apply({'params': params}, *args))


@functools.cache
def gradients(remat):
  """Of the first half of the frames, block-causal: in params, x, timesteps."""
  model = VideoTransformer(**SIZE | LATENTS, remat=remat)
  x, timesteps = draw(B, F, H, W, C), np.full((B, F), 500, np.float32)

  def first_half(params, x, timesteps):
    context = contexts.block_causal(F, 2)
    v = model.apply({'params': params}, x, timesteps, None, context)
    return jnp.sum(v[:, : F // 2] * draw(B, F // 2, H, W, C, seed=9))

  gradient = jax.jit(jax.grad(first_half, argnums=(0, 1, 2)))
  return gradient(random_params(model, x, timesteps), x, timesteps)


class TransformerTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.x = draw(B, F, H, W, C)
    cls.t = np.float32([[900, 500, 250, 750]])
    cls.given = Conditioning(
        text=draw(B, 3, 5, seed=1),
        actions=draw(B, F, 2, seed=2),
        actions_mask=np.ones((B, F), np.float32),
        image=draw(B, F, H, W, C, seed=3),
        image_mask=np.ones((B, F), np.float32),
    )
    model = VideoTransformer(**SIZE, **STREAMS, **LATENTS)
    cls.params = random_params(model, cls.x, cls.t, cls.given)

  def apply(self, x=None, t=None, given=None, context=None, params=None, **kw):
    return jitted(**kw)(
        params or self.params,
        self.x if x is None else x,
        self.t if t is None else t,
        self.given if given is None else given,
        context or contexts.block_causal(F, F),  # A mask that allows all.
    )

  @parameterized.parameters(*WAN)
  def test_has_as_many_parameters_as_wan(self, name):
    count, size = WAN[name]
    shapes = shapes_of(
        VideoTransformer(**size, text_dim=4096),
        np.zeros((1, 1, 2, 2, 16)),
        np.zeros((1, 1)),
        Conditioning(text=np.zeros((1, 1, 4096))),
    )
    self.assertEqual(sum(s.size for s in jax.tree.leaves(shapes)), count)

  @pytest.mark.slow
  def test_a_steered_image_is_embedded_bilinearly(self):
    model = VideoTransformer(**SIZE, **STREAMS, **LATENTS, steered=True)
    params = random_params(model, self.x, self.t, self.given)

    def embed(conditioning):
      _, found = model.apply(
          {'params': params}, self.x, self.t, conditioning,
          capture_intermediates=lambda m, _: m.name == 'image_embedding',
      )
      return found['intermediates']['image_embedding']['__call__'][0]

    actions, layer = self.given.actions, params['image_embedding']
    tokens = embed(self.given)
    known = np.ones((B, F, H * W, 1))
    patches = np.concatenate(
        [np.reshape(self.given.image, (B, F, H * W, C)), known], axis=-1
    )
    one, *others = np.split(layer['kernel'], 1 + actions.shape[-1])
    expected = patches @ one + layer['bias']
    for component, kernel in enumerate(others):
      a = actions[..., component, None, None]
      expected += a * (patches @ kernel)
    np.testing.assert_allclose(tokens, expected, atol=1e-5)  # Sums of 12.

    unknown = embed(self.given.unconditional())
    standing = embed(self.given.replace(actions=0 * actions))
    np.testing.assert_array_equal(unknown, standing)

  def test_with_a_compass_only_differences_of_headings_matter(self):
    v = lambda *heading: self.apply(
        given=self.given.replace(heading=np.float32([heading] * B)),
        compass=90.)
    turned = np.linspace(0, 1, F)
    self.assertGreater(abs(v(*turned) - v(*[0.] * F)).max(), 2e-3)
    # Sums of two layers of the same numbers, turned by other angles.
    np.testing.assert_allclose(v(*turned), v(*turned + .7), atol=1e-4)
    about = turned + 2 * np.pi * np.arange(F)
    np.testing.assert_allclose(v(*turned), v(*about), atol=1e-4)

  def test_only_coordinates_tell_places_of_an_even_picture_apart(self):
    even = np.ones((B, F, H, W, C), np.float32)
    given = self.given.replace(image=even)
    spread = {}
    for told in (False, True):
      model = VideoTransformer(**SIZE, **STREAMS, **LATENTS, coordinates=told)
      params = random_params(model, even, self.t, given)
      v = self.apply(even, given=given, params=params, coordinates=told)
      spread[told] = np.ptp(v, axis=(2, 3)).max()
    # Without, only the rounding of weights that sum to 1 differs.
    self.assertGreater(spread[True], 100 * spread[False])

  def test_a_timestep_modulates_its_own_frame_alone(self):
    isolated = contexts.block_causal(F, 1, window=0)
    changed = self.t + np.float32([[0, 100, 0, 0]])
    same = self.apply(context=isolated) == self.apply(
        t=changed, context=isolated
    )
    np.testing.assert_array_equal(
        np.all(same, axis=(2, 3, 4)), [[True, False, True, True]]
    )

  def test_tokens_may_have_timesteps_of_their_own(self):
    tokens = np.repeat(self.t[..., None], H * W, axis=-1)
    together = self.apply(t=tokens)
    # The same sums in another order, values near 1.
    np.testing.assert_allclose(together, self.apply(), atol=1e-5)
    tokens[:, 1, 0] += 100
    changed = np.any(self.apply(t=tokens) != together, axis=(0, 2, 3, 4))
    np.testing.assert_array_equal(changed, np.ones(F))  # All read frame 1.

  @pytest.mark.slow
  def test_the_streams_of_wan_may_be_left_out(self):
    streams = dict(concatenated_channels=5, clip_dim=6, clip_positions=4)
    given = self.given.replace(
        concatenated=np.zeros((B, F, H, W, 5), np.float32),
        clip=np.zeros((B, 4, 6), np.float32))
    model = VideoTransformer(**SIZE, **STREAMS, **LATENTS, **streams)
    params = random_params(model, self.x, self.t, self.given)
    v = self.apply(given=given, params=params, **streams)
    np.testing.assert_array_equal(  # Which are zeros.
        v, self.apply(params=params, **streams))
    told = given.replace(clip=draw(B, 4, 6))
    self.assertGreater(
        float(abs(self.apply(given=told, params=params, **streams) - v).max()),
        1e-3)

  def test_the_future_changes_nothing_in_the_past(self):
    later = np.arange(F) >= F // 2
    change = lambda x: x + later.reshape(1, F, *[1] * (x.ndim - 2))
    given = self.given.replace(
        actions=change(self.given.actions), image=change(self.given.image)
    )
    causal = contexts.block_causal(F, F // 2)
    before = self.apply(context=causal)
    after = self.apply(change(self.x), change(self.t), given, causal)
    np.testing.assert_array_equal(after[:, ~later], before[:, ~later])
    self.assertTrue(np.all(after[:, later] != before[:, later]))

  @pytest.mark.slow
  def test_future_frames_have_exactly_no_gradient(self):
    _, x, timesteps = gradients('none')
    for gradient in (x, timesteps):
      np.testing.assert_array_equal(gradient[:, F // 2 :], 0)
      self.assertTrue(np.all(gradient[:, : F // 2] != 0))

  @parameterized.parameters('full', 'dots', 'attention', 'offload')
  @pytest.mark.slow
  def test_what_is_rematerialised_does_not_change_the_gradient(self, remat):
    kept, recomputed = gradients('none')[0], gradients(remat)[0]
    scale = max(float(abs(x).max()) for x in jax.tree.leaves(kept))
    # The same sums, fused differently: roundings of terms of this scale.
    chex.assert_trees_all_close(recomputed, kept, atol=5e-6 * scale)

  @parameterized.parameters(1, 2)
  def test_a_cached_rollout_equals_the_block_causal_forward(self, chunk):
    cache = kv_cache.empty(
        num_layers=2,
        batch=B,
        num_slots=F,
        tokens_per_frame=H * W,
        num_heads=2,
        head_dim=8,
    )
    expected = self.apply(context=contexts.block_causal(F, chunk))
    for first in range(0, F, chunk):
      now = slice(first, first + chunk)
      given = self.given.frames(first, chunk)
      v, kv = jitted()(
          self.params, self.x[:, now], self.t[:, now], given, None, cache
      )
      cache = cache.append(kv)
      # Two layers of fp32 sums in another order, values near 1.
      np.testing.assert_allclose(v, expected[:, now], atol=1e-5)

  def test_new_streams_change_nothing_until_they_are_trained(self):
    params = dict(self.params)
    shapes = shapes_of(
        VideoTransformer(**SIZE, **STREAMS, **LATENTS),
        self.x,
        self.t,
        self.given,
    )
    for name in ('action_embedding_2', 'image_embedding'):
      params[name] = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes[name])
    plain = jitted(action_dim=0, image=False)
    pretrained = {
        name: x
        for name, x in params.items()
        if not name.startswith(('action', 'image'))
    }
    np.testing.assert_array_equal(
        self.apply(params=params),
        plain(
            pretrained, self.x, self.t, self.given, contexts.block_causal(F, F)
        ),
    )

  def test_new_streams_and_the_head_begin_at_zero(self):
    model = VideoTransformer(**SIZE | {'num_layers': 1}, **STREAMS, **LATENTS)
    init = jax.jit(
        lambda key: {
            name: x
            for name, x in model.init(key, self.x, self.t, self.given)[
                'params'
            ].items()
            if name in ('action_embedding_2', 'image_embedding', 'head')
        }
    )
    for leaf in jax.tree.leaves(init(jax.random.key(0))):
      np.testing.assert_array_equal(leaf, 0)

  @pytest.mark.slow
  def test_training_begins_where_wan_s_does(self):
    model = VideoTransformer(**SIZE | {'num_layers': 1}, text_dim=5)
    params = jax.jit(model.init)(
        jax.random.key(0), np.zeros((1, 1, 2, 2, 16)), np.zeros((1, 1)))
    p, layer = params['params'], params['params']['blocks']
    # Xavier's uniform has this bound; of 256 draws one comes within 5 %.
    for dense, fans in ((p['patch_embedding'], 64 + 16),
                        (layer['self_attn']['q'], 16 + 16),
                        (layer['ffn_0'], 16 + 32)):
      bound = (6 / fans) ** 0.5
      self.assertBetween(abs(dense['kernel']).max(), 0.95 * bound, bound)
      np.testing.assert_array_equal(dense['bias'], 0)
    # Normal, by 96 and more draws: known to 1 / sqrt(2 * 96), times 4.
    for x, std in ((p['text_embedding_2']['kernel'], 0.02),
                   (p['time_embedding_0']['kernel'], 0.02),
                   (layer['modulation'], 16**-0.5)):
      self.assertAlmostEqual(float(np.std(x)) / std, 1, delta=0.29)

  def masked(self, value):
    """All is unknown, and where it would be there is `value`."""
    hidden = np.zeros((B, F), np.float32)
    return self.given.unconditional().replace(
        actions=np.full_like(self.given.actions, value),
        actions_mask=hidden,
        image=np.full_like(self.given.image, value),
        image_mask=hidden,
    )

  @parameterized.parameters(1e3, np.nan)
  def test_what_is_masked_is_not_read(self, value):
    np.testing.assert_array_equal(
        self.apply(given=self.masked(value)),
        self.apply(given=self.masked(0)),
    )

  def test_streams_that_are_left_out_are_unknown(self):
    # Zeros as text are one or many equal rows, with the same mean up to
    # rounding.
    np.testing.assert_allclose(
        self.apply(given=Conditioning()),
        self.apply(given=self.masked(0)),
        atol=5e-6,
    )

  def test_unknown_is_not_zero(self):
    standing = self.given.replace(actions=np.zeros_like(self.given.actions))
    unknown = standing.replace(actions_mask=np.zeros((B, F), np.float32))
    difference = self.apply(given=standing) - self.apply(given=unknown)
    self.assertGreater(float(abs(difference).max()), 1e-3)

  def test_residual_begins_with_nothing_moves(self):
    params = self.params | {
        'head': jax.tree.map(np.zeros_like, self.params['head'])
    }
    noise = np.full((B, F), 1000, np.float32)
    v = self.apply(t=noise, params=params, parameterization='residual')
    # A rounding of values near 4: at σ = 1, x0 = x - v.
    np.testing.assert_allclose(self.x - v, self.given.image, atol=1e-6)

  @parameterized.parameters(*transformer.POLICIES)
  def test_bfloat16_layers_give_a_float32_velocity(self, policy):
    v = self.apply(dtype='bfloat16', policy=policy)
    self.assertEqual(v.dtype, jnp.float32)
    exact = self.apply()
    # Two layers of 8-bit roundings: a few times 2^-8 of the largest value.
    np.testing.assert_allclose(
        v, exact, atol=8 * 2**-8 * float(abs(exact).max())
    )

  @parameterized.parameters(
      (dict(remat='some'), 'config.model.remat'),
      (dict(parameterization='x0'), 'config.model.parameterization'),
      (dict(policy='half'), 'config.model.policy'),
      (dict(clip_dim=4, text_dim=0), 'config.model.clip_dim'),
      (dict(parameterization='residual', image=False), 'config.model.image'),
      (dict(compass=90., action_dim=0), 'config.model.compass=90'),
      (dict(compass=180.), 'config.model.compass=180.0 must be'),
      (dict(num_heads=3), 'num_heads=3 .*dim=16 .*config.model.num_heads'),
      (dict(patch=(2, 2)), r'\(2, 2\) .*\(2, 3\) .*config.model.patch'),
  )
  def test_an_impossible_model_names_the_key(self, changes, message):
    model = VideoTransformer(**SIZE | STREAMS | LATENTS | changes)
    with self.assertRaisesRegex(ValueError, message):
      shapes_of(model, self.x, self.t, self.given)


class SinusoidTest(absltest.TestCase):

  def test_cosines_come_first(self):
    t = np.float32([[0, 3, 1000]])
    angle = t[..., None] * 10_000 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(
        transformer.sinusoid(t, 8),
        np.concatenate([np.cos(angle), np.sin(angle)], axis=-1),
        atol=1e-4,  # A float32 angle of 1000 radians is known to 6e-5.
    )


if __name__ == '__main__':
  absltest.main()

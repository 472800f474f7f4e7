"""A discriminator is a transformer that is read on the way."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.models import discriminator
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.models.recurrent import RecurrentDenoiser
from worldsim_jax.models.transformer import VideoTransformer

B, F, H, W, C = 2, 3, 2, 3, 3
SIZE = dict(
    dim=16, ffn_dim=32, num_heads=2, num_layers=3, latent_channels=C,
    patch=(1, 1), action_dim=2,
)


def draw(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


def random_like(shapes, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda s: np.float32(0.3 * rng.normal(size=s.shape)), shapes
  )


MODEL = VideoTransformer(**SIZE)
X, T = draw(B, F, H, W, C), np.float32([[0, 600, 600], [0, 300, 300]])
GIVEN = Conditioning(actions=draw(B, F, 2, seed=1))


@functools.cache
def made(**changes):
  """(params, jitted judge) with heads that read layers 0 and 2."""
  own = discriminator.heads(MODEL, **dict(layers=(0, 2)) | changes)
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), X, T, GIVEN)['params']
  both = functools.partial(
      discriminator.with_heads, model=MODEL, own=own, params=shapes
  )
  shapes |= jax.eval_shape(
      lambda rng: {'discriminator': both(rng)['discriminator']},
      jax.random.key(0),
  )
  return random_like(shapes), jax.jit(discriminator.judging_fn(MODEL, own))


class DiscriminatorTest(parameterized.TestCase):

  def test_gives_the_backbone_s_velocity_and_a_logit_per_sample(self):
    params, judge = made()
    v, logits = judge(params, X, T, GIVEN)
    alone = jax.jit(lambda p: MODEL.apply({'params': p}, X, T, GIVEN))(params)
    np.testing.assert_array_equal(v, alone)
    self.assertEqual((logits.shape, logits.dtype), ((B,), jnp.float32))
    self.assertGreater(float(abs(logits[0] - logits[1])), 1e-3)

  def test_samples_are_judged_one_by_one(self):
    params, judge = made()
    _, before = judge(params, X, T, GIVEN)
    changed = X + np.float32([0, 1]).reshape(B, 1, 1, 1, 1)
    _, after = judge(params, changed, T, GIVEN)
    self.assertEqual(after[0], before[0])
    self.assertGreater(float(abs(after[1] - before[1])), 1e-3)

  @pytest.mark.slow
  def test_every_frame_and_every_pixel_counts(self):
    params, judge = made()
    gradient = jax.jit(
        jax.grad(lambda x: jnp.sum(judge(params, x, T, GIVEN)[1]))
    )(X)
    self.assertTrue(np.all(gradient != 0))

  @pytest.mark.slow
  def test_the_tokens_are_those_after_the_layers_that_were_asked_for(self):
    # A model of the first layers only, with the same parameters.
    params, _ = made()
    apply = lambda model, p, layers: model.apply(
        {'params': p}, X, T, GIVEN, read_after=layers
    )
    _, (first, last) = apply(MODEL, params, (0, 2))
    for depth, tokens in ((1, first), (3, last)):
      short = VideoTransformer(**SIZE | {'num_layers': depth})
      cut = params | {
          'blocks': jax.tree.map(lambda x: x[:depth], params['blocks'])
      }
      _, (expected,) = apply(short, cut, (depth - 1,))
      # The same sums in programs of another length.
      np.testing.assert_allclose(tokens, expected, atol=1e-5)
    self.assertEqual(first.shape, (B, F, H * W, 16))

  def test_nothing_is_kept_where_nothing_is_asked_for(self):
    params, _ = made()
    text = lambda **kwargs: str(jax.make_jaxpr(
        lambda p: MODEL.apply({'params': p}, X, T, GIVEN, **kwargs)
    )(params))
    stacked = f'f32[3,{B},{F},{H * W},16]'
    self.assertNotIn(stacked, text())
    self.assertIn(stacked, text(read_after=(0,)))

  @pytest.mark.slow
  def test_any_transformer_becomes_one_and_stays_itself(self):
    params, _ = made()
    backbone = {k: x for k, x in params.items() if k != 'discriminator'}
    own = discriminator.heads(MODEL, layers=(1,))
    found = discriminator.with_heads(
        jax.random.key(0), MODEL, own, backbone
    )
    self.assertEqual(found.keys() - backbone.keys(), {'discriminator'})
    for name, x in backbone.items():
      self.assertIs(found[name], x)
    self.assertEqual(
        set(found['discriminator']),
        {'registers_0', 'norm', 'head_0', 'head_2'},
    )

  @parameterized.parameters(
      dict(width=24, num_heads=3, registers=2, ffn_dim=8),
      dict(layers=(1,), dtype='bfloat16'),
  )
  def test_heads_have_any_size(self, **changes):
    params, judge = made(**changes)
    _, logits = judge(params, X, T, GIVEN)
    self.assertEqual((logits.shape, logits.dtype), ((B,), jnp.float32))
    self.assertTrue(np.all(np.isfinite(logits)))

  def test_the_noise_level_is_told_beside_the_backbone_if_wanted(self):
    own = discriminator.heads(MODEL, time_dim=8)
    tokens = [draw(B, F, H * W, 16, seed=i) for i in range(2)]
    shapes = jax.eval_shape(own.init, jax.random.key(0), tokens, T)
    judge = jax.jit(own.apply)
    params = random_like(shapes)
    before, after = (judge(params, tokens, t) for t in (T, T + 100))
    self.assertTrue(np.all(before != after))

  @parameterized.parameters(
      (30, (13, 21, 29)), (40, (18, 29, 39)), (4, (1, 2, 3)), (3, (1, 2)),
      (2, (0, 1)), (1, (0,)),
  )
  def test_layers_are_wan_s_scaled_to_the_depth(self, depth, layers):
    self.assertEqual(discriminator.read_layers(depth), layers)

  def test_a_recurrent_model_has_no_layers_to_read(self):
    with self.assertRaisesRegex(ValueError, 'config.model.kind must be'):
      discriminator.heads(RecurrentDenoiser(dim=8))

  @parameterized.parameters(
      (dict(layers=(0, 3)), r'layers=\(0, 3\) .*num_layers=3.*config'),
      (dict(layers=()), r'layers=\(\) .*num_layers=3'),
      (dict(width=9), 'num_heads=2 must divide width=9 .*config'),
      (dict(depth=9), "'depth' is no field .*config"),
  )
  def test_impossible_heads_name_the_key(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      discriminator.heads(MODEL, **changes)


if __name__ == '__main__':
  absltest.main()

"""Wan's transformer as a causal one: its cache, and how far it reaches.

Two layers with the streams of Wan's text-to-video models and nothing else,
patches of 2x2, and a level of noise for each frame.
"""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from worldsim_jax.attention import context as contexts
from worldsim_jax.attention import kv_cache
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.models.transformer import VideoTransformer

B, F, H, W, C = 2, 4, 4, 6, 3  # Batch, frames, latent height, width, channels.
TOKENS, HEADS, HEAD_DIM, LAYERS = H // 2 * (W // 2), 3, 12, 2
MODEL = VideoTransformer(
    dim=HEADS * HEAD_DIM, ffn_dim=40, num_heads=HEADS, num_layers=LAYERS,
    latent_channels=C, text_dim=7)


def draw(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


def empty(num_slots=F, **changes):
  return kv_cache.empty(
      num_layers=LAYERS, batch=B, num_slots=num_slots, tokens_per_frame=TOKENS,
      num_heads=HEADS, head_dim=HEAD_DIM, **changes)


@pytest.mark.slow
class WanCacheTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.text = Conditioning(text=draw(B, 5, 7, seed=1))
    cls.clean, cls.noisy = draw(2, B, F, H, W, C, seed=2)
    cls.levels = np.float32([[900, 500, 250, 750], [1000, 3, 42, 600]])
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), cls.clean,
                            cls.levels, cls.text)['params']
    rng = np.random.default_rng(3)
    params = jax.tree.map(
        lambda s: np.float32(0.2 * rng.normal(size=s.shape)), shapes)
    cls.apply = staticmethod(jax.jit(
        lambda x, t, context, cache: MODEL.apply(
            {'params': params}, x, t, cls.text, context, cache)))

  def rollout(self, chunk, cache):
    """Velocities of noisy chunks, each after the clean ones before it."""
    found = []
    for first in range(0, F, chunk):
      now = slice(first, first + chunk)
      v, _ = self.apply(self.noisy[:, now], self.levels[:, now], None, cache)
      found.append(v)
      _, kv = self.apply(
          self.clean[:, now], 0 * self.levels[:, now], None, cache)
      cache = cache.append(kv)
    return np.concatenate(found, axis=1)

  def block_causal(self, chunk):
    """The same without a cache, a whole video for each chunk."""
    found = []
    for first in range(0, F, chunk):
      is_now = np.arange(F) // chunk == first // chunk
      x = np.where(is_now[:, None, None, None], self.noisy, self.clean)
      t = np.where(is_now, self.levels, 0)
      v = self.apply(x, t, contexts.block_causal(F, chunk), None)
      found.append(v[:, is_now])
    return np.concatenate(found, axis=1)

  @parameterized.parameters(1, 2)
  def test_block_causal_with_a_clean_past_is_the_cached_rollout(self, chunk):
    expected = self.block_causal(chunk)
    # Two layers of fp32 sums in another order.
    scale = abs(expected).max()
    np.testing.assert_allclose(
        self.rollout(chunk, empty()), expected, atol=1e-5 * scale)
    # And it is teacher forcing's one pass over [clean; noisy].
    context = contexts.teacher_forcing(F, chunk)
    past = F - chunk
    v = self.apply(
        np.concatenate([self.clean[:, :past], self.noisy], axis=1),
        np.concatenate([0 * self.levels[:, :past], self.levels], axis=1),
        context, None)
    np.testing.assert_allclose(v[:, past:], expected, atol=1e-5 * scale)

  def test_a_stream_goes_on_behind_upstream_s_table_of_1024_frames(self):
    # A slot is p mod S; empty ones before the start are masked.
    far = empty().replace(length=np.int32(5000))
    expected = self.block_causal(2)
    # Only differences of positions count. Angles of 5,000 radians are known to
    # 2.4e-4 in float32.
    np.testing.assert_allclose(
        self.rollout(2, far), expected, atol=1e-3 * abs(expected).max())

  def test_relative_positions_reach_any_frame_exactly(self):
    def after(length):
      cache = empty(3, sink=1, relative=True).replace(
          k=draw(LAYERS, B, 3, TOKENS, HEADS, HEAD_DIM, seed=4),
          v=draw(LAYERS, B, 3, TOKENS, HEADS, HEAD_DIM, seed=5),
          position=np.int32([0, length - 2, length - 1]),
          length=np.int32(length))
      return self.apply(self.noisy[:, :1], self.levels[:, :1], None, cache)[0]

    np.testing.assert_array_equal(after(10**6 + 1), after(1025))


if __name__ == '__main__':
  absltest.main()

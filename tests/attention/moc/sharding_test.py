"""A mixture whose heads, queries and samples are spread over devices."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.attention.attend import attend
from worldsim_jax.attention import sequence
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import recall as recalling
from worldsim_jax.attention.moc import routing
from worldsim_jax.attention.moc.executors.blocks import Blocks
from worldsim_jax.parallel import hlo
from worldsim_jax.parallel import layout
from worldsim_jax.parallel import mesh as meshes

B, F, N, H, D = 2, 8, 8, 6, 4  # Shots of 3, 2 and 3 frames.
SHOTS = [3 * N, 2 * N, 3 * N]
SMALL = Blocks(8, 8, 8, 8)
RULES = chunks.Rules()
# (data, context, tensor) -> what the devices exchange, and what they do not.
SPLITS = {(2, 2, 1): ('all-to-all', 'all-gather'),
          (1, 2, 3): ('all-to-all', 'all-gather'),
          (1, 4, 2): ('all-gather', 'all-to-all')}


def draw(seed):
  return np.float32(
      np.random.default_rng(seed).normal(size=(B, F, N, H, D)))


def run(data=1, context=1, tensor=1, drops=True):
  """(output, gradients, the compiled program), with chunks dropped or not."""
  mesh = meshes.make_mesh(
      {'data': data, 'context': context, 'tensor': tensor},
      jax.devices()[:data * context * tensor])
  table = chunks.table([
      chunks.of_shots(SHOTS, 12),
      chunks.of_shots([3 * N, 2 * N, 2 * N], 20) + [(N, 2, chunks.PADDING)]])

  @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
  def weighted(q, k, v):
    plan = moc.plan(table, RULES, F * N, SMALL, sequence.query_split(N, H))
    mixture = moc.Mixture(
        plan, jax.random.split(jax.random.key(0), (B, H)),
        routing.Routing(2, drop_off=1., drop_in=1.) if drops
        else routing.Routing(2), implementation='xla')
    out = attend(q, k, v, mixture=mixture)
    return jnp.sum(out * draw(3)), out

  with jax.set_mesh(mesh):
    program = jax.jit(weighted).lower(draw(0), draw(1), draw(2)).compile()
    gradients, out = program(draw(0), draw(1), draw(2))
  return np.asarray(out), [np.asarray(x) for x in gradients], program.as_text()


alone = functools.cache(run)


@functools.cache
def recalled(data=1, context=1, tensor=1, samples=4, heads=4, dim=8,
             slots=64):
  """(output, bytes of collectives that bring copies of what others have).

  Of a frame that recalls 2 of the cached ones.
  """
  mesh = meshes.make_mesh(
      {'data': data, 'context': context, 'tensor': tensor},
      jax.devices()[:data * context * tensor])
  dice = np.random.default_rng(0)
  draw = lambda *shape: np.float32(dice.normal(size=shape))
  now = [draw(samples, 1, N, heads, dim) for _ in range(3)]
  cached = [draw(samples, slots, N, heads, dim) for _ in range(2)]
  cached.append(draw(samples, slots, heads, dim))
  recall = recalling.Recall(
      top_k=2, most=3, window=2, sink=1, implementation='xla')

  def attended(now, cached):
    k, v = (layout.constrain_cache(x[None])[0] for x in cached[:2])
    frame = jnp.arange(slots)
    return recalling.attend(*now, recalling.Past(
        k, v, cached[2], frame, frame, slots), (2, N // 2), recall)[0]

  with jax.set_mesh(mesh):
    program = jax.jit(attended).lower(now, cached).compile()
    moved = hlo.costs(program.as_text()).collectives
    return np.asarray(program(now, cached)), sum(
        moved[kind].bytes for kind in ('all-gather', 'collective-permute')
        if kind in moved)


@pytest.mark.slow
class ShardingTest(parameterized.TestCase):

  @parameterized.parameters(*SPLITS)
  def test_spread_over_devices_it_is_the_same(self, data, context, tensor):
    if len(jax.devices()) < 8:
      self.skipTest('needs eight devices')
    exchanged, kept = SPLITS[data, context, tensor]
    # Dice of queries that are spread fall otherwise.
    drops = exchanged == 'all-to-all'
    out, gradients, text = run(data, context, tensor, drops)
    expected_out, expected, _ = alone(drops=drops)
    # Sums of some thirty terms near 1 in fp32, in another order.
    np.testing.assert_allclose(out, expected_out, atol=5e-6)
    for found, wanted in zip(gradients, expected):
      np.testing.assert_allclose(found, wanted, atol=2e-5)
    self.assertIn(exchanged, text)
    self.assertNotIn(kept, text)

  @parameterized.parameters((4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 2))
  def test_neither_scores_nor_caches_are_gathered_to_recall(self, *split):
    if len(jax.devices()) < 8:
      self.skipTest('needs eight devices')
    out, gathered = recalled(*split)
    np.testing.assert_allclose(out, recalled()[0], atol=5e-6)
    # Two slots that each query chose, three that each head fetches.
    self.assertLessEqual(gathered, 4 * 4 * (2 * N + 3) * 4)

  @parameterized.parameters(
      (7, 1, chunks.VIDEO), (4, 1, chunks.VIDEO), (13, 0, chunks.PADDING))
  def test_a_shot_that_devices_cannot_share_is_named(self, end, shot, kind):
    with self.assertRaisesRegex(
        ValueError, f'shot of sample 0 ends with token {end}, within a frame '
        'of 8 tokens that 4 devices share'):
      moc.plan(chunks.table([[(end, 0, chunks.VIDEO), (16 - end, shot, kind)]]),
               RULES, 16, SMALL, chunks.Split(parts=4, frame=8))

  def test_masks_beside_a_mixture_are_refused(self):
    q = draw(0)[:1, :, :, :1]
    plan = moc.plan(chunks.of_frames(F, N), RULES, F * N, SMALL)
    with self.assertRaisesRegex(ValueError, 'a mixture without masks'):
      attend(q, q, q, np.ones((F, F), bool), mixture=moc.Mixture(plan))


if __name__ == '__main__':
  absltest.main()

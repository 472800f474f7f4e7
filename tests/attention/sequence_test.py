"""A sequence split over devices attends as a whole one does."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import context as contexts
from worldsim_jax.attention.attend import attend
from worldsim_jax.parallel import mesh as meshes

B, F, N, H, D = 4, 3, 8, 6, 4
CACHED, TEXT = 2, 5  # Frames of a cache, tokens of a text.
CROSS = ('text', 'registers')
# (context, tensor) -> whether all-to-all or ring is expected, on six heads.
SPLITS = {(2, 1): 'all-to-all', (2, 3): 'all-to-all', (4, 1): 'collective-perm',
          (2, 2): 'collective-perm', (8, 1): 'collective-perm'}


def draw(seed, *shape):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


def case(name):
  """(keyword arguments of attend that are arrays, that are constants)."""
  frames = F + CACHED if name == 'cached' else F
  keys = (B, 1, TEXT, H, D) if name in CROSS else (B, frames, N, H, D)
  arrays = {'q': draw(0, B, F, N, H, D), 'k': draw(1, *keys),
            'v': draw(2, *keys)}
  if name == 'text':
    arrays['key_mask_BM'] = np.arange(TEXT) < 1 + np.arange(B)[:, None]
  if name == 'registers':  # Fewer queries than devices.
    arrays['q'] = draw(0, B, 1, 3, H, D)
  if name == 'biased':  # Within a text: as many queries as keys.
    arrays = {x: arrays[x][:, :1] for x in 'qkv'}
    arrays['key_mask_BM'] = np.arange(N) < 4 + np.arange(B)[:, None]
    arrays['bias_HNM'] = draw(4, H, N, N)
  if name == 'cached':  # One slot of the cache is empty.
    arrays['mask_FG'] = np.broadcast_to(np.arange(frames) != 1, (F, frames))
  if name == 'block_causal':
    mask = contexts.block_causal(F, chunk=1).mask
    return arrays, {'mask_FG': np.array(mask)}
  return arrays, {}


def run(name, context=1, tensor=1, data=1):
  """(output, gradients of q, k, v, the compiled program)."""
  arrays, constants = case(name)
  masks = {key: x for key, x in arrays.items() if key not in 'qkv'}
  weights = draw(3, *arrays['q'].shape)

  def weighted(q, k, v, masks):
    out = attend(q, k, v, **masks, **constants)
    return jnp.sum(out * weights), out

  count = context * tensor * data
  mesh = meshes.make_mesh(
      {'data': data, 'context': context, 'tensor': tensor},
      jax.devices()[:count])
  with jax.set_mesh(mesh):
    program = jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True)
                      ).lower(*(arrays[x] for x in 'qkv'), masks).compile()
    gradients, out = program(*(arrays[x] for x in 'qkv'), masks)
  return np.asarray(out), [np.asarray(x) for x in gradients], program.as_text()


alone = functools.cache(run)


class SequenceTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    if len(jax.devices()) < 8:
      self.skipTest('needs eight devices')

  def check(self, name, **split):
    out, gradients, text = run(name, **split)
    expected_out, expected, _ = alone(name)
    # Sums of up to forty terms near 1 in fp32, in another order.
    np.testing.assert_allclose(out, expected_out, atol=5e-6)
    for found, wanted in zip(gradients, expected):
      np.testing.assert_allclose(found, wanted, atol=2e-5)
    return text

  @parameterized.product(
      name=('bidirectional', 'block_causal', 'cached'), split=tuple(SPLITS))
  def test_split_tokens_attend_as_whole_sequences(self, name, split):
    if np.prod(split) > 8:
      self.skipTest('needs more devices')
    text = self.check(name, context=split[0], tensor=split[1])
    self.assertIn(SPLITS[split], text)
    self.assertNotIn('all-gather', text)

  def test_the_batch_stays_split(self):
    text = self.check('bidirectional', context=2, data=4)
    self.assertNotIn('all-gather', text)

  def test_a_text_is_read_without_any_exchange(self):
    forward = self.check('text', context=4)
    self.assertNotIn('all-to-all', forward)
    self.assertNotIn('collective-permute', forward)

  def test_queries_that_do_not_divide_are_on_all_devices(self):
    self.check('registers', context=4, data=2)

  def test_a_kernel_that_was_asked_for_never_becomes_the_ring(self):
    q = jnp.zeros((1, 2, 8, 3, 8))  # Three heads.
    with jax.set_mesh(meshes.make_mesh({'data': 4, 'context': 2})):
      with self.assertRaisesRegex(ValueError, "'splash'.* is no ring"):
        attend(q, q, q, implementation='splash')

  def test_a_bias_is_split_as_its_queries_and_heads_are(self):
    self.check('biased', context=2, tensor=2, data=2)

  def test_tokens_that_do_not_divide_name_the_key(self):
    mesh = meshes.make_mesh({'context': 8})
    x = draw(0, 1, 1, 6, 8, D)
    with jax.set_mesh(mesh), self.assertRaisesRegex(
        ValueError, r'6 tokens .* 8 devices \(config.mesh.context\)'):
      attend(x, x, x)


if __name__ == '__main__':
  absltest.main()

"""One layer: its parts against their formulas."""

import functools

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import rope
from worldsim_jax.models import blocks

B, F, N, C, H = 1, 2, 3, 12, 2

# The parameters of blocks.0 in a Wan 2.1 checkpoint; ffn.0 is ffn_0 here, and
# weight is kernel or scale.
WAN_NAMES = (
    'modulation '
    'self_attn.q self_attn.k self_attn.v self_attn.o '
    'self_attn.norm_q self_attn.norm_k norm3 '
    'cross_attn.q cross_attn.k cross_attn.v cross_attn.o '
    'cross_attn.norm_q cross_attn.norm_k ffn_0 ffn_2'
).split()


def random_like(shapes, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda s: np.float32(0.5 * rng.normal(size=s.shape)), shapes
  )


def inputs(first_position=0, text=None):
  rng = np.random.default_rng(1)
  positions = np.arange(first_position, first_position + F)
  return blocks.LayerInputs(
      modulation=np.float32(rng.normal(size=(B, F, 6, C))),
      text=text,
      angles=rope.angles(positions, 1, N, C // H),
      cache_angles=None,
      mask=None,
  )


class BlockTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    rng = np.random.default_rng(2)
    cls.x = np.float32(rng.normal(size=(B, F, N, C)))
    cls.text = np.float32(rng.normal(size=(B, 4, C)))
    cls.block = blocks.Block(
        ffn_dim=8,
        num_heads=H,
        dtype='float32',
        implementation='xla',
        gate_init=0.0,
        return_kv=True,
    )
    cls.apply = staticmethod(
        jax.jit(lambda p, *args: cls.block.apply({'params': p}, *args))
    )
    cls.params = random_like(cls.shapes(inputs(text=cls.text)))

  @classmethod
  def shapes(cls, layer_inputs):
    init = lambda key: cls.block.init(
        key, cls.x, blocks.OfLayer(), layer_inputs)['params']
    return jax.eval_shape(init, jax.random.key(0))

  def test_parameters_have_the_names_of_wan_checkpoints(self):
    found = set()
    for path, _ in jax.tree.leaves_with_path(self.params):
      names = [key.key for key in path]
      leaf = names[-1] in ('kernel', 'bias', 'weight', 'scale')
      found.add('.'.join(names[:-1] if leaf else names))
    self.assertEqual(found, set(WAN_NAMES))

  def test_without_text_there_is_no_cross_attention(self):
    names = set(self.shapes(inputs()))
    self.assertEqual(names, {'modulation', 'self_attn', 'ffn_0', 'ffn_2'})

  def test_closed_gates_let_nothing_through(self):
    closed = inputs()._replace(modulation=np.zeros((B, F, 6, C), np.float32))
    params = random_like(self.shapes(inputs()))
    params['modulation'][[2, 5]] = 0
    out, _ = self.apply(params, self.x, blocks.OfLayer(), closed)
    np.testing.assert_array_equal(out, self.x)

  def test_keys_and_values_do_not_depend_on_the_position(self):
    run = functools.partial(
        self.apply, self.params, self.x, blocks.OfLayer())
    _, (here, _) = run(inputs(0, self.text))
    _, (there, _) = run(inputs(9, self.text))
    np.testing.assert_array_equal(here.k, there.k)
    np.testing.assert_array_equal(here.v, there.v)
    self.assertEqual(here.k.shape, (B, F, N, H, C // H))

  def test_zero_padding_of_text_is_attended_to(self):
    # Wan's weights were trained that way.
    padded = np.pad(self.text, ((0, 0), (0, 2), (0, 0)))
    run = functools.partial(
        self.apply, self.params, self.x, blocks.OfLayer())
    short, _ = run(inputs(0, self.text))
    long, _ = run(inputs(0, padded))
    self.assertGreater(float(abs(short - long).max()), 1e-3)


class PartsTest(absltest.TestCase):

  def test_rms_norm_is_over_all_heads_together(self):
    x = np.random.default_rng(0).normal(size=(2, 3, C)).astype(np.float32)
    weight = np.arange(C, dtype=np.float32)
    found = blocks.RMSNorm().apply({'params': {'weight': weight}}, x)
    rms = np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(found, x / rms * weight, rtol=1e-6, atol=1e-6)

  def test_rms_norm_of_bfloat16_is_bfloat16(self):
    x = jax.ShapeDtypeStruct((C,), jnp.bfloat16)
    found = jax.eval_shape(
        lambda x: blocks.RMSNorm().apply({'params': {'weight': x}}, x), x
    )
    self.assertEqual(found.dtype, jnp.bfloat16)

  def test_modulation_adds_the_table_to_each_frame(self):
    table = np.arange(6 * C, dtype=np.float32).reshape(6, C)
    e = np.random.default_rng(0).normal(size=(B, F, 6, C)).astype(np.float32)
    vectors = blocks.modulation_vectors(table, e)
    self.assertLen(vectors, 6)
    for i, vector in enumerate(vectors):
      np.testing.assert_array_equal(vector, (table + e)[:, :, i, None])

  def test_modulate_scales_then_shifts(self):
    x = np.full((B, F, N, C), 2, np.float32)
    shift, scale = np.float32(3), np.float32(0.5)
    np.testing.assert_array_equal(
        blocks.modulate(x, shift, scale), np.full(x.shape, 6)
    )


if __name__ == '__main__':
  absltest.main()

"""Programs whose matrix products can be counted by hand."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import attend as attention
from worldsim_jax.models.transformer import VideoTransformer
from worldsim_jax.parallel import flops
from worldsim_jax.parallel import mesh as meshes

A, B = np.zeros((4, 5), np.float32), np.zeros((5, 6), np.float32)
SQUARE = np.zeros((3, 3), np.float32)
AB = 2 * 4 * 5 * 6  # FLOPs of A @ B.
CUBE = 2 * 3**3  # FLOPs of SQUARE @ SQUARE.


def square_after(times):
  """One matrix product per trip of a loop."""
  return lambda x: jax.lax.fori_loop(0, times, lambda _, y: y @ y, x)


class CountTest(parameterized.TestCase):

  def test_a_matrix_product_is_two_flops_per_multiply_add(self):
    self.assertEqual(flops.count(jnp.matmul, A, B), AB)

  def test_nothing_else_counts(self):
    self.assertEqual(flops.count(lambda a: jnp.sum(jnp.sin(a + a)), A), 0)

  def test_the_work_of_all_devices_counts_whatever_the_mesh(self):
    q = np.zeros((8, 2, 4, 4, 8), np.float32)
    attend = lambda q: attention.attend(q, q, q)
    alone = flops.count(attend, q)
    self.assertEqual(alone, 2 * 2 * 8 * 4 * 8**2 * 8)
    mesh = meshes.make_mesh({'data': -1})
    with jax.set_mesh(mesh):
      self.assertEqual(flops.count(attend, meshes.place_batch(mesh, q)), alone)

  def test_shapes_are_enough(self):
    shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (A, B))
    self.assertEqual(flops.count(jnp.matmul, *shapes), AB)

  def test_batched_and_multiply_contracted_products_count_all_axes(self):
    x, y = np.zeros((7, 4, 2, 5)), np.zeros((7, 5, 2, 6))
    self.assertEqual(
        flops.count(lambda x, y: jnp.einsum('btid,bdis->bts', x, y), x, y),
        2 * 7 * 4 * 6 * (2 * 5))

  @parameterized.parameters(
      dict(stride=1, groups=1, out=8 * 9, depth=3 * 3 * 4),
      dict(stride=2, groups=1, out=4 * 5, depth=3 * 3 * 4),
      dict(stride=1, groups=2, out=8 * 9, depth=3 * 3 * 2))
  def test_a_convolution_reads_its_kernel_for_each_output(
      self, stride, groups, out, depth):
    x, kernel = np.zeros((2, 8, 9, 4)), np.zeros((3, 3, 4 // groups, 6))
    convolve = lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), 'SAME', feature_group_count=groups,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    self.assertEqual(
        flops.count(convolve, x, kernel), 2 * (2 * out * 6) * depth)

  def test_a_gradient_is_two_more_products(self):
    loss = lambda a, b: jnp.sum((a @ b)**2)
    self.assertEqual(flops.count(jax.grad(loss, (0, 1)), A, B), 3 * AB)

  def test_the_gradients_of_a_convolution_cost_as_much_as_it_does(self):
    x, kernel = np.zeros((2, 8, 9, 4)), np.zeros((3, 3, 4, 6))

    def loss(x, kernel):
      y = jax.lax.conv_general_dilated(
          x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
      return jnp.sum(y**2)

    forward = flops.count(loss, x, kernel)
    self.assertEqual(
        flops.count(jax.grad(loss, (0, 1)), x, kernel), 3 * forward)

  def test_recomputation_counts(self):
    def loss(a, b):
      return jnp.sum(jax.checkpoint(lambda a: jnp.sin(a @ b))(a))

    # Forward, forward again, and the gradient of a.
    self.assertEqual(flops.count(jax.grad(loss), A, B), 3 * AB)

  def test_what_is_inside_functions_counts(self):
    @jax.custom_vjp
    def product(a, b):
      return jax.jit(jnp.matmul)(a, b)

    product.defvjp(lambda a, b: (a @ b, None), lambda *_: (A, B))
    self.assertEqual(
        flops.count(jax.jit(jax.vmap(product, (0, None))),
                    np.zeros((7, *A.shape)), B), 7 * AB)


class LoopTest(parameterized.TestCase):

  def test_a_loop_of_known_length_counts_every_trip(self):
    self.assertEqual(flops.count(square_after(11), SQUARE), 11 * CUBE)

  def test_loops_in_loops_multiply(self):
    twice = lambda x: jax.lax.scan(
        lambda y, _: (square_after(3)(y), None), x, None, length=5)
    self.assertEqual(flops.count(twice, SQUARE), 15 * CUBE)

  @parameterized.parameters(1., 1.5, 3.)
  def test_a_loop_of_unknown_length_counts_the_trips_that_are_said(self, trips):
    run = lambda times, x: square_after(times)(x)
    self.assertEqual(
        flops.count(run, np.int32(9), SQUARE,
                    rates=flops.Rates(while_trips=trips)), trips * CUBE)

  @parameterized.parameters(1., 0.2)
  def test_a_condition_counts_its_costliest_branch_as_often_as_is_said(
      self, rate):
    def run(switch, x):
      return x @ x + jax.lax.cond(
          switch, lambda x: x @ x @ x, lambda x: x, x)

    self.assertAlmostEqual(
        flops.count(run, np.bool_(True), SQUARE, rates=flops.Rates(cond=rate)),
        CUBE + rate * 2 * CUBE)

  def test_a_switch_is_a_condition_of_many_branches(self):
    branches = [lambda x: x, lambda x: x @ x @ x @ x, lambda x: x @ x]
    self.assertEqual(
        flops.count(lambda i, x: jax.lax.switch(i, branches, x),
                    np.int32(0), SQUARE), 3 * CUBE)


class TransformerTest(parameterized.TestCase):

  @parameterized.parameters('none', 'full')
  def test_a_forward_pass_is_two_flops_per_weight_and_token_and_attention(
      self, remat):
    model = VideoTransformer(
        dim=64, ffn_dim=256, num_heads=4, num_layers=4, patch=(2, 2),
        remat=remat)
    batch, frames, tokens_per_frame = 2, 3, 16 * 16
    x = jax.ShapeDtypeStruct((batch, frames, 32, 32, 16), jnp.float32)
    timesteps = jax.ShapeDtypeStruct((batch, frames), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x, timesteps)

    layer = 4 * 64**2 + 2 * 64 * 256  # q, k, v, o and the feed-forward pair
    weights = 4 * layer + 2 * (4 * 16) * 64  # and patches in and out
    tokens = frames * tokens_per_frame
    attention = 4 * (2 * 2 * tokens**2 * 64)  # logits and mixing, all heads
    expected = batch * (2 * weights * tokens + attention)
    # 2%: modulation is counted, but is per frame.
    np.testing.assert_allclose(
        flops.count(model.apply, variables, x, timesteps), expected, rtol=0.02)


if __name__ == '__main__':
  absltest.main()

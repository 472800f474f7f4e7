"""Eight devices compute what one computes."""

import functools

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import optax

from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import state as train_state


def loss(params, batch, rng):
  """A small network with noise that a batch split over devices must share."""
  noise = jax.random.normal(rng, batch['x'].shape)
  hidden = jnp.tanh((batch['x'] + 0.1 * noise) @ params['net']['in'])
  error = jnp.mean((hidden @ params['net']['out'] - batch['y']) ** 2)
  return error, {'loss': error}


UPDATES = (train_state.Update('net', loss, optax.adam(0.1)),)


@functools.cache
def trained(num_devices):
  """Losses of three steps, the final state and the number of programs."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: np.float32(rng.normal(size=shape))
  mesh = meshes.make_mesh(devices=jax.devices()[:num_devices])
  params = {'net': {'in': draw(4, 8), 'out': draw(8, 2)}}
  state = meshes.replicate(mesh, train_state.create(params, UPDATES))
  step, losses = train_state.make_train_step(UPDATES, seed=0), []
  for _ in range(3):
    batch = meshes.place_batch(mesh, {'x': draw(16, 4), 'y': draw(16, 2)})
    state, metrics = step(state, {}, batch)
    losses.append(float(metrics['loss']))
  return losses, state, step._cache_size()


class MeshTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    if len(jax.devices()) < 8:
      self.skipTest('needs eight devices')

  def test_eight_devices_train_as_one_does(self):
    losses, state, _ = trained(8)
    expected_losses, expected, _ = trained(1)
    # Means of 32 terms near 1, summed in another order.
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-6)
    for name in ('in', 'out'):
      # Adam divides by the root of a sum of squares as large as the gradient.
      np.testing.assert_allclose(
          state.params['net'][name], expected.params['net'][name], atol=1e-5
      )

  def test_parameters_stay_replicated(self):
    _, state, _ = trained(8)
    for leaf in jax.tree.leaves(state):
      self.assertTrue(leaf.sharding.is_fully_replicated)
      self.assertLen(leaf.sharding.device_set, 8)

  def test_a_step_is_compiled_once(self):
    self.assertEqual(trained(8)[2], 1)

  def test_a_batch_is_split_along_its_first_axis(self):
    x = np.arange(16).reshape(8, 2)
    placed = meshes.place_batch(meshes.make_mesh(), {'x': x})['x']
    np.testing.assert_array_equal(placed, x)
    for i, shard in enumerate(placed.addressable_shards):
      np.testing.assert_array_equal(shard.data, x[i : i + 1])

  def test_a_batch_that_cannot_be_split_names_numbers_and_key(self):
    with self.assertRaisesRegex(
        ValueError, 'batch of 12 .* 8 devices .*config.teacher.batch_size'
    ):
      meshes.place_batch(
          meshes.make_mesh(),
          {'x': np.zeros((12, 1))},
          'config.teacher.batch_size',
      )

  def test_abstract_arrays_carry_shape_and_layout(self):
    mesh = meshes.make_mesh()
    found = meshes.abstract(mesh, {'x': np.zeros((3, 2), np.float32)})['x']
    self.assertEqual((found.shape, found.dtype), ((3, 2), np.float32))
    self.assertEqual(
        found.sharding, meshes.replicate(mesh, jnp.zeros(())).sharding
    )


if __name__ == '__main__':
  absltest.main()

"""Where parameters lie follows from their paths."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from worldsim_jax.errors import UserError
from worldsim_jax.parallel import layout
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import state as train_state

SIZES = {'slice': 1, 'data': 2, 'fsdp': 2, 'context': 1, 'tensor': 2}


class SpecTest(parameterized.TestCase):

  @parameterized.parameters(
      ('params/net/blocks/self_attn/q/kernel', (4, 8, 8),
       P(None, 'fsdp', 'tensor')),
      ('params/net/blocks/self_attn/o/kernel', (4, 8, 8),
       P(None, 'tensor', 'fsdp')),
      ('opt_state/net/0/mu/blocks/ffn_0/kernel', (4, 8, 32),
       P(None, 'fsdp', 'tensor')),
      ('ema/net/blocks/ffn_2/kernel', (4, 32, 8), P(None, 'tensor', 'fsdp')),
      ('params/net/blocks/cross_attn/k/bias', (4, 8), P(None, 'tensor')),
      ('params/net/time_projection_1/kernel', (8, 48), P('fsdp', 'tensor')),
      ('params/vae/encoder/conv/kernel', (3, 3, 4, 8),
       P(None, None, None, None)),
      ('params/net/blocks/modulation', (4, 6, 8), P()),
      ('step', (), P()))
  def test_it_follows_from_the_path(self, path, shape, expected):
    self.assertEqual(layout.parameter_spec(path, shape, SIZES), expected)

  def test_fsdp_means_the_context_axis_too(self):
    spec = layout.parameter_spec(
        'self_attn/q/kernel', (16, 8), SIZES | {'context': 4})
    self.assertEqual(spec, P(('fsdp', 'context'), 'tensor'))

  def test_what_does_not_divide_stays_whole(self):
    odd = layout.parameter_spec('self_attn/q/kernel', (9, 7), SIZES)
    self.assertEqual(odd, P(None, None))
    partly = layout.parameter_spec(
        'self_attn/q/kernel', (2, 8), SIZES | {'context': 4})
    self.assertEqual(partly, P('fsdp', 'tensor'))


class MeshTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    if len(jax.devices()) < 8:
      self.skipTest('needs eight devices')

  def test_one_axis_takes_what_is_left(self):
    mesh = meshes.make_mesh({'fsdp': -1, 'tensor': 2})
    self.assertEqual(dict(mesh.shape), {
        'slice': 1, 'data': 1, 'fsdp': 4, 'context': 1, 'tensor': 2})

  @parameterized.parameters(
      ({'data': 3},), ({'data': -1, 'fsdp': -1},), ({'data': 0},),
      ({'data': -1, 'tensor': 3},), ({'data': 16},))
  def test_sizes_that_do_not_fit_are_refused(self, sizes):
    with self.assertRaisesRegex(UserError, 'config.mesh.* the 8 devices'):
      meshes.make_mesh(sizes)

  def test_states_lie_as_their_parameters_and_are_trained_there(self):
    def loss(params, batch, unused_rng):
      error = batch @ params['net']['self_attn']['q']['kernel']
      return (error**2).mean(), {'loss': (error**2).mean()}

    updates = (train_state.Update('net', loss, optax.adam(0.1), ema=0.9),)
    params = {'net': {'self_attn': {'q': {'kernel': np.ones((8, 8))}}}}
    mesh = meshes.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
    with jax.set_mesh(mesh):
      state = meshes.place(mesh, train_state.create(params, updates))
      batch = meshes.place_batch(mesh, np.ones((4, 8), np.float32))
      step = train_state.make_train_step(updates, seed=0)
      for _ in range(2):
        state, _ = step(state, {}, batch)
    self.assertEqual(step._cache_size(), 1)
    big = [x for x in jax.tree.leaves(state) if x.ndim == 2]
    self.assertLen(big, 4)  # Parameter, two moments, average.
    for x in big:
      self.assertEqual(x.sharding.spec, P('fsdp', 'tensor'))
      self.assertEqual(x.addressable_shards[0].data.shape, (4, 4))


if __name__ == '__main__':
  absltest.main()

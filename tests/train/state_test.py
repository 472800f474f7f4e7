"""The training step: who is updated when, with which draw, and exactly so."""

import dataclasses
import functools

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import checkpoints
from worldsim_jax.train import state as train_state
from worldsim_jax.train.state import Update


def loss_of(network):
  """Towards the batch, with noise; the critic follows the student."""

  def loss(params, batch, rng):
    target = batch + 0.1 * jax.random.normal(rng, batch.shape)
    if network == 'critic':
      target = params['student']['w']
    value = jnp.mean((params[network]['w'] - target) ** 2)
    return value, {'loss': value, 'draw': jax.random.uniform(rng), 'count': 7}

  return loss


def update(network, **kwargs):
  return Update(network, loss_of(network), optax.adam(0.1), **kwargs)


UPDATES = (update('student', every=5, ema=0.75, ema_start=2), update('critic'))


@functools.cache
def step_fn(updates, seed):
  return train_state.make_train_step(updates, seed)


def new_state(updates=UPDATES):
  params = {u.network: {'w': 2 * jnp.ones(4)} for u in updates}
  return train_state.create(params, updates)


def run(state, num_steps, updates=UPDATES):
  """The state after each step, on the host, and all metrics."""
  states, all_metrics = [], []
  for _ in range(num_steps):
    state, metrics = step_fn(updates, 0)(state, {}, np.ones(4, np.float32))
    states.append(jax.tree.map(np.array, state))
    all_metrics.append(jax.device_get(metrics))
  return states, all_metrics


@functools.cache
def eleven_steps():
  return run(new_state(), 11)


class PaceTest(absltest.TestCase):

  def test_a_network_is_updated_in_multiples_of_its_pace(self):
    states, _ = eleven_steps()
    for name, expected in ('student', [0, 5, 10]), ('critic', list(range(11))):
      w = [np.full(4, 2.0)] + [s.params[name]['w'] for s in states]
      changed = [i for i in range(11) if np.any(w[i] != w[i + 1])]
      self.assertEqual(changed, expected, name)

  def test_a_network_may_begin_late(self):
    updates = (update('student', every=2, start=3), update('critic'))
    states, metrics = run(new_state(updates), 7, updates)
    w = [np.full(4, 2.0)] + [s.params['student']['w'] for s in states]
    changed = [i for i in range(7) if np.any(w[i] != w[i + 1])]
    self.assertEqual(changed, [4, 6])
    named = [i for i in range(7) if 'student/loss' in
             train_state.trained_metrics(metrics[i], updates, i)]
    self.assertEqual(named, [4, 6])
    self.assertEqual([updates[0].turns(i) for i in range(8)],
                     [0, 0, 0, 0, 0, 1, 1, 2][:8])

  def test_a_skipped_network_keeps_its_optimiser(self):
    states, _ = eleven_steps()
    chex.assert_trees_all_equal(
        states[0].opt_state['student'], states[4].opt_state['student']
    )
    self.assertEqual(
        optax.tree.get(states[10].opt_state['student'], 'count'), 3
    )

  def test_a_later_update_sees_what_an_earlier_one_made(self):
    # The critic starts where the student does: its only gradient in step 0 is
    # to where the student has just gone.
    _, metrics = eleven_steps()
    self.assertGreater(metrics[0]['critic/loss'], 0)

  def test_metrics_of_skipped_updates_are_missing_and_dropped(self):
    _, metrics = eleven_steps()
    self.assertTrue(np.isnan(metrics[1]['student/loss']))
    self.assertEqual(metrics[1]['student/count'], -1)
    self.assertTrue(np.isfinite(metrics[5]['student/loss']))
    names = lambda step: set(
        train_state.trained_metrics(metrics[step], UPDATES, step)
    )
    own = {'loss', 'draw', 'count', 'grad_norm'}
    critic = {f'critic/{name}' for name in own}
    self.assertEqual(names(1), critic)
    self.assertEqual(names(5), critic | {f'student/{name}' for name in own})

  def test_a_single_network_has_plain_names(self):
    updates = (update('student'),)
    _, (metrics,) = run(new_state(updates), 1, updates)
    self.assertEqual(set(metrics), {'loss', 'draw', 'count', 'grad_norm'})
    self.assertEqual(train_state.trained_metrics(metrics, updates, 0), metrics)

  def test_nothing_is_compiled_twice(self):
    step, state = train_state.make_train_step(UPDATES, 0), new_state()
    for _ in range(3):
      state, _ = step(state, {}, np.ones(4, np.float32))
    self.assertEqual(step._cache_size(), 1)


class AverageTest(absltest.TestCase):

  def test_the_average_copies_until_its_start_and_then_decays(self):
    states, _ = eleven_steps()
    w = lambda step: states[step].params['student']['w']
    ema = lambda step: states[step].ema['student']['w']
    np.testing.assert_array_equal(ema(0), w(0))
    np.testing.assert_array_equal(ema(4), ema(0))
    np.testing.assert_array_equal(ema(5), w(5))  # The start counts updates.
    np.testing.assert_allclose(ema(10), 0.75 * w(5) + 0.25 * w(10), rtol=1e-6)

  def test_the_best_parameters_are_averaged_where_there_is_an_average(self):
    state = eleven_steps()[0][-1]
    self.assertIs(state.best_params('student'), state.ema['student'])
    self.assertIs(state.best_params('critic'), state.params['critic'])


class RandomnessTest(absltest.TestCase):

  def test_a_draw_depends_on_seed_step_and_network_alone(self):
    _, metrics = eleven_steps()
    late = new_state().replace(step=jnp.asarray(5))
    _, (resumed,) = run(late, 1)
    for name in ('student/draw', 'critic/draw'):
      self.assertEqual(resumed[name], metrics[5][name])
    draws = [m['critic/draw'] for m in metrics] + [
        metrics[0]['student/draw'],
        metrics[5]['student/draw'],
    ]
    _, other_seed = step_fn(UPDATES, 1)(new_state(), {}, np.ones(4, np.float32))
    draws.append(float(other_seed['critic/draw']))
    self.assertLen(set(map(float, draws)), len(draws))


class StepTest(absltest.TestCase):

  def test_the_old_state_is_given_up_and_the_batch_is_not(self):
    state, batch = new_state(), jnp.ones(4)
    step_fn(UPDATES, 0)(state, {}, batch)
    self.assertTrue(state.params['critic']['w'].is_deleted())
    self.assertFalse(batch.is_deleted())

  def test_frozen_networks_are_read_and_kept(self):
    def loss(params, batch, unused_rng):
      value = jnp.sum(params['student']['w'] * params['teacher']['w'] * batch)
      return value, {}

    updates = (Update('student', loss, optax.sgd(1.0)),)
    teacher = {'w': jnp.arange(4.0)}
    state = new_state(updates)
    before = np.array(state.params['student']['w'])
    state, _ = train_state.make_train_step(updates, 0)(
        state, {'teacher': teacher}, np.ones(4, np.float32)
    )
    np.testing.assert_array_equal(
        state.params['student']['w'], before - np.arange(4)
    )
    np.testing.assert_array_equal(teacher['w'], np.arange(4))

  def test_resuming_changes_no_bit(self):
    folder = self.create_tempdir().full_path
    with checkpoints.Checkpoints(folder, {}) as saved:
      state = new_state()
      for step in range(12):
        if step == 6:
          # Not waited for: the state is donated while it is being written.
          saved.save(step, state, {'position': step})
        state, _ = step_fn(UPDATES, 0)(state, {}, np.full(4, step, np.float32))

    with checkpoints.Checkpoints(folder, {}) as saved:
      resumed, iterator_state = saved.restore(jax.eval_shape(new_state))
    for step in range(iterator_state['position'], 12):
      resumed, _ = step_fn(UPDATES, 0)(
          resumed, {}, np.full(4, step, np.float32)
      )
    chex.assert_trees_all_equal(resumed, state)


class AccumulateTest(absltest.TestCase):

  def test_parts_of_a_batch_train_as_the_whole_one(self):
    def loss(params, batch, unused_rng):
      value = jnp.mean((batch @ params['net']['w'] - 1) ** 2)
      return value, {'loss': value, 'count': 3}

    batch = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    found = []
    for parts in (1, 3):
      updates = (Update('net', loss, optax.sgd(0.1), accumulate=parts),)
      state = train_state.create({'net': {'w': jnp.ones(4)}}, updates)
      state, metrics = step_fn(updates, 0)(state, {}, batch)
      found.append((state.params['net']['w'], metrics))
    (whole, metrics), (in_parts, metrics_in_parts) = found
    # Means of twelve terms near 1, summed in another order.
    np.testing.assert_allclose(in_parts, whole, rtol=1e-6)
    for name in metrics:
      np.testing.assert_allclose(
          metrics_in_parts[name], metrics[name], rtol=1e-6)

  def test_every_part_draws_its_own_noise(self):
    updates = (update('critic', accumulate=2),)
    params = {n: {'w': 2 * jnp.ones(4)} for n in ('critic', 'student')}
    frozen = {'student': params.pop('student')}
    state = train_state.create(params, updates)
    _, metrics = step_fn(updates, 0)(state, frozen, np.ones((4, 4), np.float32))
    key = train_state.purpose_key(0, 0, 'critic')
    draws = [jax.random.uniform(jax.random.fold_in(key, i)) for i in range(2)]
    self.assertNotEqual(*draws)
    np.testing.assert_allclose(metrics['draw'], np.mean(draws), rtol=1e-6)


class OffloadTest(absltest.TestCase):

  def test_what_stays_with_the_host_is_trained_bit_for_bit_the_same(self):
    mesh = meshes.make_mesh({'fsdp': 2}, jax.devices()[:2])
    kinds, found = [], []
    for offload in ((), ('opt_state', 'ema')):
      updates = tuple(
          dataclasses.replace(u, offload=offload, ema=0.75) for u in UPDATES)
      host = train_state.host_paths(updates)
      with jax.set_mesh(mesh):
        state = meshes.place(mesh, new_state(updates), host)
        for step in range(3):
          state, _ = step_fn(updates, 0)(
              state, {}, np.full(4, step, np.float32))
      found.append(jax.tree.map(np.asarray, state))
      kinds.append({
          part: {x.sharding.memory_kind
                 for x in jax.tree.leaves(getattr(state, part)) if x.ndim}
          for part in ('params', 'opt_state', 'ema')})
    chex.assert_trees_all_equal(*found)
    device = jax.devices()[0].default_memory().kind
    self.assertEqual(
        kinds, [dict.fromkeys(('params', 'opt_state', 'ema'), {device}),
                {'params': {device}, 'opt_state': {'pinned_host'},
                 'ema': {'pinned_host'}}])

  def test_a_checkpoint_goes_back_to_where_the_state_is_kept(self):
    mesh = meshes.make_mesh({'fsdp': 2}, jax.devices()[:2])
    updates = tuple(
        dataclasses.replace(u, offload=('opt_state',)) for u in UPDATES)
    host = train_state.host_paths(updates)
    state = meshes.place(mesh, new_state(updates), host)
    with checkpoints.Checkpoints(
        self.create_tempdir().full_path, {}) as saved:
      saved.save(1, state, {})
      saved.wait()
      restored, _ = saved.restore(
          meshes.abstract(mesh, jax.eval_shape(new_state), host))
    chex.assert_trees_all_equal(restored, state)
    same = jax.tree.map(
        lambda x, y: x.sharding == y.sharding, restored, state)
    self.assertTrue(all(jax.tree.leaves(same)))


if __name__ == '__main__':
  absltest.main()

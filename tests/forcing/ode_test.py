"""Student initialisation on flows whose curves are known.

Straight flow: the datum that belongs to noise ε is a ε + b, so a curve is
x_σ = ((1 - σ) a + σ) ε + (1 - σ) b, its velocity is the same everywhere on it,
Euler's steps are exact, and x - σ v jumps to its end: the teacher's velocity is
that of the consistency function, too.

Gaussian flow: data N(0, s²), curves x_σ = n(σ) ε, n² = (1 - σ)² s² + σ². They
bend, so that x - σ v is the mean of the data there, not the end, s x / n.
"""

import functools
import types

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import noise
from worldsim_jax.forcing import ode

B, F, H, W, C = 2, 6, 1, 2, 2
GIVEN, CHUNK = 2, 2
SHIFT = 5.0
LEVELS = flow.few_step_sigmas((1000, 750, 500, 250), SHIFT)
CONFIG = types.SimpleNamespace(ode_steps=48, guidance_scale=1.0, shift=SHIFT)
KEY = jax.random.key(0)
A, S = 0.5, 0.5  # Of the straight and the Gaussian flow.
BATCH = {
    'latents': np.random.default_rng(0).normal(size=(B, F, H, W, C)),
    'actions': np.broadcast_to(np.arange(F)[:, None] / F, (B, F, 1)),
}
BATCH = {name: jnp.asarray(x, jnp.float32) for name, x in BATCH.items()}
PARAMS = {'teacher': 1.0, 'student': 1.0, 'student_ema': 1.0}


def straight(params, x, timesteps, given, *unused_context):
  """b is `params` times the action."""
  sigma = timesteps[..., None, None, None] / 1000
  b = params * given.actions[..., None, None]
  eps = (x - (1 - sigma) * b) / ((1 - sigma) * A + sigma)
  return (1 - A) * eps - b


def gaussian(params, x, timesteps, *unused_args):
  """The true velocity."""
  sigma = params * timesteps[..., None, None, None] / 1000
  return (sigma - (1 - sigma) * S**2) / ((1 - sigma) ** 2 * S**2 + sigma**2) * x


def gaussian_consistency(params, x, timesteps, *unused_args):
  """The velocity v of which x - σ v is the end of x's curve, s x / n."""
  sigma = params * jnp.maximum(timesteps, 1e-3)[..., None, None, None] / 1000
  n = jnp.sqrt((1 - sigma) ** 2 * S**2 + sigma**2)
  return (x - S * x / n) / sigma


def make(fn=straight, chunk=None, config=CONFIG, levels=LEVELS):
  return ode.make_trajectories(
      fn, levels, config, shift=SHIFT, context_frames=GIVEN, chunk=chunk
  )


@functools.cache
def record(chunk=None):
  return jax.jit(make(chunk=chunk))(1.0, BATCH, KEY)


def per_frame(values, like):
  return np.broadcast_to(np.asarray(values)[..., None, None], like.shape)


class TrajectoriesTest(parameterized.TestCase):

  @parameterized.parameters(None, CHUNK)
  def test_states_lie_on_the_curve_at_each_level(self, chunk):
    found = record(chunk)['trajectory']
    self.assertEqual(found.shape, (B, len(LEVELS) + 1, F, H, W, C))
    eps = noise.normal(KEY, BATCH['latents'].shape)[:, GIVEN:]
    b = BATCH['actions'][:, GIVEN:, :, None, None]
    for i, sigma in enumerate(np.append(LEVELS, 0)):
      expected = ((1 - sigma) * A + sigma) * eps + (1 - sigma) * b
      # 48 steps of fp32, values to 4.
      np.testing.assert_allclose(found[:, i, GIVEN:], expected, atol=2e-5)

  @parameterized.parameters(None, CHUNK)
  def test_the_context_is_given_clean_at_every_level(self, chunk):
    found = record(chunk)['trajectory'][:, :, :GIVEN]
    for i in range(found.shape[1]):
      np.testing.assert_array_equal(found[:, i], BATCH['latents'][:, :GIVEN])

  def test_a_record_keeps_the_batch(self):
    self.assertEqual(set(record()), {'latents', 'actions', 'trajectory'})
    np.testing.assert_array_equal(record()['latents'], BATCH['latents'])

  def test_levels_of_causvid_end_where_the_curve_does(self):
    # 50 steps with shift 8, of which CausVid keeps numbers 0, 36 and 44.
    levels = np.append(flow.few_step_sigmas((1000, 280, 120), 8.0), 0)
    np.testing.assert_allclose(1000 * levels, [1000, 757, 522, 0], atol=0.5)
    config = types.SimpleNamespace(ode_steps=50, guidance_scale=1.0)
    trajectories = ode.make_trajectories(
        straight, levels, config, shift=8.0, context_frames=GIVEN
    )
    shape = jax.eval_shape(trajectories, 1.0, BATCH, KEY)['trajectory'].shape
    self.assertEqual(shape, (B, 4, F, H, W, C))

  def test_a_causal_teacher_reads_the_true_past(self):
    def copies(unused_params, x, timesteps, given, unused_context):
      return flow.velocity_from_x0(x, given.image, timesteps / 1000)

    found = jax.jit(make(copies, CHUNK))(None, BATCH, KEY)['trajectory']
    past = BATCH['latents'][:, (1, 1, 3, 3)]
    np.testing.assert_allclose(found[:, -1, GIVEN:], past, atol=1e-5)

  @parameterized.parameters(None, CHUNK)
  def test_guidance_is_the_teachers(self, chunk):
    def known(unused_params, x, unused_t, given, *unused_context):
      mask = given.with_masks().actions_mask[..., None, None, None]
      return jnp.broadcast_to(mask, x.shape)

    config = types.SimpleNamespace(ode_steps=4, guidance_scale=6.0)
    found = jax.jit(make(known, chunk, config))(None, BATCH, KEY)['trajectory']
    moved = found[:, 0] - found[:, -1]
    np.testing.assert_allclose(moved[:, GIVEN:], 6, rtol=1e-5)

  @parameterized.parameters((48, 8.0), (50, SHIFT))
  def test_levels_that_are_not_on_the_grid_name_the_keys(self, steps, shift):
    # Self Forcing's script: shift 8 for levels of shift 5.
    config = types.SimpleNamespace(ode_steps=steps, guidance_scale=1.0)
    with self.assertRaisesRegex(ValueError, 'σ=0.* config.student.timesteps'):
      ode.make_trajectories(
          straight, LEVELS, config, shift=shift, context_frames=GIVEN
      )


class RegressionTest(parameterized.TestCase):

  def loss(self, clean_past, levels=LEVELS, fn=straight):
    return ode.regression_loss(
        fn,
        levels,
        'student',
        chunk=CHUNK,
        context_frames=GIVEN,
        clean_past=clean_past,
    )

  @parameterized.parameters(False, True)
  def test_is_zero_for_a_student_that_jumps_to_the_end(self, clean_past):
    pairs = record(CHUNK if clean_past else None)
    loss, _ = jax.jit(self.loss(clean_past))(PARAMS, pairs, KEY)
    # 48 steps of fp32, values to 4: squared.
    self.assertLess(loss, (2e-5) ** 2)

  @parameterized.parameters(False, True)
  def test_is_the_squared_distance_to_the_end(self, clean_past):
    pairs = record(CHUNK if clean_past else None)
    still = lambda unused_params, x, *unused_args: 0 * x
    loss, metrics = jax.jit(self.loss(clean_past, fn=still))(PARAMS, pairs, KEY)
    # G(x) = x: what is left are the states, at the levels that the key draws.
    index = np.repeat(
        jax.random.randint(KEY, (B, F // CHUNK), 0, len(LEVELS)), CHUNK, axis=1
    )
    states = np.asarray(pairs['trajectory'])
    x = np.stack(
        [[states[b, index[b, f], f] for f in range(F)] for b in range(B)]
    )
    expected = np.mean((x - states[:, -1])[:, GIVEN:] ** 2)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics['x0_error'], expected, rtol=1e-5)

  def test_chunks_that_are_seen_at_their_end_are_not_scored(self):
    away = lambda w, x, *unused_args: w * jnp.ones_like(x)
    levels = np.append(LEVELS, np.float32(0))
    loss = jax.jit(self.loss(False, levels, away))
    ends = dict(record(), trajectory=jnp.zeros((B, 5, F, H, W, C)))
    for seed in range(5):
      key = jax.random.key(seed)
      index = jax.random.randint(key, (B, F // CHUNK), 0, 5)[:, 1:]
      sigma = levels[np.asarray(index)]
      found, _ = loss({'student': 1.0}, ends, key)
      np.testing.assert_allclose(
          found, np.mean(sigma[sigma > 0] ** 2), rtol=1e-5
      )

  @pytest.mark.slow
  def test_a_student_reads_the_past_that_its_teacher_read(self):
    asked = {}

    def spy(name, unused_params, x, timesteps, given, unused_context):
      asked[name] = (x, timesteps, given)
      return x

    for clean, pairs in ((False, record()), (True, record(CHUNK))):
      fn = functools.partial(spy, clean)
      self.loss(clean, fn=fn)(PARAMS, pairs, KEY)
    past = F - CHUNK
    np.testing.assert_array_equal(
        asked[True][0][:, :past], BATCH['latents'][:, :past]
    )
    self.assertEqual(asked[False][0].shape[1], F)
    self.assertTrue(np.all(asked[False][1][:, GIVEN:] > 0))
    np.testing.assert_array_equal(asked[False][1][:, :GIVEN], 0)

  def test_records_of_other_levels_are_told(self):
    with self.assertRaisesRegex(ValueError, 'config.student.timesteps'):
      self.loss(False, LEVELS[:2])(PARAMS, record(), KEY)


class ConsistencyTest(parameterized.TestCase):

  def loss(self, student, teacher, params=None, **changes):
    config = types.SimpleNamespace(**vars(CONFIG) | changes)
    loss = ode.consistency_loss(
        student,
        teacher,
        config,
        'student',
        'teacher',
        chunk=CHUNK,
        context_frames=GIVEN,
    )
    keys = jax.random.split(KEY, 64)  # Levels are drawn per sample.
    mean = lambda params: jnp.mean(
        jax.vmap(lambda key: loss(params, BATCH, key)[0])(keys)
    )
    return jax.jit(mean)(PARAMS | (params or {})), mean

  def test_is_zero_for_the_consistency_function_of_a_straight_flow(self):
    loss, _ = self.loss(straight, straight)
    # Roundings of values to 10, squared.
    self.assertLess(loss, 1e-10)
    self.assertGreater(self.loss(straight, straight, {'teacher': 1.2})[0], 1e-6)

  def test_goes_to_zero_with_the_steps_for_that_of_a_curved_flow(self):
    coarse, fine = (
        float(self.loss(gaussian_consistency, gaussian, ode_steps=n)[0])
        for n in (50, 100)
    )
    # A step is off by its square, the loss by its fourth power: 16 per halving.
    self.assertBetween(coarse / fine, 8, 32)
    # The mean of the data is no end of a curve. It changes along the step, so
    # its loss falls by 4.
    coarse_mean, fine_mean = (
        float(self.loss(gaussian, gaussian, ode_steps=n)[0]) for n in (50, 100)
    )
    self.assertBetween(coarse_mean / fine_mean, 2, 8)
    self.assertGreater(fine_mean, 10 * fine)

  def test_only_the_student_has_a_gradient(self):
    _, mean = self.loss(gaussian, gaussian)
    gradient = jax.jit(jax.grad(mean))(PARAMS)
    self.assertNotEqual(gradient['student'], 0)
    self.assertEqual(gradient['teacher'], 0)
    self.assertEqual(gradient['student_ema'], 0)

  def test_the_last_target_is_the_teachers_end(self):
    # With one step from σ = 1 to 0 there is no other target: N(μ, .) is 2 here,
    # and what G_ema says of it does not count.
    towards = lambda mean, x, t, *unused: flow.velocity_from_x0(
        x, jnp.full(x.shape, mean), t / 1000
    )
    params = {'teacher': 2.0, 'student': 0.0, 'student_ema': 77.0}
    loss, _ = self.loss(towards, towards, params, ode_steps=1)
    np.testing.assert_allclose(loss, 4, rtol=1e-5)

  def test_the_target_is_the_averaged_students(self):
    towards = lambda mean, x, t, *unused: flow.velocity_from_x0(
        x, jnp.full(x.shape, mean), t / 1000
    )
    loss = ode.consistency_loss(
        towards,
        towards,
        CONFIG,
        'student',
        'teacher',
        chunk=CHUNK,
        context_frames=GIVEN,
    )
    params = {'teacher': 2.0, 'student': 1.0, 'student_ema': 4.0}
    # One draw that is not of the last step.
    found, _ = loss(params, BATCH, jax.random.key(1))
    np.testing.assert_allclose(found, 9, rtol=1e-5)

  def test_guidance_is_the_teachers_alone(self):
    def towards_known(mean, x, timesteps, given, *unused):
      known = given.with_masks().actions_mask[..., None, None, None]
      target = jnp.broadcast_to(mean * known, x.shape)
      return flow.velocity_from_x0(x, target, timesteps / 1000)

    params = {'teacher': 1.0, 'student': 1.0, 'student_ema': 7.0}
    loss, _ = self.loss(
        towards_known, towards_known, params, ode_steps=1, guidance_scale=3.0
    )
    # Guided, the teacher leads to 3, where the student alone says 1.
    np.testing.assert_allclose(loss, 4, rtol=1e-5)

  def test_all_frames_of_a_sample_share_a_level_after_a_clean_past(self):
    asked = []

    def spy(unused_params, x, timesteps, *unused_args):
      asked.append((x, timesteps))
      return x

    ode.consistency_loss(
        spy,
        spy,
        CONFIG,
        'student',
        'teacher',
        chunk=CHUNK,
        context_frames=GIVEN,
    )(PARAMS, BATCH, KEY)
    past = F - CHUNK
    for x, timesteps in asked:
      np.testing.assert_array_equal(x[:, :past], BATCH['latents'][:, :past])
      np.testing.assert_array_equal(timesteps[:, :past], 0)
      self.assertTrue(np.all(timesteps[:, past:] == timesteps[:, past:][:, :1]))
    teacher, averaged, student = (t[:, -1] for _, t in asked)
    np.testing.assert_array_equal(teacher, student)
    self.assertTrue(np.all(averaged < student))


if __name__ == '__main__':
  absltest.main()

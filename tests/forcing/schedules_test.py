"""Sampling matrices as tables, and samplers that reach known data by each."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import noise
from worldsim_jax.diffusion import samplers
from worldsim_jax.forcing import schedules
from worldsim_jax.models.conditioning import Conditioning

EVERY = parameterized.parameters(*schedules.DELAYS)
SIGMAS = flow.sampling_sigmas(8, 3.0)


class MatrixTest(parameterized.TestCase):

  @parameterized.parameters(
      ('full_sequence', 1, ['22222', '11111', '00000']),
      (
          'autoregressive',
          1,
          [
              '22222',
              '12222',
              '02222',
              '01222',
              '00222',
              '00122',
              '00022',
              '00012',
              '00002',
              '00001',
              '00000',
          ],
      ),
      (
          'pyramid',
          1,
          ['22222', '12222', '01222', '00122', '00012', '00001', '00000'],
      ),
      ('pyramid', 0.5, ['22222', '11222', '00112', '00001', '00000']),
      ('trapezoid', 1, ['22222', '12221', '01210', '00100', '00000']),
  )
  def test_is_the_table(self, name, delay, rows):
    # Of the levels 1 and ½: '2' is 1, '1' is ½, '0' is clean.
    found = schedules.matrix(name, (1.0, 0.5), 5, delay=delay)
    self.assertEqual([''.join(str(int(2 * x)) for x in r) for r in found], rows)
    self.assertEqual(found.dtype, np.float32)

  def test_the_delay_joins_full_sequence_and_autoregressive(self):
    pyramid = functools.partial(schedules.matrix, 'pyramid', SIGMAS, 3)
    for delay, name in ((0, 'full_sequence'), (len(SIGMAS), 'autoregressive')):
      np.testing.assert_array_equal(
          pyramid(delay=delay), schedules.matrix(name, SIGMAS, 3)
      )

  @EVERY
  def test_every_chunk_takes_every_step_once(self, name):
    found = schedules.matrix(name, SIGMAS, 5, delay=1.5)
    for column in found.T:
      levels = column[np.append(True, column[1:] != column[:-1])]
      np.testing.assert_array_equal(levels, np.append(SIGMAS, 0))

  def test_other_names_and_delays_are_told(self):
    with self.assertRaisesRegex(ValueError, "'diagonal' is not one of"):
      schedules.matrix('diagonal', SIGMAS, 3)
    with self.assertRaisesRegex(ValueError, 'delay=-1 '):
      schedules.matrix('pyramid', SIGMAS, 3, delay=-1)


def independent(params, x, timesteps, given, unused_context):
  """v of frames N(action, params²), each by itself."""
  sigma = timesteps[..., None, None, None] / 1000
  mean = given.actions[..., None, None]
  variance = ((1 - sigma) * params) ** 2 + sigma**2
  eps = sigma / variance * (x - (1 - sigma) * mean)
  x0 = mean + (1 - sigma) * params**2 / variance * (x - (1 - sigma) * mean)
  return eps - x0


def conditional(covariance, x, timesteps, unused_given, unused_context):
  """v of frames N(0, covariance), each given those before it, all noisy."""
  frames = x.shape[1]
  a, sigma = 1 - timesteps[0] / 1000, timesteps[0] / 1000
  noisy = covariance * a[:, None] * a + jnp.diag(sigma**2)
  v = []
  for f in range(frames):  # E[ε - x0 | x_1 .. x_f], by linear regression.
    past = slice(0, f + 1)
    cross = sigma[f] * jax.nn.one_hot(f, f + 1) - a[past] * covariance[f, past]
    slope = jnp.linalg.solve(noisy[past, past], cross)
    v.append(jnp.einsum('bghwc,g->bhwc', x[:, past], slope))
  return jnp.stack(v, axis=1)


class SampleTest(parameterized.TestCase):

  @EVERY
  def test_every_matrix_makes_independent_frames_as_eulers_steps_do(self, name):
    frames = np.arange(1, 9, dtype=np.float32)
    given = Conditioning(actions=jnp.asarray(frames[None, :, None]))
    context = np.ones((1, 2, 1, 2, 2), np.float32)
    matrix = schedules.matrix(name, SIGMAS, 3)
    made = jax.jit(
        lambda key: schedules.sample(
            independent, 0.5, context, given, key, matrix, chunk=2
        )
    )(jax.random.key(0))
    start = noise.normal(
        jax.random.split(jax.random.key(0))[0], (1, 8, 1, 2, 2)
    )
    alone = samplers.euler(
        lambda x, t: independent(0.5, x, t, given.frames(2, 6), None),
        start[:, 2:],
        SIGMAS,
    )
    # Eight steps, of values near 8.
    np.testing.assert_allclose(made, alone, atol=1e-5)

  @EVERY
  def test_every_matrix_reaches_gaussian_data(self, name):
    given = Conditioning(actions=jnp.full((1, 3, 1), 2.0))
    matrix = schedules.matrix(name, flow.sampling_sigmas(50, 1.0), 3, delay=7)
    made = jax.jit(
        lambda key: schedules.sample(
            independent,
            0.5,
            jnp.zeros((1, 0, 20, 20, 5)),
            given,
            key,
            matrix,
            chunk=1,
        )
    )(jax.random.key(0))
    # 2,000 values: standard errors 0.011 and 0.008, times 4; 50 steps of Euler
    # are off by 0.01 more.
    np.testing.assert_allclose(np.mean(made, (0, 2, 3, 4)), 2, atol=0.045)
    np.testing.assert_allclose(np.std(made, (0, 2, 3, 4)), 0.5, atol=0.045)

  def test_autoregressively_frames_that_depend_on_each_other_are_reached(self):
    correlation = 0.8 ** np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    covariance = jnp.asarray(correlation, jnp.float32)
    matrix = schedules.matrix(
        'autoregressive', flow.sampling_sigmas(50, 1.0), 3
    )
    made = jax.jit(
        lambda key: schedules.sample(
            conditional,
            covariance,
            jnp.zeros((1, 0, 40, 40, 5)),
            Conditioning(),
            key,
            matrix,
            chunk=1,
        )
    )(jax.random.key(0))
    found = np.cov(np.asarray(made).reshape(3, -1))
    # 8,000 values: standard errors to 0.016, times 4; Euler's 0.02.
    np.testing.assert_allclose(found, correlation, atol=0.085)

  def test_what_is_clean_is_seen_at_the_level_of_stabilisation(self):
    def told(unused_params, x, timesteps, unused_given, unused_context):
      # Frames being made move by what they see of the frame before.
      before = jnp.roll(x + 10 * timesteps[..., None, None, None], 1, axis=1)
      return before

    context = np.full((1, 1, 1, 1, 1), 5, np.float32)
    made = lambda level: schedules.sample(
        told,
        None,
        context,
        Conditioning(),
        jax.random.key(0),
        np.float32([[1], [0]]),
        chunk=1,
        stabilisation_sigma=level,
    )
    start, eps = (
        noise.normal(key, (1, 2, 1, 1, 1))
        for key in jax.random.split(jax.random.key(0))
    )
    np.testing.assert_allclose(made(0.0), start[:, 1:] - 5, atol=1e-6)
    seen = 0.9 * 5 + 0.1 * eps[:, :1]
    np.testing.assert_allclose(
        made(0.1), start[:, 1:] - seen - 10 * 100, rtol=1e-6
    )

  def test_made_frames_are_stabilised_like_given_ones(self):
    asked = []

    def spy(unused_params, x, timesteps, *unused_args):
      jax.debug.callback(lambda t: asked.append(t[0].tolist()), timesteps)
      return x

    matrix = schedules.matrix('autoregressive', np.float32([1, 0.5]), 2)
    schedules.sample(
        spy,
        None,
        jnp.zeros((1, 1, 1, 1, 1)),
        Conditioning(),
        jax.random.key(0),
        matrix,
        chunk=1,
        stabilisation_sigma=0.25,
    )
    jax.effects_barrier()
    self.assertEqual(
        asked,
        [
            [250, 1000, 1000],
            [250, 500, 1000],
            [250, 250, 1000],
            [250, 250, 500],
        ],
    )

  def test_all_rows_are_one_program(self):
    traced = []

    def spy(unused_params, x, *unused_args):
      traced.append(x.shape)
      return x

    for steps in (2, 9):
      matrix = schedules.matrix('pyramid', flow.sampling_sigmas(steps, 1.0), 3)
      jax.make_jaxpr(
          lambda key, matrix=matrix: schedules.sample(
              spy,
              None,
              jnp.zeros((1, 1, 1, 1, 1)),
              Conditioning(),
              key,
              matrix,
              chunk=1,
          )
      )(jax.random.key(0))
    # The same number of times for 5 rows and for 12.
    self.assertEqual(traced, 2 * traced[: len(traced) // 2])
    self.assertLess(len(traced), 5)

  def test_longer_videos_are_made_window_after_window(self):
    frames = np.arange(1, 9, dtype=np.float32)
    given = Conditioning(actions=jnp.asarray(frames[None, :, None]))
    matrix = schedules.matrix('pyramid', SIGMAS, 2)
    # Two frames of context, four new ones per window: 6 of 8 are asked for.
    made = schedules.extend(
        independent,
        1e-3,
        jnp.ones((1, 2, 1, 2, 2)),
        given,
        jax.random.key(0),
        matrix,
        chunk=2,
        num_frames=6,
        stabilisation_sigma=0.02,
    )
    self.assertEqual(made.shape, (1, 6, 1, 2, 2))
    # Frames have a deviation of 0.001.
    np.testing.assert_allclose(
        made,
        np.broadcast_to(frames[2:, None, None, None], made.shape),
        atol=0.02,
    )

  def test_a_context_that_ends_in_a_chunk_names_the_keys(self):
    with self.assertRaisesRegex(ValueError, 'config.student.chunk'):
      schedules.sample(
          independent,
          1.0,
          jnp.zeros((1, 1, 1, 1, 1)),
          Conditioning(),
          jax.random.key(0),
          np.ones((2, 1)),
          chunk=2,
      )


if __name__ == '__main__':
  absltest.main()

"""The weights of UniPC against its formulas, and where they have limits."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import predictor_corrector

# Written by tests/golden/make_samplers.py.
GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'samplers.npz'


class StepsTest(parameterized.TestCase):

  @parameterized.parameters(*flow.GRIDS)
  def test_a_flow_that_never_turns_is_followed_exactly(self, grid):
    # Where all predictions agree, both rows lead along the line of eq. (1) of
    # the flow: x is (σ_t / σ_s) x_s + (1 - σ_t / σ_s) m.
    sigmas = flow.sampling_sigmas(50, 5.0, grid)
    steps = predictor_corrector.steps(sigmas)
    ratio = np.append(sigmas[1:], 0) / sigmas
    np.testing.assert_allclose(steps.predict[:, 0], ratio, rtol=1e-6)
    # Rounded to float32 one by one, of values up to 2.
    np.testing.assert_allclose(
        steps.predict.sum(axis=1), np.ones(50), atol=5e-7)
    np.testing.assert_allclose(
        steps.correct.sum(axis=1), np.ones(50), atol=5e-7)
    self.assertTrue(np.all(np.isfinite(steps.correct)))

  def test_the_first_and_the_last_step_look_at_one_prediction(self):
    predict = predictor_corrector.steps([0.9, 0.6, 0.4, 0.2]).predict
    np.testing.assert_array_equal(predict[[0, -1], 2], 0)
    self.assertTrue(np.all(predict[1:-1, 2] < 0))  # Extrapolated.
    np.testing.assert_array_equal(predict[-1], [0, 1, 0])

  def test_of_the_first_prediction_nothing_is_corrected(self):
    correct = predictor_corrector.steps([0.9, 0.6, 0.4]).correct
    np.testing.assert_array_equal(correct[0], [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(correct[1:, 0], 0)
    self.assertEqual(correct[1, 3], 0)

  def test_a_middle_step_is_that_of_the_formulas(self):
    sigma = np.float64(np.float32([0.9, 0.6, 0.4, 0.2]))
    r_, s, t = np.log(1 / sigma[:3] - 1)
    h, r = t - s, (r_ - s) / (t - s)
    b = 1 - np.exp(-h)
    gain = (1 - sigma[2]) * b
    steps = predictor_corrector.steps(sigma)
    np.testing.assert_allclose(
        steps.predict[1],
        [sigma[2] / sigma[1], gain * (1 - 0.5 / r), gain * 0.5 / r],
        rtol=1e-6)
    # Eq. (3) as a linear system; φ_k of the paper by their series.
    hh = -h
    phi = np.expm1(hh) / hh - 1
    system = [[1, 1], [r, 1]]
    right = [phi / -b, (phi / hh - 0.5) * 2 / -b]
    old, new = np.linalg.solve(system, right)
    np.testing.assert_allclose(
        steps.correct[2],
        [0, sigma[2] / sigma[1], gain * (1 - old / r - new), gain * old / r,
         gain * new],
        rtol=1e-6)

  def test_noise_alone_is_the_limit_of_almost_noise_alone(self):
    exact, near = (
        predictor_corrector.steps(np.array([first, 0.7, 0.4, 0.1]))
        for first in (1.0, 1 - 2**-24))
    # λ of the first level is -∞ or -17: its prediction hardly counts.
    for one, other in zip(exact, near):
      np.testing.assert_allclose(one, other, atol=0.05)
      self.assertTrue(np.all(np.isfinite(one)))

  @parameterized.parameters(
      ([0.5, 0.5],), ([0.2, 0.5],), ([0.5, 0.0],), ([1.1, 0.5],))
  def test_levels_that_do_not_decrease_are_refused(self, sigmas):
    with self.assertRaisesRegex(ValueError, 'must strictly decrease'):
      predictor_corrector.steps(sigmas)

  @parameterized.product(grid=('wan', 'diffusers_unipc'), num_steps=(50, 7))
  def test_every_step_is_the_one_recorded_from_diffusers(self, grid, num_steps):
    expected = np.load(GOLDEN)[f'{grid}/{num_steps}']
    rng = np.random.default_rng(0)  # As tests/parity/samplers_test.py draws.
    shape = (1, 2, 3, 3, 4)
    noise = rng.normal(size=shape).astype(np.float32)
    velocities = rng.normal(size=(num_steps, *shape)).astype(np.float32)
    sigmas = flow.sampling_sigmas(num_steps, 5.0, grid)
    steps = predictor_corrector.steps(sigmas)
    state = predictor_corrector.start(noise)
    for i in range(num_steps):
      row = predictor_corrector.Steps(steps.correct[i], steps.predict[i])
      x0 = state.x - sigmas[i] * velocities[i]
      state = predictor_corrector.step(row, state, x0)
      # Roundings of float32 add up over 50 steps; upstream's weights have them.
      np.testing.assert_allclose(
          state.x[..., :1], expected[i], atol=1e-5 * abs(expected[i]).max())


if __name__ == '__main__':
  absltest.main()

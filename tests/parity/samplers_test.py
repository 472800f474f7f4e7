"""Our samplers against the schedulers of diffusers, step by step.

The network's outputs are random numbers, which no sampler can smooth over.
"""

import pytest

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import predictor_corrector
from worldsim_jax.diffusion import samplers

SHIFT = 5.0
SHAPE = (1, 2, 3, 3, 4)


def unipc_of_diffusers(num_steps, grid):
  scheduler = diffusers.UniPCMultistepScheduler(
      prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=SHIFT,
      solver_order=2, solver_type='bh2', lower_order_final=True)
  own = {}
  if grid == 'wan':  # As Wan's own scheduler has it, before the shift.
    own['sigmas'] = np.linspace(0.999, 0, num_steps + 1)[:-1]
  scheduler.set_timesteps(num_steps, **own)
  return scheduler


def euler_of_diffusers(num_steps):
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT)
  scheduler.set_timesteps(num_steps)
  return scheduler


def draw(num_steps):
  """(noise, velocities)."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return normal(*SHAPE), normal(num_steps, *SHAPE)


def their_samples(scheduler, noise, velocities):
  """After every step, [K, ...]."""
  x, found = torch.from_numpy(noise), []
  for t, v in zip(scheduler.timesteps, velocities):
    x = scheduler.step(torch.from_numpy(v), t, x).prev_sample
    found.append(x.numpy())
  return np.stack(found)


def our_unipc_samples(sigmas, noise, velocities):
  steps = predictor_corrector.steps(sigmas)
  state, found = predictor_corrector.start(jnp.asarray(noise)), []
  for i, (sigma, v) in enumerate(zip(sigmas, velocities)):
    row = predictor_corrector.Steps(steps.correct[i], steps.predict[i])
    state = predictor_corrector.step(row, state, state.x - sigma * v)
    found.append(np.asarray(state.x))
  return np.stack(found)


class SamplersParityTest(parameterized.TestCase):

  def assertParity(self, found, expected):
    """Relative to the largest value of each step."""
    axes = tuple(range(1, expected.ndim))
    scale = abs(expected).max(axis=axes)
    error = (abs(found - expected).max(axis=axes) / scale).max()
    # 50 steps of float32 (1.5e-6 seen); upstream's weights are in float32, too.
    self.assertLess(error, 1e-5)

  @parameterized.product(
      grid=('wan', 'diffusers_unipc'), num_steps=(50, 7, 2, 1))
  def test_every_step_of_unipc_is_that_of_diffusers(self, grid, num_steps):
    scheduler = unipc_of_diffusers(num_steps, grid)
    sigmas = flow.sampling_sigmas(num_steps, SHIFT, grid)
    np.testing.assert_array_equal(sigmas, scheduler.sigmas[:-1])
    noise, velocities = draw(num_steps)
    self.assertParity(our_unipc_samples(sigmas, noise, velocities),
                      their_samples(scheduler, noise, velocities))

  @parameterized.product(
      grid=('wan', 'diffusers_unipc'), num_steps=(50, 40, 7))
  def test_timesteps_are_rounded_down_as_in_diffusers(self, grid, num_steps):
    scheduler = unipc_of_diffusers(num_steps, grid)
    np.testing.assert_array_equal(
        flow.whole_timesteps(num_steps, SHIFT, grid), scheduler.timesteps)

  @parameterized.parameters(50, 7)
  def test_every_step_of_euler_is_that_of_diffusers(self, num_steps):
    scheduler = euler_of_diffusers(num_steps)
    sigmas = flow.sampling_sigmas(num_steps, SHIFT, 'diffusers_euler')
    # Upstream shifts in float32.
    np.testing.assert_allclose(sigmas, scheduler.sigmas[:-1], rtol=1e-6)
    noise, velocities = draw(num_steps)
    expected = their_samples(scheduler, noise, velocities)
    for end in (0, num_steps // 2, num_steps - 1):
      # Ours goes on to σ = 0 from wherever its grid ends.
      found = samplers.euler(
          self.replay(sigmas, velocities), noise, sigmas[:end + 1])
      rest = float(scheduler.sigmas[end + 1]) * velocities[end]
      self.assertParity(np.asarray(found)[None], (expected[end] - rest)[None])

  def test_the_scan_is_the_steps_in_a_row(self):
    sigmas = flow.sampling_sigmas(50, SHIFT, 'wan')
    noise, velocities = draw(50)
    found = samplers.unipc(self.replay(sigmas, velocities), noise, sigmas)
    steps = our_unipc_samples(sigmas, noise, velocities)
    self.assertParity(np.asarray(found)[None], steps[-1:])

  def replay(self, sigmas, velocities):
    """The velocity of the step whose timestep it is."""
    timesteps = flow.timesteps(jnp.asarray(sigmas))
    table = jnp.asarray(velocities)
    return lambda x, t: table[jnp.argmin(abs(timesteps - t[0, 0]))]


if __name__ == '__main__':
  absltest.main()

"""Samplers: from noise to data through a list of noise levels.

Sigmas are noisiest first and end before 0; the last step always lands on σ = 0.

  euler       x ← x + (σ_next - σ) v, the flow ODE (many steps: the teacher)
  unipc       the same ODE, each step predicted from two velocities and
              corrected by the next, see predictor_corrector.py (Wan's sampler)
  renoise     x0 ← x - σ v; x ← (1 - σ_next) x0 + σ_next ε with fresh ε, the
              consistency sampler of few-step students (DMD2, Self Forcing)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import noise
from worldsim_jax.diffusion import predictor_corrector


def euler(velocity_fn, noise_BFHWC, sigmas_K, known=None, timesteps_K=None):
  """Integrates the flow from σ = sigmas_K[0] to 0.

  Args:
    velocity_fn: (x_BFHWC, timesteps_BF) -> v_BFHWC.
    noise_BFHWC: the starting point.
    sigmas_K: float [K].
    known: optional (mask bool [F], x0_BFHWC): frames that are given. They stay
      at σ = 0 and are put back after every step.
    timesteps_K: what the network is told, if not 1000 σ (diffusers' UniPC
      rounds it down, see flow.whole_timesteps).

  Returns:
    Clean latents, like noise_BFHWC.
  """
  steps = _euler_steps(sigmas_K, timesteps_K)

  def step(x, now):
    return _euler_step(velocity_fn, x, now, known), None

  x, _ = jax.lax.scan(step, _put_back(noise_BFHWC, known), steps)
  return x


def euler_states(velocity_fn, noise_BFHWC, sigmas_K, index_S, known=None):
  """The states on the way of `euler`, and its end.

  Args:
    velocity_fn, noise_BFHWC, sigmas_K, known: as for `euler`.
    index_S: the states to keep are those at sigmas_K[index_S]; ints.

  Returns:
    [B, S + 1, F, H, W, C], the end last.
  """
  num_kept = len(index_S)
  slot_K = np.full(len(sigmas_K), num_kept)  # Unwanted: where the end will be.
  slot_K[np.asarray(index_S)] = np.arange(num_kept)

  def step(carry, now):
    x, states = carry
    slot, now = now
    states = jax.lax.dynamic_update_index_in_dim(states, x, slot, axis=0)
    return (_euler_step(velocity_fn, x, now, known), states), None

  x = _put_back(noise_BFHWC, known)
  states = jnp.zeros((num_kept + 1, *x.shape), x.dtype)
  (end, states), _ = jax.lax.scan(
      step, (x, states), (slot_K, _euler_steps(sigmas_K, None)))
  return jnp.moveaxis(states.at[-1].set(end), 0, 1)


def unipc(velocity_fn, noise_BFHWC, sigmas_K, known=None, timesteps_K=None):
  """As `euler`, to third order; its sigmas must be concrete."""
  rows = predictor_corrector.steps(sigmas_K)
  timesteps_K = _timesteps(sigmas_K, timesteps_K)

  def step(state, now):
    row, sigma, timestep = now
    v = velocity_fn(state.x, _per_frame(timestep, state.x, known))
    sigma_BF = _per_frame(sigma, state.x, known)
    x0 = flow.x0_from_velocity(state.x, v, sigma_BF)
    state = predictor_corrector.step(row, state, x0)
    return state._replace(x=_put_back(state.x, known)), None

  start = predictor_corrector.start(_put_back(noise_BFHWC, known))
  state, _ = jax.lax.scan(
      step, start, (rows, jnp.asarray(sigmas_K, jnp.float32), timesteps_K))
  return state.x


class Sampler(NamedTuple):
  """A sampler for many steps, and the grid (flow.GRIDS) that it is used with.

  Attributes:
    sample: as `euler`.
    grid: a key of flow.GRIDS.
  """
  sample: Callable
  grid: str

  def sigmas(self, num_steps: int, shift: float):
    """Its noise levels, float32 [num_steps]."""
    return flow.sampling_sigmas(num_steps, shift, self.grid)


SAMPLERS = {'euler': Sampler(euler, 'uniform'), 'unipc': Sampler(unipc, 'wan')}


def renoise(rng, x0_BFHWC, sigma):
  """x0 at noise level σ (a scalar) with fresh noise."""
  eps = noise.normal(rng, x0_BFHWC.shape, x0_BFHWC.dtype)
  return (1 - sigma) * x0_BFHWC + sigma * eps


def euler_step(x_BFHWC, x0_BFHWC, sigma, sigma_next):
  """`euler`'s step from one scalar σ > 0 to the next, by the x0 it implies.

  x + (σ_next - σ) v with v = (x - x0) / σ is x0 + (σ_next / σ) (x - x0).
  """
  return x0_BFHWC + sigma_next / sigma * (x_BFHWC - x0_BFHWC)


def _euler_steps(sigmas_K, timesteps_K):
  """(σ, the next σ, what the network is told), [K] each."""
  return (jnp.asarray(sigmas_K), jnp.append(sigmas_K[1:], 0.),
          _timesteps(sigmas_K, timesteps_K))


def _euler_step(velocity_fn, x, now, known):
  sigma, sigma_next, timestep = now
  v = velocity_fn(x, _per_frame(timestep, x, known))
  return _put_back(x + (sigma_next - sigma) * v, known)


def _timesteps(sigmas_K, timesteps_K):
  if timesteps_K is None:
    return flow.timesteps(jnp.asarray(sigmas_K, jnp.float32))
  return jnp.asarray(timesteps_K, jnp.float32)


def _per_frame(level, x_BFHWC, known):
  """A level for all frames, [B, F]; 0 for those that are given."""
  level_BF = jnp.full(x_BFHWC.shape[:2], level, x_BFHWC.dtype)
  return level_BF if known is None else jnp.where(known[0], 0., level_BF)


def _put_back(x_BFHWC, known):
  if known is None:
    return x_BFHWC
  mask_F, x0_BFHWC = known
  return jnp.where(mask_F[:, None, None, None], x0_BFHWC, x_BFHWC)

"""A student on held-out clips while it is distilled: keep the best, end a
collapse.

Distillation has no loss that falls: the students of DMD are at their best long
before they saturate, and nothing in training says when. So every `every` steps
the student (its average, where there is one) continues test clips, further than
it was trained to, in latents:

  error     mean squared distance to the true continuation, all new frames; the
            parameters with the least are kept (`TrainState.best`)
  drift     the same beyond the trained length, relative to within it
  contrast  standard deviation of a frame's latents relative to the truth's;
            beyond `max_contrast`, or below its inverse, the stage ends

The true continuation is not the only right one, so errors are to be compared
with each other only.
"""

import dataclasses
from typing import Any, Callable

import jax
import jax.numpy as jnp

from worldsim_jax.diffusion import noise
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import rollout as rollouts


@dataclasses.dataclass(frozen=True)
class Monitor:
  """What the loop does with a student every so many steps.

  Attributes:
    network: its name in the state.
    every: steps.
    measure: (params, batch, rng) -> metrics, with 'error' and 'contrast'.
    clips: () -> a batch of test clips, the same on every call.
    max_contrast: see the module docstring; 0 never ends a stage.
  """
  network: str
  every: int
  measure: Callable[..., dict[str, jax.Array]]
  clips: Callable[[], dict[str, Any]]
  max_contrast: float = 0.

  def is_collapsed(self, contrast: float) -> bool:
    """Also where the contrast is not a number."""
    limit = self.max_contrast
    return bool(limit) and not 1 / limit <= contrast <= limit


def continuation(velocity_fn, new_cache, sampling: rollouts.Sampling, *,
                 context_frames: int, trained_frames: int):
  """Returns measure(params, batch, rng) -> metrics.

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context, cache).
    new_cache: (batch size) -> an empty KVCache, as a stream has it.
    sampling: how the student samples.
    context_frames: leading frames of a clip that are given.
    trained_frames: of the clips that it trains on; those here are longer.
  """
  def measure(params, batch, rng):
    latents = batch['latents']
    given = batches.conditioning(batch)
    state = rollouts.start(
        velocity_fn, params, new_cache(len(latents)),
        latents[:, :context_frames], given.frames(0, context_frames), sampling)
    rng_noise, rng_steps = jax.random.split(rng)
    future = latents[:, context_frames:]
    last_step = len(sampling.sigmas) - 1
    _, made = rollouts.rollout(
        velocity_fn, params, state, noise.normal(rng_noise, future.shape),
        given.frames(context_frames, future.shape[1]), sampling, last_step,
        rng_steps, given=context_frames)
    error_F = jnp.mean((made - future)**2, axis=(0, 2, 3, 4))
    within = jnp.mean(error_F[:trained_frames - context_frames])
    beyond = jnp.mean(error_F[trained_frames - context_frames:])
    spread = lambda x: jnp.mean(jnp.std(x, axis=(2, 3)))
    return {'error': jnp.mean(error_F), 'drift': beyond / within,
            'contrast': spread(made) / spread(future),
            'mean_abs_x': jnp.mean(jnp.abs(made))}

  return measure

"""Student initialisation: few steps that imitate the teacher's many.

The teacher's flow, dx/dσ = v_teacher(x, σ), leads from noise to data on curves;
a consistency function G(x_σ, σ) = x_σ - σ v_θ(x_σ, σ) jumps from any point of a
curve to its end. A student that starts as one is near enough for a divergence
to take over. Two ways to make it one:

  ODE pairs    integrate curves, keep the points x_k at the student's levels
               σ_k and the end x_end, and regress (CausVid, Yin et al. 2025,
               arXiv 2412.07772, Sec. 4.3; Self Forcing)
                 L = E_k ‖ G(x_k, σ_k) - x_end ‖²                        (1)
  consistency  never integrate: two neighbouring points of a curve must lead to
               the same end (Causal Forcing, thu-ml/Causal-Forcing)
                 L = E_i ‖ G(x_i, σ_i) - sg[ G_ema(x_i+1, σ_i+1) ] ‖²,
                 x_i+1 = x_i + (σ_i+1 - σ_i) v_teacher(x_i, σ_i),        (2)
               x_i a true clip with noise, σ_0 > .. > σ_N = 0, where G_ema gives
               x_N itself. (Upstream stops at N - 2: only its initialisation
               then ties G to the data.)

The teacher of (1) may be bidirectional. Its curves then bend by what is later
in the clip, which a causal student cannot know: one past belongs to many ends.
Causal Forcing therefore takes a causal teacher, which reads the true past, and
gives the student that same past; so does (2).

Levels of student and curves must agree: upstream's Self Forcing integrates with
shift 8 what it then labels by shift 5. Here a level that is not a point of the
grid is an error.
"""

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import noise
from worldsim_jax.diffusion import objective
from worldsim_jax.diffusion import samplers
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import sequences
from worldsim_jax.forcing import windows


def make_trajectories(velocity_fn, levels_K, config, *, shift: float,
                      context_frames: int, chunk: int | None = None):
  """Returns trajectories(params, batch, rng) -> record.

  Args:
    velocity_fn: of the teacher.
    levels_K: the student's σ, noisiest first, see flow.few_step_sigmas; with a
      final 0 or without.
    config: ode_steps, of Euler from σ = 1, and guidance_scale (1 is none).
    shift: of the grid of steps: the student's.
    context_frames: leading frames that are given.
    chunk: of a causal teacher, which reads the true past; None for a
      bidirectional one, which reads the context.

  A record is the batch with `trajectory` [B, S + 1, F, H, W, C] (S levels > 0,
  and the end): the clip at each level, its context always clean.

  Raises:
    ValueError: if a level is not on the grid, or the chunk does not divide
      context_frames.
  """
  grid, index_S = grid_with(levels_K, config.ode_steps, shift)
  if chunk is not None:
    sequences.check_context(context_frames, chunk)

  def trajectories(params, batch, rng):
    latents = batch['latents']
    context = latents[:, :context_frames]
    condition = batches.conditioning(batch)
    start, known = noise.normal(rng, latents.shape), None
    if chunk is None:
      denoiser, known = windows.after_context(
          velocity_fn, params, context, condition, window=latents.shape[1],
          guidance_scale=config.guidance_scale)
    else:
      start = start[:, context_frames:]
      denoiser = lambda x, t: sequences.clean_past(
          velocity_fn, params, latents, x, t / flow.NUM_TIMESTEPS, condition,
          chunk, config.guidance_scale)
    states = samplers.euler_states(denoiser, start, grid, index_S, known)
    if chunk is not None:
      given = jnp.broadcast_to(
          context[:, None], (*states.shape[:2], *context.shape[1:]))
      states = jnp.concatenate([given, states], axis=2)
    return batch | {'trajectory': states}

  return trajectories


def regression_loss(velocity_fn, levels_K, network: str, *, chunk: int,
                    context_frames: int, clean_past: bool = False):
  """Eq. (1), at a random level for each chunk.

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context) -> v.
    levels_K: as the trajectories were made for. If it ends in 0, some chunks
      are seen as they end, and are not scored (CausVid's list).
    network: which entry of `params` is trained.
    chunk: of the student.
    context_frames: leading frames that are given.
    clean_past: True for trajectories of a causal teacher, whose past was the
      true one; else the past is the same curves at their own levels.

  Returns:
    loss(params, record, rng) -> (loss, metrics), for records of
    `make_trajectories`.

  Raises:
    ValueError: if the chunk does not divide context_frames.
  """
  sequences.check_context(context_frames, chunk)

  def loss(params, record, rng):
    states, condition = record['trajectory'], batches.conditioning(record)
    batch, num_states, frames = states.shape[:3]
    if num_states != np.count_nonzero(levels_K) + 1:
      raise ValueError(
          f'a trajectory of {num_states - 1} levels and an end is not one for '
          f'the levels {levels_K} (config.student.timesteps).')
    index_BF = sequences.chunk_indices(
        rng, (batch, frames), chunk, len(levels_K))
    is_made_F = jnp.arange(frames) >= context_frames
    sigma_BF = jnp.asarray(levels_K)[index_BF] * is_made_F
    x = jnp.take_along_axis(
        states, index_BF[:, None, :, None, None, None], axis=1)[:, 0]
    end, made = states[:, -1], slice(context_frames, None)
    if clean_past:
      x, sigma_BF, end = x[:, made], sigma_BF[:, made], end[:, made]
      v = sequences.clean_past(
          velocity_fn, params[network], record['latents'], x, sigma_BF,
          condition, chunk)
    else:
      v = sequences.noisy_past(
          velocity_fn, params[network], x, sigma_BF, condition, chunk)
    return _x0_regression(v, x, end, sigma_BF)

  return loss


def consistency_loss(velocity_fn, teacher_velocity_fn, config, network: str,
                     teacher: str, *, chunk: int, context_frames: int):
  """Eq. (2): all frames of a clip at one level, the past clean.

  Args:
    velocity_fn, teacher_velocity_fn: of student and causal teacher.
    config: shift, ode_steps (N), guidance_scale (the teacher's; 1 is none).
    network, teacher: entries of `params`; G_ema is `<network>_ema`, as
      train/state.py names averages.
    chunk, context_frames: as above.

  Returns:
    loss(params, batch, rng) -> (loss, metrics).

  Raises:
    ValueError: if the chunk does not divide context_frames.
  """
  sequences.check_context(context_frames, chunk)
  grid = np.append(flow.sampling_sigmas(config.ode_steps, config.shift), 0)
  grid = grid.astype(np.float32)

  def loss(params, batch, rng):
    rng_step, rng_eps = jax.random.split(rng)
    true, condition = batch['latents'], batches.conditioning(batch)
    made = true[:, context_frames:]
    step_B = jax.random.randint(rng_step, made.shape[:1], 0, config.ode_steps)
    levels = lambda step: jnp.broadcast_to(
        jnp.asarray(grid)[step][:, None], made.shape[:2])
    sigma_BF, next_BF = levels(step_B), levels(step_B + 1)

    def velocity(fn, name, x, sigma_BF, scale=1.):
      return sequences.clean_past(
          fn, params[name], true, x, sigma_BF, condition, chunk, scale)

    x, _ = objective.noised(rng_eps, made, sigma_BF)
    x_next = x + flow.per_frame(next_BF - sigma_BF, x) * velocity(
        teacher_velocity_fn, teacher, x, sigma_BF, config.guidance_scale)
    end = flow.x0_from_velocity(
        x_next, velocity(velocity_fn, f'{network}_ema', x_next, next_BF),
        next_BF)
    v = velocity(velocity_fn, network, x, sigma_BF)
    return _x0_regression(v, x, jax.lax.stop_gradient(end), sigma_BF)

  return loss


def _x0_regression(v_BFHWC, x_BFHWC, x0_BFHWC, sigma_BF):
  """‖ x - σ v - x0 ‖², over the frames that are not clean."""
  target = flow.velocity_from_x0(x_BFHWC, x0_BFHWC, sigma_BF)
  return objective.regression(
      v_BFHWC, target, sigma_BF, sigma_BF > 0, 'x0')


def grid_with(levels_K, num_steps: int, shift: float,
              key: str = 'config.*.ode_steps'):
  """The grid of Euler's steps, and where the levels > 0 are on it.

  The grid has the very float32 of the levels.

  Raises:
    ValueError: that names the key, if a level is not on it.
  """
  levels = np.asarray(levels_K, np.float32)
  levels = levels[levels > 0]
  grid = flow.sampling_sigmas(num_steps, shift)
  distance = np.abs(grid[:, None] - levels)
  index = distance.argmin(axis=0)
  missing = levels[distance.min(axis=0) > 1e-5]
  if missing.size:
    raise ValueError(
        f'the level σ={missing[0]:.4f} of the student is not on the grid of '
        f'{num_steps} steps with shift {shift}: take the shift of '
        'config.student.timesteps, and steps in which their fractions of 1000 '
        f'are whole ({key}={num_steps}).')
  grid[index] = levels
  return grid, index

"""Students that are distilled without a rollout: TF+DMD, DF+DMD and CausVid.

A divergence (distill/) needs a video that the student made. Here it makes all
chunks at once from true clips, each noised to a random one σ of its few levels,

  x0_i = x_i - σ v_θ(x_i, σ | past),   x_i = (1 - σ) x_i^true + σ ε,     (1)

and what the student is given of the past is true as well, not its own:

  teacher forced    the clean past (Self Forcing's baseline TF + DMD)
  diffusion forced  the noisy past of the other chunks' x_j (DF + DMD; CausVid,
                    Yin et al. 2025, arXiv 2412.07772, Alg. 1; in its code
                    backward_simulation: false)

So a student never meets its own errors, which is what Self Forcing changes.
Gradients flow through everything that the student computes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import objective
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import sequences


def teacher_forced(velocity_fn, levels_K: np.ndarray, *, chunk: int,
                   context_frames: int):
  """Returns generate(params, batch, rng) -> (video, metrics).

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context) -> v.
    levels_K: σ at which a chunk is denoised, one drawn for each: those of the
      student, see flow.few_step_sigmas. It may end in 0, as CausVid's list
      does: a chunk at σ = 0 is the true one, and has no gradient.
    chunk: frames denoised together; divides the clip and context_frames.
    context_frames: leading frames that are given.

  The video is [B, F, H, W, C]: the given context, then (1).

  Raises:
    ValueError: if the chunk does not divide context_frames.
  """
  sequences.check_context(context_frames, chunk)

  def x0_of(params, true, x, sigma_BF, conditioning):
    x, sigma_BF = x[:, context_frames:], sigma_BF[:, context_frames:]
    v = sequences.clean_past(
        velocity_fn, params, true, x, sigma_BF, conditioning, chunk)
    return flow.x0_from_velocity(x, v, sigma_BF)

  return _generator(x0_of, levels_K, chunk, context_frames)


def diffusion_forced(velocity_fn, levels_K: np.ndarray, *, chunk: int,
                     context_frames: int):
  """The same with a noisy past; the context is clean."""
  sequences.check_context(context_frames, chunk)

  def x0_of(params, unused_true, x, sigma_BF, conditioning):
    v = sequences.noisy_past(
        velocity_fn, params, x, sigma_BF, conditioning, chunk)
    return flow.x0_from_velocity(x, v, sigma_BF)[:, context_frames:]

  return _generator(x0_of, levels_K, chunk, context_frames)


def _generator(x0_of, levels_K, chunk, context_frames):

  def generate(params, batch, rng):
    rng_level, rng_eps = jax.random.split(rng)
    true = batch['latents']
    index_BF = sequences.chunk_indices(
        rng_level, true.shape[:2], chunk, len(levels_K))
    is_made_F = jnp.arange(true.shape[1]) >= context_frames
    sigma_BF = jnp.asarray(levels_K)[index_BF] * is_made_F
    x, _ = objective.noised(rng_eps, true, sigma_BF)
    made = x0_of(params, true, x, sigma_BF, batches.conditioning(batch))
    metrics = {'mean_abs_x': jnp.mean(jnp.abs(made)), 'std_x': jnp.std(made)}
    return (jnp.concatenate([true[:, :context_frames], made], axis=1),
            metrics)

  return generate

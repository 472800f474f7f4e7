"""Self Forcing: the student trains on what it makes itself.

Huang et al. 2025, arXiv 2506.08009. A batch gives context frames and
conditioning; the student continues them with the very rollout it streams with,
leaving each chunk at one random denoising step s ~ U{0..K-1}, the same for all
chunks. What is then matched to the teacher's distribution is the whole video.
"""

import jax
import jax.numpy as jnp

from worldsim_jax.diffusion import noise
from worldsim_jax.forcing import batches
from worldsim_jax.forcing import rollout as rollouts


def make_generator(velocity_fn, new_cache, sampling: rollouts.Sampling, *,
                   context_frames: int):
  """Returns generate(params, batch, rng) -> (video, metrics).

  Args:
    velocity_fn: (params, x, timesteps, conditioning, context, cache).
    new_cache: (batch size) -> an empty KVCache for the training rollout.
    sampling: how the student samples.
    context_frames: leading frames of a clip that are given.

  The video is [B, F, H, W, C]: the given context, then the student's own
  frames, which alone carry gradients.
  """
  def generate(params, batch, rng):
    rng_exit, rng_noise, rng_steps = jax.random.split(rng, 3)
    context = batch['latents'][:, :context_frames]
    given = batches.conditioning(batch)
    num_new = batch['latents'].shape[1] - context_frames
    state = rollouts.start(
        velocity_fn, jax.lax.stop_gradient(params), new_cache(len(context)),
        context, given.frames(0, context_frames), sampling)
    start = noise.normal(
        rng_noise, (len(context), num_new, *context.shape[2:]))
    exit_step = jax.random.randint(rng_exit, (), 0, len(sampling.sigmas))
    _, video = rollouts.rollout(
        velocity_fn, params, state, start,
        given.frames(context_frames, num_new), sampling, exit_step, rng_steps,
        given=context_frames)
    metrics = {'exit_step': exit_step, 'mean_abs_x': jnp.mean(jnp.abs(video)),
               'std_x': jnp.std(video)}
    return jnp.concatenate([context, video], axis=1), metrics

  return generate

"""Distribution matching distillation (Yin et al. 2024; DMD2, Self Forcing).

The gradient of KL(p_student ‖ p_data), smoothed by noise, is a difference of
scores: the frozen teacher's and that of a critic trained on the student's own
samples. In x0-predictions f (critic) and r (teacher, with guidance) of the
noised sample x_σ, with the normalisation of DMD eq. (8),

  g = (f - r) / mean |x - r|                  mean over one sample,      (1)
  L = ½ mean ‖ x - sg[x - g] ‖²,              so dL/dx = g / numel(x).   (2)

The critic regresses the velocity of the student's samples. It must stay
accurate while the student moves, so it takes `generator_every` (5) steps for
each of the student's (DMD2's two-time-scale rule; some texts have the ratio
reversed).

Both networks are bidirectional and see the given context frames clean; only
generated frames are noised, and only they count.
"""

import functools

import jax
import jax.numpy as jnp

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import guidance
from worldsim_jax.diffusion import objective
from worldsim_jax.models.conditioning import Conditioning

# Mean |x - r| of a sample that the teacher reproduces exactly is 0, and so is
# f - r there when the critic agrees; the floor turns 0/0 into 0.
NORMALISER_FLOOR = 1e-6


def noise_levels(rng, batch: int, config):
  """σ [B], one per sample: uniform, shifted, clipped to [min, max]_sigma."""
  return flow.uniform_sigmas(
      rng, (batch,), config.shift, config.min_sigma, config.max_sigma)


def generator_loss(velocities, video_BFHWC, conditioning: Conditioning, params,
                   rng, config, *, context_frames: int):
  """Eq. (2) for a generated video.

  Args:
    velocities: for 'teacher' and 'critic', a bidirectional function
      (params, x, timesteps, conditioning) -> v.
    video_BFHWC: context frames, then generated ones, with gradient.
    conditioning: of all F frames, with the context's image.
    params: dict with 'teacher' and 'critic'.
    rng: for σ and ε.
    config: guidance_scale, shift, min_sigma, max_sigma.
    context_frames: leading frames that are given.

  Returns:
    (loss, metrics).
  """
  rng_sigma, rng_eps = jax.random.split(rng)
  video = jax.lax.stop_gradient(video_BFHWC)
  x, _, sigma_BF, _ = _noised(
      rng_eps, video, noise_levels(rng_sigma, len(video), config),
      context_frames)
  bind = lambda name: functools.partial(velocities[name], params[name])
  teacher = guidance.guided(bind('teacher'), conditioning,
                            conditioning.unconditional(), config.guidance_scale)
  timesteps = flow.timesteps(sigma_BF)
  x0 = lambda v: flow.x0_from_velocity(x, v, sigma_BF)[:, context_frames:]
  real = x0(teacher(x, timesteps))
  fake = x0(bind('critic')(x, timesteps, conditioning))
  gradient = score_difference(video[:, context_frames:], real, fake)
  gradient = jax.lax.stop_gradient(gradient)
  made = video_BFHWC[:, context_frames:]
  loss = 0.5 * jnp.mean((made - jax.lax.stop_gradient(made - gradient))**2)
  return loss, {'loss': loss,
                'dmd_gradient_rms': jnp.sqrt(jnp.mean(gradient**2))}


def score_difference(x_BFHWC, real_BFHWC, fake_BFHWC):
  """Eq. (1); exactly zero where critic and teacher agree."""
  scale = jnp.mean(jnp.abs(x_BFHWC - real_BFHWC), axis=(1, 2, 3, 4),
                   keepdims=True)
  return (fake_BFHWC - real_BFHWC) / jnp.maximum(scale, NORMALISER_FLOOR)


def critic_loss(velocities, video_BFHWC, conditioning: Conditioning, params,
                rng, config, *, context_frames: int):
  """Velocity regression on the student's samples; arguments as above."""
  rng_sigma, rng_eps = jax.random.split(rng)
  video = jax.lax.stop_gradient(video_BFHWC)
  x, target, sigma_BF, generated_F = _noised(
      rng_eps, video, noise_levels(rng_sigma, len(video), config),
      context_frames)
  v = velocities['critic'](
      params['critic'], x, flow.timesteps(sigma_BF), conditioning)
  return objective.regression(
      v, target, sigma_BF, generated_F, config.critic_weight)


def _noised(rng, video_BFHWC, sigma_B, context_frames: int):
  """x_σ with clean context, the velocity target, σ [B, F], generated frames."""
  generated_F = jnp.arange(video_BFHWC.shape[1]) >= context_frames
  sigma_BF = sigma_B[:, None] * generated_F
  return (*objective.noised(rng, video_BFHWC, sigma_BF), sigma_BF, generated_F)

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
"""

import jax
import jax.numpy as jnp

from worldsim_jax.distill import matching

# Mean |x - r| of a sample that the teacher reproduces exactly is 0, and so is
# f - r there when the critic agrees; the floor turns 0/0 into 0.
NORMALISER_FLOOR = 1e-6


def generator_loss(networks, sample: matching.Sample, rng, config):
  """Eq. (2); see `matching` for the arguments.

  Args:
    config: guidance_scale, shift, min_sigma, max_sigma.
  """
  rng_sigma, rng_eps = jax.random.split(rng)
  video = jax.lax.stop_gradient(sample.video_BFHWC)
  levels = matching.noise_levels(rng_sigma, len(video), config)
  x, _, sigma_BF = matching.noised(rng_eps, sample, video, levels)
  real, fake = matching.predictions(networks, sample, x, sigma_BF, config)
  gradient = jax.lax.stop_gradient(
      score_difference(sample.generated(video), real, fake))
  made = sample.generated(sample.video_BFHWC)
  loss = 0.5 * jnp.mean((made - jax.lax.stop_gradient(made - gradient))**2)
  return loss, {'loss': loss,
                'dmd_gradient_rms': jnp.sqrt(jnp.mean(gradient**2))}


critic_loss = matching.denoising_loss


def score_difference(x_BFHWC, real_BFHWC, fake_BFHWC):
  """Eq. (1); exactly zero where critic and teacher agree."""
  scale = jnp.mean(jnp.abs(x_BFHWC - real_BFHWC), axis=(1, 2, 3, 4),
                   keepdims=True)
  return (fake_BFHWC - real_BFHWC) / jnp.maximum(scale, NORMALISER_FLOOR)

"""Distribution matching distillation (Yin et al. 2024; DMD2, Self Forcing).

The gradient of KL(p_student ‖ p_data), smoothed by noise, is a difference of
scores: the frozen teacher's and that of a critic trained on the student's own
samples. A score is an x0-prediction p in other words,

  s(x_σ) = ((1 - σ) p - x_σ) / σ²,                                       (1)

so the gradient in x of a sample x_σ = (1 - σ) x + σ ε, in predictions f
(critic) and r (teacher, with guidance), is

  ∇_x KL = (1 - σ) (s_critic - s_teacher) = ((1 - σ) / σ)² (f - r).      (2)

Its size depends on σ far too much. DMD's eq. (8) weights it by

  ω(σ) = σ² / (1 - σ) / mean |x - r|              mean over one sample,  (3)

its α_t being 1 - σ here, of which the code of DMD and of all its successors
leaves a factor out. `score_weight` names what then is left:

  normalised  g = (f - r) / mean |x - r|             (the released codes)
  omega       g = (1 - σ) (f - r) / mean |x - r|     (eq. (2) times (3))
  none        g = f - r                                                  (4)

and the loss is one whose gradient is g,

  L = ½ mean ‖ x - sg[x - g] ‖²,              so dL/dx = g / numel(x).   (5)

The critic regresses the velocity of the student's samples. It must stay
accurate while the student moves, so it takes `generator_every` (5) steps for
each of the student's (DMD2's two-time-scale rule; some texts have the ratio
reversed).
"""

import jax
import jax.numpy as jnp

from worldsim_jax.distill import matching

PUBLISHED = dict(score_weight='normalised')
# Eq. (4), what f - r is multiplied by: (mean |x - r|, σ) -> factor.
SCORE_WEIGHTS = {
    'normalised': lambda scale, sigma: 1 / scale,
    'omega': lambda scale, sigma: (1 - sigma) / scale,
    'none': lambda scale, sigma: jnp.ones_like(scale),
}


def generator_loss(networks, sample: matching.Sample, rng, config):
  """Eq. (5); see `matching` for the arguments.

  Args:
    networks: 'teacher', 'critic'.
    config: guidance_scale, shift, min_sigma, max_sigma; score_weight.
  """
  rng_sigma, rng_eps = jax.random.split(rng)
  video = jax.lax.stop_gradient(sample.video_BFHWC)
  levels = matching.noise_levels(rng_sigma, len(video), config)
  x, _, sigma_BF = matching.noised(rng_eps, sample, video, levels)
  real, fake = matching.predictions(networks, sample, x, sigma_BF, config)
  return pull(sample, real, fake, levels, config)


critic_loss = matching.denoising_loss


def pull(sample: matching.Sample, real_BFHWC, fake_BFHWC, sigma_B, config):
  """Eq. (5), from the predictions of the generated frames."""
  made = sample.generated(sample.video_BFHWC)
  gradient = jax.lax.stop_gradient(score_difference(
      made, real_BFHWC, fake_BFHWC, sigma_B,
      matching.setting(config, 'score_weight', PUBLISHED)))
  loss = 0.5 * jnp.mean((made - jax.lax.stop_gradient(made - gradient))**2)
  return loss, {'loss': loss,
                'dmd_gradient_rms': jnp.sqrt(jnp.mean(gradient**2))}


def score_difference(x_BFHWC, real_BFHWC, fake_BFHWC, sigma_B,
                     weight: str = 'normalised'):
  """Eq. (4); exactly zero where critic and teacher agree."""
  factor = matching.choice(SCORE_WEIGHTS, 'score_weight', weight)
  sigma = jnp.reshape(sigma_B, (-1, 1, 1, 1, 1))
  return (fake_BFHWC - real_BFHWC) * factor(
      matching.scale(x_BFHWC, real_BFHWC), sigma)

"""Distribution matching distillation (Yin et al. 2024; DMD2, Self Forcing).

The gradient of KL(p_student ‖ p_data), smoothed by noise, is a difference of
scores: the frozen teacher's and that of a critic trained on the student's own
samples. A score is that of a Gaussian about the x0 that a network predicts,
s = ((1 - σ) x0 - x_σ) / σ², and dx_σ/dx = 1 - σ. So with the predictions f
(critic) and r (teacher, with guidance) of the noised sample x_σ,

  d KL_σ / dx = (1 - σ) (s_critic - s_teacher) = ((1 - σ) / σ)² (f - r), (1)
  L = ½ mean ‖ x - sg[x - g] ‖²,              so dL/dx = g / numel(x),   (2)

where g is (1) under a weight over the noise levels, `score_weight`:

  'normalised'  g = (f - r) / mean |x - r|    mean over one sample       (3)
                what all released code has
  'paper'       g = (1 - σ) (f - r) / mean |x - r|
                DMD's ω_t (Yin et al. 2024, eq. 8), σ² / (1 - σ) of it, in (1)
  'kl'          (1) itself: levels of little noise outweigh all others
  'none'        g = f - r

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
    config: score_weight, guidance_scale, shift, min_sigma, max_sigma.

  Raises:
    ValueError: for a score_weight that is not one of the above.
  """
  rng_sigma, rng_eps = jax.random.split(rng)
  video = jax.lax.stop_gradient(sample.video_BFHWC)
  levels = matching.noise_levels(rng_sigma, len(video), config)
  x, _, sigma_BF = matching.noised(rng_eps, sample, video, levels)
  real, fake = matching.predictions(networks, sample, x, sigma_BF, config)
  gradient = jax.lax.stop_gradient(score_difference(
      sample.generated(video), real, fake, levels, config.score_weight))
  made = sample.generated(sample.video_BFHWC)
  loss = 0.5 * jnp.mean((made - jax.lax.stop_gradient(made - gradient))**2)
  return loss, {'loss': loss,
                'dmd_gradient_rms': jnp.sqrt(jnp.mean(gradient**2))}


critic_loss = matching.denoising_loss


def score_difference(x_BFHWC, real_BFHWC, fake_BFHWC, sigma_B,
                     weight: str = 'normalised'):
  """g of a weight; exactly zero where critic and teacher agree."""
  if weight not in WEIGHTS:
    raise ValueError(f'score_weight={weight!r} is not one of {tuple(WEIGHTS)} '
                     '(config.*.score_weight).')
  sigma = sigma_B[:, None, None, None, None]
  scale = WEIGHTS[weight](sigma, distance(x_BFHWC, real_BFHWC))
  return scale * (fake_BFHWC - real_BFHWC)


def distance(x_BFHWC, real_BFHWC):
  """mean |x - r| of each sample, [B, 1, 1, 1, 1], never 0."""
  mean = jnp.mean(jnp.abs(x_BFHWC - real_BFHWC), axis=(1, 2, 3, 4),
                  keepdims=True)
  return jnp.maximum(mean, NORMALISER_FLOOR)


# (σ, mean |x - r|) -> what f - r is multiplied by.
WEIGHTS = {
    'normalised': lambda sigma, distance: 1 / distance,
    'paper': lambda sigma, distance: (1 - sigma) / distance,
    'kl': lambda sigma, distance: ((1 - sigma) / sigma)**2,
    'none': lambda sigma, distance: jnp.ones_like(sigma),
}

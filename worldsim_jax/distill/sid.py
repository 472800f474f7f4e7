"""Score identity distillation (Zhou et al. 2024, arXiv 2404.04057; the form of
Self Forcing's code).

DMD follows a gradient without a loss. SiD minimises the Fisher divergence of
the noised distributions, the squared difference of their scores, of which the
critic knows one only approximately. With x the student's sample, x_σ the noised
one, and r and f what teacher and critic make of it,

  L = mean[ (r - f) · ((r - x) - α (r - f)) ] / sg(mean |x - r|),        (1)

where x_σ, r and f carry gradient: through both networks' inputs, whose
parameters are constants to the student's step. α = 1 is Self Forcing's and
leaves (r - f) · (f - x); the authors take 1.2 for images.

Their loss and the difference of the two projected scores are one thing:

  (r - x) - α (r - f) = (f - x) + (1 - α) (r - f).                       (2)

The critic is DMD's.
"""

import jax
import jax.numpy as jnp

from worldsim_jax.distill import dmd
from worldsim_jax.distill import matching


def generator_loss(networks, sample: matching.Sample, rng, config):
  """Eq. (1); see `matching` for the arguments.

  Args:
    config: alpha, guidance_scale, shift, min_sigma, max_sigma.
  """
  rng_sigma, rng_eps = jax.random.split(rng)
  video = sample.video_BFHWC
  levels = matching.noise_levels(rng_sigma, len(video), config)
  x, _, sigma_BF = matching.noised(rng_eps, sample, video, levels)
  real, fake = matching.predictions(networks, sample, x, sigma_BF, config)
  made = sample.generated(video)
  scale = jax.lax.stop_gradient(dmd.distance(made, real))
  difference = real - fake
  loss = jnp.mean(
      difference * ((real - made) - config.alpha * difference) / scale)
  return loss, {'loss': loss,
                'score_difference_rms': jnp.sqrt(jnp.mean(difference**2))}


critic_loss = matching.denoising_loss

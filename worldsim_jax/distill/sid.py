"""Score identity distillation (Zhou et al. 2024, arXiv 2404.04057).

DMD follows a difference of scores; SiD minimises its square, the Fisher
divergence of the noised distributions. With r(x_σ) the teacher's x0-prediction
with guidance and f(x_σ) the critic's,

  L = mean [ (r - f) · ((r - x) - α (r - f)) / sg(mean |x - r|) ],       (1)

the mean of the normaliser being over one sample (Self Forcing's code). Since

  (r - x) - α (r - f) = (f - x) + (1 - α) (r - f),                       (2)

it is the form of texts, (r - f)ᵀ(f - x) + (1 - α) ‖r - f‖². Where f is the
critic of x, E (r - f)ᵀ(f - x) = 0, so (1) is E ‖r - f‖² written in two ways,
the second one subtracted α times. Their values are the same, their gradients
are not, because both take the critic's parameters, which should move with the
student, as fixed. The paper has α = 1.2, Self Forcing 1.0.

x_σ keeps its gradient, and r and f pass it on: a step of the student goes back
through critic and teacher, the memory of which is SiD's price.
"""

import jax
import jax.numpy as jnp

from worldsim_jax.distill import matching

# The levels of noise are the stage's, min_sigma and max_sigma, unless SiD's own
# are given: its paper ends at 800 of 1000 steps, its critic does not.
PUBLISHED = dict(sid_alpha=1.0, sid_min_sigma=None, sid_max_sigma=None)


def generator_loss(networks, sample: matching.Sample, rng, config):
  """Eq. (1); see `matching` for the arguments.

  Args:
    networks: 'teacher', which must be differentiable in x, and 'critic'.
    config: guidance_scale, shift, min_sigma, max_sigma; sid_alpha,
      sid_min_sigma, sid_max_sigma.
  """
  rng_sigma, rng_eps = jax.random.split(rng)
  own = lambda name: matching.setting(config, name, PUBLISHED)
  levels = matching.noise_levels(
      rng_sigma, len(sample.video_BFHWC), config,
      own('sid_min_sigma'), own('sid_max_sigma'))
  x, _, sigma_BF = matching.noised(
      rng_eps, sample, sample.video_BFHWC, levels)
  real, fake = matching.predictions(networks, sample, x, sigma_BF, config)
  made = sample.generated(sample.video_BFHWC)
  loss = jnp.mean(products(made, real, fake, own('sid_alpha')))
  difference = jax.lax.stop_gradient(real - fake)
  return loss, {'loss': loss,
                'score_difference_rms': jnp.sqrt(jnp.mean(difference**2))}


critic_loss = matching.denoising_loss


def products(x_BFHWC, real_BFHWC, fake_BFHWC, alpha: float):
  """Eq. (1) before the mean, like x."""
  apart = real_BFHWC - fake_BFHWC
  return (apart * ((real_BFHWC - x_BFHWC) - alpha * apart)
          / matching.scale(x_BFHWC, real_BFHWC))

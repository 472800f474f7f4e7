"""DMD2 (Yin et al. 2024, arXiv 2405.14867): DMD with an adversarial term.

The critic's backbone carries a discriminator, which sees data and so may
correct what the teacher gets wrong:

  generator  L_DMD + w_G L_G        w_G = 5e-3 (SDXL; 3e-3 for SD 1.5)
  critic     L_denoising + w_D L_D  w_D = 1e-2                           (1)

L_DMD is dmd.py's eq. (5); L_G and L_D are gan.py's (1), non-saturating. Each
side is one pass of the backbone: v and logits are of the same noised clips.

DMD2's other parts are not here, because they are of the stage: its two time
scales are `generator_every`, its backward simulation is the rollout.
"""

import jax

from worldsim_jax.diffusion import objective
from worldsim_jax.distill import dmd
from worldsim_jax.distill import gan
from worldsim_jax.distill import matching

GAN = dict(
    adversarial='softplus', generator_gan_weight=5e-3, critic_gan_weight=1e-2,
    penalty='finite', penalty_weight=0., penalty_sigma=0.01)
PUBLISHED = dmd.PUBLISHED | GAN


def generator_loss(networks, sample: matching.Sample, rng, config):
  """The first of (1); see `matching` for the arguments.

  Args:
    networks: 'teacher', 'discriminator'.
    config: as of dmd.generator_loss and gan.generator_loss.
  """
  rng_sigma, rng_eps, rng_real = jax.random.split(rng, 3)
  levels = matching.noise_levels(rng_sigma, len(sample.video_BFHWC), config)
  x, _, sigma_BF = matching.noised(
      rng_eps, sample, sample.video_BFHWC, levels)
  adversarial, metrics, v = gan.fooling(
      networks, sample, rng_real, x, sigma_BF, config, GAN)
  # Only the logits pass a gradient to the student.
  x, v = jax.lax.stop_gradient((x, v))
  real = matching.teacher_x0(networks, sample, x, sigma_BF, config)
  fake = matching.generated_x0(sample, x, v, sigma_BF)
  matched, dmd_metrics = dmd.pull(sample, real, fake, levels, config)
  loss = matched + adversarial
  return loss, dmd_metrics | metrics | {'loss': loss}


def critic_loss(networks, sample: matching.Sample, rng, config):
  """The second of (1).

  Args:
    networks: 'discriminator'.
    config: critic_weight, and as of gan.critic_loss.
  """
  rng_noise, rng_penalty = jax.random.split(rng)
  pair = gan.noised_pair(rng_noise, sample, config)
  adversarial, metrics, v = gan.telling_apart(
      networks, sample, rng_penalty, pair, config, GAN)
  denoising, denoising_metrics = objective.regression(
      v, pair.target_BFHWC, pair.sigma_BF, sample.generated_F,
      config.critic_weight)
  loss = denoising + adversarial
  return loss, denoising_metrics | metrics | {
      'denoising_loss': denoising, 'loss': loss}

"""What all divergences share: the sample, its noise, and their signature.

A divergence says how a student's samples differ from what they are to be like,
in two losses, of the student and of the network that is its critic:

  loss(networks, sample, rng, config) -> (loss, metrics)

`networks` holds functions (x_BFHWC, timesteps_BF, conditioning) -> v_BFHWC, by
the names 'teacher' and 'critic'. They are closures over parameters: what a loss
is differentiated by is the caller's choice, so a loss stops gradients itself
where its equation does.

The given context is clean for every network; only generated frames are noised,
and only they count.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import guidance
from worldsim_jax.diffusion import objective
from worldsim_jax.models.conditioning import Conditioning


class Sample(NamedTuple):
  """What a student made, and what it was made from.

  Attributes:
    video_BFHWC: the given context, then generated frames, with gradient.
    real_BFHWC: the data's clip with the same context and actions.
    conditioning: of all F frames, with the context's image.
    context_frames: leading frames that are given.
  """
  video_BFHWC: jax.Array
  real_BFHWC: jax.Array
  conditioning: Conditioning
  context_frames: int

  @property
  def generated_F(self):
    """Which frames count, bool [F]."""
    return jnp.arange(self.video_BFHWC.shape[1]) >= self.context_frames

  def generated(self, x_BFHWC):
    """Only the generated frames of an array like the video."""
    return x_BFHWC[:, self.context_frames:]


def noise_levels(rng, batch: int, config):
  """σ [B], one per sample: uniform, shifted, clipped to [min, max]_sigma."""
  return flow.uniform_sigmas(
      rng, (batch,), config.shift, config.min_sigma, config.max_sigma)


def noised(rng, sample: Sample, video_BFHWC, sigma_B):
  """x_σ with clean context, the velocity target, and σ [B, F]."""
  sigma_BF = sigma_B[:, None] * sample.generated_F
  return (*objective.noised(rng, video_BFHWC, sigma_BF), sigma_BF)


def predictions(networks, sample: Sample, x_BFHWC, sigma_BF, config):
  """x0 of the generated frames, as (teacher with guidance, critic)."""
  unguided, conditioning = networks['teacher'], sample.conditioning
  teacher = guidance.guided(
      unguided, conditioning, conditioning.unconditional(),
      config.guidance_scale)
  timesteps = flow.timesteps(sigma_BF)
  x0 = lambda v: sample.generated(flow.x0_from_velocity(x_BFHWC, v, sigma_BF))
  return (x0(teacher(x_BFHWC, timesteps)),
          x0(networks['critic'](x_BFHWC, timesteps, conditioning)))


def denoising_loss(networks, sample: Sample, rng, config):
  """The critic of DMD and SiD: velocity regression on the student's samples.

  Args:
    networks: 'critic'.
    (others: as in the module docstring; config has critic_weight.)
  """
  rng_sigma, rng_eps = jax.random.split(rng)
  video = jax.lax.stop_gradient(sample.video_BFHWC)
  x, target, sigma_BF = noised(
      rng_eps, sample, video, noise_levels(rng_sigma, len(video), config))
  v = networks['critic'](x, flow.timesteps(sigma_BF), sample.conditioning)
  return objective.regression(
      v, target, sigma_BF, sample.generated_F, config.critic_weight)

"""What all divergences share: the sample, its noise, and their signature.

A divergence says how a student's samples differ from what they are to be like,
in two losses, of the student and of the network that is its critic:

  loss(networks, sample, rng, config) -> (loss, metrics)

`networks` holds functions (x_BFHWC, timesteps_BF, conditioning) by name:

  teacher        -> v_BFHWC, frozen
  critic         -> v_BFHWC
  discriminator  -> (v_BFHWC, logits_B), both of one pass of the critic's
                    backbone (models/discriminator.py)

They are closures over parameters: what a loss is differentiated by is the
caller's choice, so a loss stops gradients itself where its equation does.

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

# Mean |x - r| of a sample that the teacher reproduces exactly is 0, and so is
# f - r there when the critic agrees; the floor turns 0/0 into 0.
SCALE_FLOOR = 1e-6


class Sample(NamedTuple):
  """What a student made, and what it was made from.

  Attributes:
    video_BFHWC: the given context, then generated frames, with gradient.
    real_BFHWC: a clip of the data, with the same actions and, unless the video
      is the end of a longer one, the same context.
    conditioning: of all F frames; images are each network's own business.
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


def noise_levels(rng, batch: int, config, minimum: float | None = None,
                 maximum: float | None = None):
  """σ [B], one per sample: uniform, shifted, clipped to [min, max]_sigma.

  Args:
    rng, batch: as named.
    config: shift, min_sigma, max_sigma.
    minimum, maximum: a loss's own, in place of the config's.
  """
  return flow.uniform_sigmas(
      rng, (batch,), config.shift,
      config.min_sigma if minimum is None else minimum,
      config.max_sigma if maximum is None else maximum)


def noised(rng, sample: Sample, video_BFHWC, sigma_B):
  """x_σ with clean context, the velocity target, and σ [B, F].

  What is given has no gradient.
  """
  sigma_BF = sigma_B[:, None] * sample.generated_F
  video_BFHWC = jnp.where(
      sample.generated_F[:, None, None, None], video_BFHWC,
      jax.lax.stop_gradient(video_BFHWC))
  return (*objective.noised(rng, video_BFHWC, sigma_BF), sigma_BF)


def predictions(networks, sample: Sample, x_BFHWC, sigma_BF, config):
  """x0 of the generated frames, as (teacher with guidance, critic).

  No gradient is stopped: SiD's passes both networks.
  """
  real = teacher_x0(networks, sample, x_BFHWC, sigma_BF, config)
  v = networks['critic'](
      x_BFHWC, flow.timesteps(sigma_BF), sample.conditioning)
  return real, generated_x0(sample, x_BFHWC, v, sigma_BF)


def teacher_x0(networks, sample: Sample, x_BFHWC, sigma_BF, config):
  """The teacher's x0 of the generated frames, with guidance."""
  conditioning = sample.conditioning
  teacher = guidance.guided(
      networks['teacher'], conditioning, conditioning.unconditional(),
      config.guidance_scale)
  v = teacher(x_BFHWC, flow.timesteps(sigma_BF))
  return generated_x0(sample, x_BFHWC, v, sigma_BF)


def generated_x0(sample: Sample, x_BFHWC, v_BFHWC, sigma_BF):
  """What a velocity says that the generated frames are."""
  return sample.generated(flow.x0_from_velocity(x_BFHWC, v_BFHWC, sigma_BF))


def scale(x_BFHWC, real_BFHWC):
  """mean |x - r| of each sample, [B, 1, 1, 1, 1], with a floor, no gradient."""
  mean = jnp.mean(jnp.abs(x_BFHWC - real_BFHWC), axis=(1, 2, 3, 4),
                  keepdims=True)
  return jax.lax.stop_gradient(jnp.maximum(mean, SCALE_FLOOR))


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


def setting(config, name: str, published):
  """config.<name>, or what was published where the stage leaves it out."""
  return getattr(config, name, published[name])


def choice(table, name: str, value: str):
  """An entry of a table.

  Raises:
    ValueError: if there is none of that name.
  """
  if value not in table:
    raise ValueError(
        f'{name}={value!r} is not one of {tuple(table)} (config.*.{name}).')
  return table[value]

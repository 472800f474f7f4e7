"""Gaussian data, whose denoiser is known, as latents [B, 1, 1, 1, D].

With x0 ~ N(m, S), x_σ = (1 - σ) x0 + σ ε is normal, too, and

  E[x0 | x_σ] = m + K (x_σ - (1 - σ) m),
  K = (1 - σ) S ((1 - σ)² S + σ² I)⁻¹.

A student that is affine in its noise, x = b + A z, is such data: m = b,
S = A Aᵀ. So its exact critic is known while it moves.
"""

import types

import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.distill import matching
from worldsim_jax.models.conditioning import Conditioning

D = 2
MEAN = np.float32([1.0, -0.5])
COVARIANCE = np.float32([[1.0, 0.6], [0.6, 0.8]])


def config(**changes):
  return types.SimpleNamespace(**dict(
      guidance_scale=1.0, shift=1.0, min_sigma=0.02, max_sigma=0.98,
      critic_weight='none') | changes)


def gain(sigma, covariance):
  """K [B, D, D] of noise levels [B]; for NumPy and JAX."""
  clean = ((1 - sigma)**2)[:, None, None] * covariance
  total = clean + (sigma**2)[:, None, None] * np.eye(D, dtype=np.float32)
  linalg = np.linalg if isinstance(total, np.ndarray) else jnp.linalg
  return (1 - sigma)[:, None, None] * covariance @ linalg.inv(total)


def denoised(x_BD, sigma_B, mean, covariance):
  """E[x0 | x_σ]."""
  apart = x_BD - (1 - sigma_B)[:, None] * mean
  return mean + (gain(sigma_B, covariance) @ apart[..., None])[..., 0]


def denoiser(mean, covariance):
  """The exact network of this data: (x, timesteps, conditioning) -> v."""
  def velocity(x, timesteps, unused_conditioning):
    sigma = timesteps[:, 0] / flow.NUM_TIMESTEPS
    x0 = denoised(x[:, 0, 0, 0], jnp.asarray(sigma), mean, covariance)
    return flow.velocity_from_x0(x, x0[:, None, None, None], timesteps / 1000)

  return velocity


def student(params, z_BD):
  """x = b + A z, as a video."""
  return (params['b'] + z_BD @ params['A'].T)[:, None, None, None]


def networks(params, teacher=None):
  """The exact teacher and the exact critic of a student's parameters."""
  return {
      'teacher': teacher or denoiser(MEAN, COVARIANCE),
      'critic': denoiser(params['b'], params['A'] @ params['A'].T),
  }


def sample(video):
  return matching.Sample(video, video, Conditioning(), 0)

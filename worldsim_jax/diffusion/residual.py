"""The residual parameterization: a network that corrects a known image.

Given an image y that x0 should resemble (the frame before), write d = x0 - y,
with
standard deviation s. A noised frame x_σ = (1 - σ) x0 + σ ε shows of d

  r = x_σ - (1 - σ) y = (1 - σ) d + σ ε,      n² = (1 - σ)² s² + σ²,     (1)

where n is the standard deviation of r. Preconditioning as in EDM (Karras et al.
2022, Sec. 5), the network reads r / n and answers u ≈ N(0, 1), and

  x0 = y + c_skip r + c_out u,  c_skip = (1 - σ) s² / n²,  c_out = s σ / n. (2)

At σ = 1 this is y + s u, at σ = 0 it is x_σ whatever u says. The velocity
(x_σ - x0) / σ has no pole at 0:

  v = -y + (σ - (1 - σ) s²) / n² · r - (s / n) u.                        (3)

So regressing v weighs the error of u by s² / n², for s ≤ 1 between s² and
1 + s². A network whose head starts at zero starts at 'nothing moves, remove the
noise', which is where a small model has to be before it can learn how things
move.
"""

import jax.numpy as jnp

from worldsim_jax.diffusion import flow


def network_input(x_BFHWC, image_BFHWC, sigma_BF, std: float):
  """r / n of eq. (1)."""
  sigma = flow.per_frame(sigma_BF, x_BFHWC)
  return (x_BFHWC - (1 - sigma) * image_BFHWC) / _scale(sigma, std)


def velocity(u_BFHWC, x_BFHWC, image_BFHWC, sigma_BF, std: float):
  """Eq. (3): the velocity that the network's output u stands for."""
  sigma = flow.per_frame(sigma_BF, x_BFHWC)
  n = _scale(sigma, std)
  r = x_BFHWC - (1 - sigma) * image_BFHWC
  return ((sigma - (1 - sigma) * std**2) / n**2 * r
          - image_BFHWC - std / n * u_BFHWC)


def _scale(sigma, std: float):
  return jnp.sqrt((1 - sigma)**2 * std**2 + sigma**2)

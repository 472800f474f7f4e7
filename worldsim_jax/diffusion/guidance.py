"""Classifier-free guidance, in the form v = v_uncond + w (v_cond - v_uncond).

w = 1 is no guidance. Upstream's video distillation code writes
v_cond + w' (v_cond - v_uncond) instead: w = w' + 1, so Self Forcing's published
`guidance_scale: 3.0` is w = 4 here.
"""

import jax
import jax.numpy as jnp


def guide(v_cond, v_uncond, scale: float):
  """Moves a prediction away from the unconditional one."""
  return v_uncond + scale * (v_cond - v_uncond)


def guided(velocity_fn, conditioning, unconditional, scale: float):
  """Wraps `velocity_fn(x, timesteps, conditioning)` with guidance.

  Both predictions are one call at twice the batch. With scale 1 the second one
  is not computed.

  Args:
    velocity_fn: see above.
    conditioning, unconditional: two `Conditioning`s with the same streams.
    scale: w.

  Returns:
    A function (x_BFHWC, timesteps_BF) -> velocity_BFHWC.
  """
  if scale == 1.:
    return lambda x, t: velocity_fn(x, t, conditioning)
  # Explicit masks, without which the two would differ in structure.
  both = jax.tree.map(
      lambda a, b: jnp.concatenate([a, b]), conditioning.with_masks(),
      unconditional.with_masks())

  def fn(x_BFHWC, timesteps_BF):
    v = velocity_fn(jnp.concatenate([x_BFHWC, x_BFHWC]),
                    jnp.concatenate([timesteps_BF, timesteps_BF]), both)
    return guide(*jnp.split(v, 2), scale)

  return fn

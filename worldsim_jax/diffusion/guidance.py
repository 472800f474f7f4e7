"""Classifier-free guidance, in the two forms that scales are published for.

  standard  v_uncond + w (v_cond - v_uncond)     w = 1 is none   (Wan, DMD2)
  extra     v_cond + w' (v_cond - v_uncond)      w' = 0 is none  (Self Forcing)

w = w' + 1: Self Forcing's published `guidance_scale: 3.0` is w = 4. Our configs
hold w; the other form is for upstream's numbers as they are.
"""

import jax
import jax.numpy as jnp


# Each form's scale that changes nothing.
NONE = {'standard': 1., 'extra': 0.}


def guide(v_cond, v_uncond, scale: float, form: str = 'standard'):
  """Moves a prediction away from the unconditional one.

  Raises:
    ValueError: for a form that is not one of the two above.
  """
  _check(form)
  base = v_uncond if form == 'standard' else v_cond
  return base + scale * (v_cond - v_uncond)


def guided(velocity_fn, conditioning, unconditional, scale: float,
           form: str = 'standard'):
  """Wraps `velocity_fn(x, timesteps, conditioning)` with guidance.

  Both predictions are one call at twice the batch. With a scale that means no
  guidance the second one is not computed.

  Args:
    velocity_fn: see above. A model with a cache returns (v, KeyValues); these
      are of both halves of the batch, and so must the cache be.
    conditioning, unconditional: two `Conditioning`s with the same streams.
    scale: w of the form.
    form: 'standard' or 'extra'.

  Returns:
    A function (x_BFHWC, timesteps_BF) -> velocity_BFHWC, or (v, KeyValues).
  """
  _check(form)
  if scale == NONE[form]:
    return lambda x, t: velocity_fn(x, t, conditioning)
  # Explicit masks, without which the two would differ in structure.
  both = jax.tree.map(
      lambda a, b: jnp.concatenate([a, b]), conditioning.with_masks(),
      unconditional.with_masks())

  def fn(x_BFHWC, timesteps_BF):
    out = velocity_fn(jnp.concatenate([x_BFHWC, x_BFHWC]),
                      jnp.concatenate([timesteps_BF, timesteps_BF]), both)
    v, *kv = out if isinstance(out, tuple) else (out,)
    guided_v = guide(*jnp.split(v, 2), scale, form)
    return (guided_v, *kv) if kv else guided_v

  return fn


def _check(form: str):
  if form not in NONE:
    raise ValueError(f'guidance form={form!r} is not one of {tuple(NONE)}.')

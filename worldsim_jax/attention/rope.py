"""Rotary positions over (frame, height, width), as in Wan 2.1.

A head's D/2 complex channels are split between the axes as
[D/2 - 2 (D/2 // 3), D/2 // 3, D/2 // 3]; axis a with d_a complex channels turns
channel i of a token at position p by the angle

  θ = p · 10000^(-i / d_a).                                              (1)

Pairs are interleaved: (x[2i], x[2i+1]) is one complex number. Angles come from
a position vector, not a table, so frame positions may be any integers, may
repeat (the two halves of teacher forcing) and have no upper limit.

Where it is known where a view heads, columns can be directions of the world
(`directions`): tokens of two frames that look the same way then have the same
angle, however the camera has turned between. Cameras in rotary positions are
not Wan's; see Li et al. 2025, arXiv 2507.10496, for whole projections.
"""

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.parallel import layout

THETA = 10_000.


def axis_channels(head_dim: int) -> tuple[int, int, int]:
  """Complex channels of the (frame, height, width) axes; 22, 21, 21 for 128."""
  half = head_dim // 2
  return half - 2 * (half // 3), half // 3, half // 3


def angles(frame_positions_F, height: int, width: int, head_dim: int):
  """Returns the angles of eq. (1), float32 [F, N, D/2], N = height * width."""
  if head_dim % 2 or head_dim < 6:
    raise ValueError(
        f'head_dim={head_dim} must be even and at least 6, a channel pair for '
        'each axis (config.model.dim / config.model.num_heads).')
  frames, rows, columns = (
      _ladder(position, channels) for position, channels in zip(
          (frame_positions_F, jnp.arange(height), jnp.arange(width)),
          axis_channels(head_dim)))
  grid = (len(frames), height, width)
  parts = (frames[:, None, None], rows[None, :, None], columns[None, None])
  table = jnp.concatenate(
      [jnp.broadcast_to(p, (*grid, p.shape[-1])) for p in parts], axis=-1)
  return table.reshape(len(frames), height * width, head_dim // 2)


def directions(heading_BF, height: int, width: int, head_dim: int,
               field_of_view: float):
  """What makes directions of columns, if it is added to `angles`.

  A token of column c looks φ = heading - atan((c + ½ - W/2) / f) to the left,
  where f = W/2 / tan(field of view / 2). Channel i turns by -m_i φ in place of
  eq. (1); the m_i are whole numbers, so that a whole turn is none, and go from
  2 f, for half a column, down to 1.

  Args:
    heading_BF: radians to the left.
    height, width, head_dim: as above.
    field_of_view: of the picture's width, degrees below 180.

  Returns:
    float32 [B, F, N, D/2].
  """
  frames, rows, channels = axis_channels(head_dim)
  column = np.arange(width)
  focal = width / 2 / np.tan(np.radians(field_of_view) / 2)
  multiples = np.round(np.geomspace(max(2 * focal, 1), 1, channels))
  right_BFW = np.arctan((column + .5 - width / 2) / focal) - jnp.asarray(
      heading_BF, jnp.float32)[..., None]
  turned = right_BFW[..., None] * multiples - _ladder(column, channels)
  turned = jnp.pad(turned, ((0, 0),) * 3 + ((frames + rows, 0),))
  return jnp.tile(turned, (1, 1, height, 1))


def rotate(x_BFNHD, angles_FND):
  """Turns each channel pair by its token's angle; keeps shape and dtype.

  The angles may also be those of each sample, [B, F, N, D/2].
  """
  cos = jnp.cos(angles_FND)[..., None, :]
  sin = jnp.sin(angles_FND)[..., None, :]
  if layout.platform() == 'tpu':
    return _rotate_by_product(x_BFNHD, cos, sin)
  pairs = x_BFNHD.astype(jnp.float32).reshape(*x_BFNHD.shape[:-1], -1, 2)
  real, imaginary = pairs[..., 0], pairs[..., 1]
  turned = jnp.stack(
      [real * cos - imaginary * sin, real * sin + imaginary * cos], axis=-1)
  return turned.reshape(x_BFNHD.shape).astype(x_BFNHD.dtype)


def _rotate_by_product(x_BFNHD, cos, sin):
  """The same, with (-x1, x0) for each pair as a matrix product.

  Pairs as an axis of two would be padded to a TPU's tiles of 128: six times the
  memory traffic. The product's matrix holds one ±1 per row, so it is exact.
  """
  channel = np.arange(x_BFNHD.shape[-1])
  swap = np.zeros((len(channel),) * 2, np.float32)
  swap[channel, channel ^ 1] = np.where(channel % 2, -1, 1)
  swapped = jax.lax.dot_general(
      x_BFNHD, jnp.asarray(swap, x_BFNHD.dtype), (((4,), (0,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
  both = lambda y: jnp.repeat(y, 2, axis=-1)
  turned = x_BFNHD.astype(jnp.float32) * both(cos) + swapped * both(sin)
  return turned.astype(x_BFNHD.dtype)


def _ladder(positions, channels: int) -> jax.Array:
  frequencies = THETA ** (-jnp.arange(channels) / channels)
  return jnp.asarray(positions, jnp.float32)[:, None] * frequencies

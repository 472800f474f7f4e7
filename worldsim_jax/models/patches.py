"""Latent frames as tokens and back: patches, and the place of each pixel."""

import jax.numpy as jnp
import numpy as np


def coordinates(like_BFHWC):
  """Row and column of each latent pixel, -1 to 1: two [B, F, H, W, 1]."""
  shape = (*like_BFHWC.shape[:-1], 1)
  row, column = (jnp.linspace(-1., 1., size) for size in shape[2:4])
  return [jnp.broadcast_to(row[:, None, None], shape),
          jnp.broadcast_to(column[:, None], shape)]


def patchify(x_BFHWC, patch, halo: int = 0):
  """[B, F, H, W, C] -> [B, F, N, p q C], tokens row by row.

  With a halo, a token also holds that many latent pixels on each side of its
  patch, zeros beyond the border: (p + 2 halo) (q + 2 halo) C channels.
  """
  b, f, h, w, c = x_BFHWC.shape
  p, q = patch
  if h % p or w % q:
    raise ValueError(f'patch={patch} must divide the latent size {(h, w)} '
                     '(config.model.patch).')
  rows, columns = (
      np.arange(size // step)[:, None] * step + np.arange(step + 2 * halo)
      for size, step in ((h, p), (w, q)))
  padded = jnp.pad(
      x_BFHWC, ((0, 0), (0, 0), (halo, halo), (halo, halo), (0, 0)))
  x = padded[:, :, rows][:, :, :, :, columns]  # [B, F, h/p, p', w/q, q', C]
  x = x.transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, f, rows.shape[0] * columns.shape[0], -1)


def unpatchify(x_BFNC, grid, patch):
  """The inverse of `patchify`."""
  b, f = x_BFNC.shape[:2]
  (h, w), (p, q) = grid, patch
  x = x_BFNC.reshape(b, f, h, w, p, q, -1).transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, f, h * p, w * q, -1)

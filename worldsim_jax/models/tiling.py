"""Large and long videos through a VAE in bounded memory: chunks and tiles.

For any VAE whose encode and decode take and return a carry (`wan_vae`,
`tiny_vae`). Chunks of time are exact. Tiles of the frame are not: a tile sees
zeros beyond its edges, and attention sees the tile only. Where tiles overlap
they are cross-faded,

  out = Σ_i w_i out_i / Σ_i w_i                                          (1)

with w_i rising linearly from tile i's edge to the end of the overlap. Upstream
blends likewise, with tiles of 32 x 32 latents and an overlap of 8; but here all
tiles have one size, the last ones moved inwards, so that one program serves
all of them, in a loop on the device.

What is live at a time: the input, the output, and one chunk of one tile with
its caches. For the Wan VAE in float32, tiles of 32 x 32 latents and chunks of
one latent, the CPU compiler plans 1.3 GiB beside weights, input and output to
decode 720p (bfloat16: 1.2), for 3 latents as for 21, and as much for 480p;
without tiles 16.8 GiB (12.0) for 720p and 7.3 for 480p. Measured with base=32:
two latents of 720p took a process on CPU from 0.58 to at most 0.99 GiB, 0.28 of
them planned and 0.05 the video.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def decode(vae: nn.Module, variables: Any, latents_BFHWC, *,
           chunk: int | None = 1, tile: tuple[int, int] | None = None,
           overlap: int = 8, clip: bool = True):
  """The whole video [B, P, H, W, 3] of the whole latents.

  Args:
    vae: its module.
    variables: as `vae.apply` takes them.
    latents_BFHWC: as `vae.decode` takes them.
    chunk: latents decoded at a time, after the first one, which goes alone;
      None for all at once.
    tile: height and width in latents; None for whole frames.
    overlap: of neighbouring tiles, in latents.
    clip: to [0, 1], after blending.

  Raises:
    ValueError: if the tiles do not overlap as told.
  """
  def step(latents, carry):
    return vae.apply(variables, latents, carry, clip=False, method='decode')

  video_BPHWC = _in_tiles(
      lambda x: _in_chunks(step, x, chunk), latents_BFHWC, tile, overlap,
      1, vae.space_stride)
  return jnp.clip(video_BPHWC, 0, 1) if clip else video_BPHWC


def encode(vae: nn.Module, variables: Any, video_BPHWC, *,
           chunk: int | None = 1, tile: tuple[int, int] | None = None,
           overlap: int = 8):
  """The latents [B, F, h, w, C] of a whole video; arguments as in `decode`."""
  def step(video, carry):
    return vae.apply(variables, video, carry, method='encode')

  frames = chunk and chunk * vae.time_stride
  return _in_tiles(
      lambda x: _in_chunks(step, x, frames), video_BPHWC, tile, overlap,
      vae.space_stride, 1)


def _in_chunks(step: Callable, x_BFHWC, chunk: int | None):
  """step(x, carry) -> (y, carry) over x: frame 0, then `chunk` at a time."""
  if chunk is None or x_BFHWC.shape[1] == 1:
    return step(x_BFHWC, None)[0]
  y, carry = step(x_BFHWC[:, :1], None)
  chunks, rest = divmod(x_BFHWC.shape[1] - 1, chunk)
  out = [y]

  def body(carry, i):
    x = jax.lax.dynamic_slice_in_dim(x_BFHWC, 1 + i * chunk, chunk, axis=1)
    y, carry = step(x, carry)
    return carry, y

  if chunks:
    carry, y = jax.lax.scan(body, carry, jnp.arange(chunks))
    y = jnp.moveaxis(y, 0, 1)
    out.append(y.reshape(y.shape[0], -1, *y.shape[3:]))
  if rest:
    out.append(step(x_BFHWC[:, -rest:], carry)[0])
  return jnp.concatenate(out, axis=1)


def _in_tiles(run: Callable, x_BFHWC, tile, overlap, scale_in, scale_out):
  """Eq. (1) of `run` over tiles; the scales are pixels per latent."""
  size = [n // scale_in for n in x_BFHWC.shape[2:4]]
  if tile is None or all(t >= n for t, n in zip(tile, size)):
    return run(x_BFHWC)
  tile = [min(t, n) for t, n in zip(tile, size)]
  starts = [_starts(n, t, overlap) for n, t in zip(size, tile)]
  weights = [_weights(s, t, scale_out) for s, t in zip(starts, tile)]
  # For each tile, by rows: its corner in latents and its weights.
  y, x = (i.reshape(-1) for i in np.indices([len(s) for s in starts]))
  tiles = jax.tree.map(
      jnp.asarray, (starts[0][y], starts[1][x], weights[0][y], weights[1][x]))

  def cut(row, column):
    before, (height, width) = x_BFHWC.shape[:2], tile
    return jax.lax.dynamic_slice(
        x_BFHWC, (0, 0, row * scale_in, column * scale_in, 0),
        (*before, height * scale_in, width * scale_in, x_BFHWC.shape[-1]))

  def body(canvas, one):
    row, column, weight_H, weight_W = one
    y = run(cut(row, column)) * weight_H[:, None, None] * weight_W[:, None]
    corner = (0, 0, row * scale_out, column * scale_out, 0)
    y += jax.lax.dynamic_slice(canvas, corner, y.shape)
    return jax.lax.dynamic_update_slice(canvas, y, corner), None

  out = jax.eval_shape(lambda: run(cut(0, 0)))
  canvas = jnp.zeros(
      (*out.shape[:2], *(scale_out * n for n in size), out.shape[-1]),
      out.dtype)
  return jax.lax.scan(body, canvas, tiles)[0]


def _starts(size: int, tile: int, overlap: int):
  """Where tiles begin that cover `size` and overlap by at least `overlap`."""
  if size <= tile:
    return np.zeros(1, int)
  if not 0 <= overlap < tile:
    raise ValueError(
        f'Tiles of {tile} latents cannot overlap by {overlap}: overlap must '
        'be at least 0 and smaller than the tile.')
  return np.array([*range(0, size - tile, tile - overlap), size - tile])


def _weights(starts, tile: int, scale: int):
  """w_i / Σ w of eq. (1) along an axis, [tiles, tile * scale]."""
  starts, tile = scale * starts, scale * tile
  centre = np.arange(tile) + .5
  ramps = np.ones((len(starts), tile))
  for i, gap in enumerate(np.diff(starts)):
    if gap < tile:
      rise = np.minimum(1, centre / (tile - gap))
      ramps[i] *= rise[::-1]
      ramps[i + 1] *= rise
  total = np.zeros(starts[-1] + tile)
  for start, ramp in zip(starts, ramps):
    total[start:start + tile] += ramp
  shares = [ramp / total[start:start + tile]
            for start, ramp in zip(starts, ramps)]
  return np.stack(shares).astype(np.float32)

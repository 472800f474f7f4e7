"""Pixels as bytes, on disk and on the wire, and as floats in [0, 1]."""

import jax.numpy as jnp


def to_uint8(video):
  """[0, 1] floats to bytes, on the device: a quarter of the transfer."""
  return jnp.round(jnp.clip(video, 0, 1) * 255).astype(jnp.uint8)


def to_float(video):
  """Bytes to floats in [0, 1]; floats pass."""
  if video.dtype == jnp.uint8:
    return video.astype(jnp.float32) / 255
  return video

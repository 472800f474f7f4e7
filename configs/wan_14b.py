"""Wan 2.1 at its published sizes, 14B: bidirectional, then causal.

As configs/wan_1_3b.py. Streaming on four chips wants the heads split between
them: --config.mesh.fsdp=1 --config.mesh.tensor=4.

Command:  python -m worldsim_jax.main --config=configs/wan_14b.py:published \
            --workdir=gs://bucket/wan_14b --config.data.latents=LATENTS \
            --config.text.path=weights/wan_14b/text_encoder
Machine:  slices that it fits are in README; time, quality: not yet measured.
Laptop:   --config=configs/wan_14b.py:tiny, or :tiny,wan_vae (from :wan_vae)
"""

from configs import wan
from ml_collections import ConfigDict


def get_config(arg: str = '') -> ConfigDict:
  """`arg`: '', 'tiny', 'wan_vae', 'tiny,wan_vae' or 'published'."""
  return wan.vary(
      wan.wan(wan.MODEL_14B), arg, teacher='weights/wan_14b')

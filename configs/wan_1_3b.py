"""Wan 2.1 at its published sizes, 1.3B: bidirectional, then causal.

480x832 pixels at 16 frames/s, 81 frames: 21 latent frames of 1,560 tokens;
streamed in chunks of 3 latent frames with a window of 21 (Wan Team 2025, arXiv
2503.20314; Huang et al. 2025), after 3 given ones. The tokenizer is TAEHV's;
`wan_vae` takes Wan's own, and a latent set; `published` the teacher's, too.

Weights:  --mode=convert --source=Wan2.1-T2V-1.3B --target=weights/wan_1_3b
Command:  python -m worldsim_jax.main --config=configs/wan_1_3b.py:published \
            --workdir=runs/wan_1_3b --config.data.latents=LATENTS \
            --config.text.path=weights/wan_1_3b/text_encoder
Machine:  slices that it fits are in README; time, quality: not yet measured.
Laptop:   --config=configs/wan_1_3b.py:tiny, or :tiny,wan_vae (from :wan_vae)
"""

from configs import wan
from ml_collections import ConfigDict


def get_config(arg: str = '') -> ConfigDict:
  """`arg`: '', 'tiny', 'wan_vae', 'tiny,wan_vae' or 'published'."""
  return wan.vary(wan.wan(wan.MODEL_1_3B), arg, teacher='weights/wan_1_3b')

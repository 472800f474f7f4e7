"""Wan 2.1 at its published sizes, 14B: bidirectional, then causal.

As configs/wan_1_3b.py, with four chips to a copy of the heads: one layer of
this model is as large as ten of the other.

Command:  python -m worldsim_jax.main --config=configs/wan_14b.py \
            --workdir=gs://bucket/wan_14b --config.text.path=weights/umt5
Machine:  slices that it fits are in README; time, quality: not yet measured.
Laptop:   --config=configs/wan_14b.py:tiny
"""

from configs import wan_1_3b
from ml_collections import ConfigDict


def get_config(arg: str = '') -> ConfigDict:
  """The config; `arg` is '' or 'tiny'."""
  config = wan_1_3b.wan(wan_1_3b.MODEL_14B, arg)
  config.mesh.tensor = 1 if arg == 'tiny' else 4
  return config

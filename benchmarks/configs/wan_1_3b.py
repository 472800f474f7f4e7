"""The sizes of Wan 2.1 1.3B as Self Forcing streams it; for benchmarks only.

480x832 pixels, 1560 tokens per latent frame, chunks of 3 latent frames (12
pixel frames), a window of 21; a training step sees 21 latent frames, 32,760
tokens (Huang et al. 2025; Wan Team 2025). One stage, the bidirectional one,
whose attention is fused on a GPU; masked attention is not yet.

Command:  python -m benchmarks.run stream \
            --config=benchmarks/configs/wan_1_3b.py
Machine:  one 80 GB GPU; not yet measured.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.stages = ('teacher',)
  config.data.update(dict(
      height=480, width=832, actions=False, frames_per_second=16.,
      num_frames=81))
  config.vae.update(dict(time_strides=(2, 2, 1), dtype='bfloat16'))
  config.model.update(dict(
      dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, image=False,
      parameterization='velocity', dtype='bfloat16', remat='full'))
  config.text.update(dict(dim=4096, length=512))
  config.student.update(dict(
      chunk=3, context_frames=3, shift=5., window=21, sink=0))
  config.teacher.update(dict(batch_size=1, clip_frames=21))
  config.evaluate.horizon = 48
  return config

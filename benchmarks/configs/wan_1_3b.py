"""configs/wan_1_3b.py on one GPU: one stage, one clip; for benchmarks only.

480x832 pixels, 1560 tokens per latent frame, chunks of 3 latent frames (12
pixel frames), a window of 21; a training step sees 21 latent frames, 32,760
tokens (Huang et al. 2025; Wan Team 2025). One stage, the bidirectional one,
whose attention is fused on a GPU; masked attention is not yet.

Command:  python -m benchmarks.run stream \
            --config=benchmarks/configs/wan_1_3b.py
Machine:  one 80 GB GPU; not yet measured.
"""

from configs import wan_1_3b
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = wan_1_3b.get_config()
  config.stages = ('teacher',)
  config.student.weights_dtype = 'float32'
  config.teacher.batch_size = 1
  config.evaluate.horizon = 48
  return config

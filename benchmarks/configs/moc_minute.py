"""configs/moc_minute.py on one GPU: one clip, two stages; for benchmarks only.

The dense stage and the last one with a Mixture of Contexts, of which a training
step sees 180,000 tokens of a 1.3B model: what the paper compares (2.2 times,
Cai et al. 2025).

Command:  python -m benchmarks.run train_step \
            --config=benchmarks/configs/moc_minute.py
Machine:  one 80 GB GPU; not yet measured.
"""

from configs import moc_minute
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = moc_minute.get_config()
  config.stages = ('teacher', config.stages[-1])
  config.mesh.context = 1
  for name in config.stages:
    config[name].update(dict(batch_size=1, start_from=''))
  return config

"""Teacher Forcing on Wan 1.3B: the causal many-step model that others start at.

Chunks of 3 latent frames at levels of their own, each reading a clean past
(Self Forcing's baseline, Huang et al. 2025; values of Causal Forcing's first
stage, thu-ml/Causal-Forcing: 2e-6, betas 0 and 0.999, shift 5, weighted by
'bsmntw'). Its stream takes 50 steps of Euler a chunk; upstream takes 50 of
UniPC, with guidance, which streams here do without.

Weights:  :published takes Wan's own; see configs/wan_1_3b.py
Command:  python -m worldsim_jax.main \
            --config=configs/teacher_forcing.py:published \
            --workdir=gs://bucket/teacher_forcing \
            --config.data.latents=LATENTS \
            --config.text.path=weights/wan_1_3b/text_encoder
Machine:  slices that it fits are in README; time, quality: not yet measured.
Laptop:   --config=configs/teacher_forcing.py:tiny
"""

from configs import wan
from ml_collections import ConfigDict


def get_config(arg: str = '') -> ConfigDict:
  """The config; `arg` is '', 'tiny' or 'published'."""
  config = many_steps(wan.wan(wan.MODEL_1_3B), arg)
  regression(config.teacher_forcing)
  return wan.vary(config, arg, teacher='weights/wan_1_3b')


def many_steps(config: ConfigDict, arg: str) -> ConfigDict:
  """A stream of 50 steps, few if tiny."""
  size = 250 if 'tiny' in arg else 20
  config.student.update(dict(
      step='euler', timesteps=tuple(range(1000, 0, -size))))
  return config


def regression(stage: ConfigDict):
  """The published values of a causal model's training."""
  stage.update(dict(weight='bsmntw', num_steps=6000))
  stage.optimizer.update(dict(
      learning_rate=2e-6, schedule='constant', warmup_steps=0, b1=0.))

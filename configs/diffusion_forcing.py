"""Diffusion Forcing: every chunk at a noise level of its own, the past as well.

Chen et al. 2024, arXiv 2407.01392, in the transformer: Wan 1.3B, chunks of 3
latent frames, under the block-causal mask (Self Forcing's baseline; its values
are those of configs/teacher_forcing.py). What is streamed is denoised by 50
steps of Euler a chunk after a clean past; forcing/schedules.py has the other
sampling matrices, and student.context_sigma is the stabilisation level.

Weights:  :published takes Wan's own; see configs/wan_1_3b.py
Command:  python -m worldsim_jax.main \
            --config=configs/diffusion_forcing.py:published \
            --workdir=gs://bucket/diffusion_forcing \
            --config.data.latents=LATENTS \
            --config.text.path=weights/wan_1_3b/text_encoder
Machine:  slices that it fits are in README; time, quality: not yet measured.
Laptop:   --config=configs/diffusion_forcing.py:tiny
"""

from configs import stages
from configs import teacher_forcing
from configs import wan
from ml_collections import ConfigDict


def get_config(arg: str = '') -> ConfigDict:
  """The config; `arg` is '', 'tiny' or 'published'."""
  config = teacher_forcing.many_steps(wan.wan(wan.MODEL_1_3B), arg)
  config.stages = ('tokenizer', 'teacher', 'diffusion_forcing')
  config.diffusion_forcing = stages.diffusion_forcing(
      start_from='teacher', batch_size=64, clip_frames=21, context_frames=3)
  teacher_forcing.regression(config.diffusion_forcing)
  config.diffusion_forcing.optimizer.b2 = 0.999
  return wan.vary(config, arg, teacher='weights/wan_1_3b')

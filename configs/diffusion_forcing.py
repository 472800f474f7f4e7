"""Diffusion Forcing: every chunk at a noise level of its own, the past as well.

Chen et al. 2024, arXiv 2407.01392, in the transformer: Wan 1.3B, chunks of 3
latent frames, under the block-causal mask (Self Forcing's baseline; its values
are those of configs/teacher_forcing.py). What is streamed is denoised by 50
steps of Euler a chunk after a clean past; forcing/schedules.py has the other
sampling matrices, and student.context_sigma is the stabilisation level.

:rnn is the original, with a state instead of a window, so that a stream may go
on for ever: on the quickstart's world in its latents, weighted by 'fused_snr';
optimiser, batch, length and steps are those of upstream's branch `paper` for
DMLab (36 frames, 100 sampling steps). There frames are stacked by four, actions
are not given and the network is larger; models/recurrent.py says what differs.

Weights:  :published takes Wan's own; see configs/wan_1_3b.py
Command:  python -m worldsim_jax.main \
            --config=configs/diffusion_forcing.py:published \
            --workdir=gs://bucket/diffusion_forcing \
            --config.data.latents=LATENTS \
            --config.text.path=weights/wan_1_3b/text_encoder
Machine:  slices that it fits are in README; time, quality: not yet measured.
Laptop:   --config=configs/diffusion_forcing.py:tiny, or :rnn,tiny
"""

from configs import arguments
from configs import quickstart
from configs import stages
from configs import teacher_forcing
from configs import wan
from ml_collections import ConfigDict


def get_config(arg: str = '') -> ConfigDict:
  """The config; `arg` is '', 'tiny', 'published', 'rnn' or 'rnn,tiny'."""
  variants = arguments.words(arg, 'rnn', 'tiny', 'wan_vae', 'published')
  if 'rnn' in variants:
    return recurrent('tiny' in variants)
  config = teacher_forcing.many_steps(wan.wan(wan.MODEL_1_3B), arg)
  config.stages = ('tokenizer', 'teacher', 'diffusion_forcing')
  config.diffusion_forcing = stages.diffusion_forcing(
      start_from='teacher', batch_size=64, clip_frames=21, context_frames=3)
  teacher_forcing.regression(config.diffusion_forcing)
  config.diffusion_forcing.optimizer.b2 = 0.999
  return wan.vary(config, arg, teacher='weights/wan_1_3b')


def recurrent(is_tiny: bool) -> ConfigDict:
  """The original, with a state instead of a window."""
  config = quickstart.get_config()
  config.stages = ('tokenizer', 'diffusion_forcing')
  config.data.num_frames = 72
  config.model = ConfigDict(dict(
      kind='recurrent', dim=64, num_layers=2, freq_dim=256, image=True,
      coordinates=True, parameterization='residual', residual_std=0.7,
      dtype='float32', remat='none'))
  config.diffusion_forcing = stages.diffusion_forcing(
      num_steps=100_000, batch_size=32, clip_frames=36, context_frames=0,
      weight='fused_snr', shift=1., guidance_dropout=0.)
  config.diffusion_forcing.optimizer.update(dict(
      learning_rate=2e-4, warmup_steps=5000, schedule='constant',
      weight_decay=2e-3))
  config.student.update(dict(
      step='euler', shift=1., timesteps=tuple(range(1000, 0, -10))))
  config.evaluate.teacher = 'diffusion_forcing'
  if is_tiny:
    quickstart.smoke(config, dim=16, num_layers=1)
    config.student.timesteps = (1000, 500)
  return config

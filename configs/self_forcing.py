"""Self Forcing with DMD: a Wan 14B teacher, a 1.3B student and a 1.3B critic.

The published recipe (Huang et al. 2025, arXiv 2506.08009, and its released
code): 480x832, 21 latent frames, chunks of 3, four steps, 64 clips a step, the
critic in every step and the student in every fifth, an average from the 200th
update. Published cost: 600 steps in under 2 h on 64 H100. Here the student
continues 3 given frames. Captions are embedded by umT5, of the folder
config.text.path. With `published`, tokenizer, teacher and base are Wan's own
(configs/wan_1_3b.py says how its weights get into weights/).

Command:  python -m worldsim_jax.main \
            --config=configs/self_forcing.py:published \
            --workdir=gs://bucket/self_forcing --config.data.latents=LATENTS \
            --config.text.path=weights/wan_1_3b/text_encoder
Machine:  slices that it fits are in README; time, quality: not yet measured.
Laptop:   --config=configs/self_forcing.py:tiny
"""

from configs import wan_1_3b
from ml_collections import ConfigDict


def get_config(arg: str = '') -> ConfigDict:
  """The config; `arg` is '', 'tiny' or 'published'."""
  config = wan_1_3b.wan(wan_1_3b.MODEL_1_3B, '', '')
  config.stages = ('tokenizer', 'base', 'teacher', 'teacher_forcing',
                   'self_forcing')
  config.base = config.teacher.copy_and_resolve_references()
  config.teacher.model = wan_1_3b.MODEL_14B
  config.teacher_forcing.start_from = 'base'
  config.self_forcing.update(dict(
      num_steps=600, batch_size=64, clip_frames=21, guidance_scale=4.,
      frozen_dtype='bfloat16', ema=0.99, ema_start=40))
  config.self_forcing.critic.start_from = 'base'
  for network, learning_rate in ((config.self_forcing, 2e-6),
                                 (config.self_forcing.critic, 4e-7)):
    network.optimizer.update(dict(
        learning_rate=learning_rate, warmup_steps=0, b2=0.999, clip_norm=10.))
  # Parameters over all of 64 chips, XLA gathers by all-reduce: twice the bytes.
  config.mesh.data = 2
  if arg == 'tiny':
    wan_1_3b.tiny(config)
    config.mesh.data = 1
    config.teacher.model = dict(dim=48, ffn_dim=96)
  elif arg == 'published':
    wan_1_3b.wan_vae(config)
    config.base.update(dict(weights='weights/wan_1_3b', num_steps=0))
    config.teacher.update(dict(weights='weights/wan_14b', num_steps=0))
  elif arg:
    raise ValueError(
        f'config argument {arg!r} is not one of: tiny, published')
  return config

"""The quickstart's pipeline at the size of a demo: 128x96, Freedoom's maps too.

The same stages as configs/quickstart.py (tiny VAE, bidirectional teacher,
teacher forcing, Self Forcing with DMD), a transformer of 8 layers of width 512,
on generated mazes and on the training maps of Freedoom, walked from waypoint to
waypoint.

Command:  python -m worldsim_jax.main --config=configs/doom.py \
            --workdir=runs/doom
Machine:  one GPU; time, memory and quality: not yet measured.
Laptop:   --config=configs/doom.py:tiny
"""

from configs import base
from configs import quickstart
from ml_collections import ConfigDict

FREEDOOM_TRAIN = ('E1M1', 'E1M2', 'E1M3', 'E2M1', 'MAP01', 'MAP02', 'MAP03',
                  'MAP04', 'MAP07', 'MAP11', 'MAP15')
FREEDOOM_TEST = ('E3M1', 'E4M1', 'MAP21', 'MAP29')


def get_config(arg: str = '') -> ConfigDict:
  """The config; `arg` is '' or 'tiny'."""
  config = base.get_config()
  config.data.update(dict(
      height=96, width=128, policy='navigate', train_maps=FREEDOOM_TRAIN,
      test_maps=FREEDOOM_TEST, generated_train_maps=256,
      generated_test_maps=32, num_frames=128))
  config.vae.update(dict(
      latent_channels=16, encoder_widths=(64, 64, 64),
      decoder_widths=(256, 128, 64, 64), blocks_per_stage=3))
  config.model.update(dict(
      dim=512, ffn_dim=2048, num_heads=8, num_layers=8, dtype='bfloat16',
      remat='dots'))
  config.student.update(dict(window=14, sink=2, context_frames=4))
  config.tokenizer.update(dict(num_steps=20_000, batch_size=32, clip_frames=4))
  for name, num_steps in (('teacher', 30_000), ('teacher_forcing', 20_000),
                          ('self_forcing', 3_000)):
    config[name].update(
        dict(num_steps=num_steps, batch_size=32, clip_frames=16))
  config.teacher.max_context_frames = 12
  config.self_forcing.update(dict(ema=0.99, ema_start=40))
  config.self_forcing.optimizer.learning_rate = 2e-6
  config.self_forcing.critic.optimizer.learning_rate = 4e-6
  config.evaluate.update(dict(
      horizon=64, teacher_steps=50, teacher_window=16, num_clips=256))
  config.loop.update(dict(log_every=50, save_every=1000))
  if arg == 'tiny':
    quickstart.smoke(config)
    config.data.update(dict(train_maps=(), test_maps=()))
    config.student.context_frames = 2
  elif arg:
    raise ValueError(f'config argument {arg!r} is not one of: tiny')
  return config

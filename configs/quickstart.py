"""Everything on two CPU cores: a world model of Doom mazes from nothing.

Renders 64x48 films of generated mazes, then trains a tiny video VAE, a
bidirectional teacher (rectified flow), a causal student (teacher forcing), and
distils it to four steps by Self Forcing with DMD (Huang et al. 2025, Alg. 1).

Command:  python -m worldsim_jax.main --config=configs/quickstart.py \
            --workdir=runs/quickstart
Machine:  2 CPU cores, 7 minutes 28 s, 2.6 GiB (README, Results).
Expect:   next frame 27.0 dB, copying 24.6; a wrong turn costs 1.7 dB.
Smoke:    --config=configs/quickstart.py:smoke (every stage, a few steps)
"""

from configs import base
from ml_collections import ConfigDict


def get_config(arg: str = '') -> ConfigDict:
  """The config; `arg` is '' or 'smoke'."""
  config = base.get_config()
  fast_tokenizer(config, latent_channels=48)
  config.model.update(dict(
      dim=128, ffn_dim=512, num_heads=2, num_layers=4, patch=(1, 1),
      coordinates=True, steered=True))
  config.student.update(dict(window=4, sink=1))
  config.data.update(dict(tics_per_frame=2, frames_per_second=17.5))
  config.teacher.num_steps = 260
  config.teacher_forcing.num_steps = 420
  for name in ('teacher', 'teacher_forcing'):
    config[name].batch_size = 8
    config[name].optimizer.learning_rate = 2e-3
  config.self_forcing.update(dict(num_steps=60, batch_size=8, ema=0.9))
  config.evaluate.update(dict(num_clips=64, horizon=16, teacher_steps=10))
  config.self_forcing.optimizer.update(dict(learning_rate=2e-5, warmup_steps=1))
  config.self_forcing.critic.optimizer.update(
      dict(learning_rate=1e-4, warmup_steps=1))
  if arg == 'smoke':
    smoke(config)
  elif arg:
    raise ValueError(f'config argument {arg!r} is not one of: smoke')
  return config


def fast_tokenizer(config: ConfigDict, latent_channels: int):
  """Frame by frame, 8x8 pixels a latent, trained in seconds."""
  config.vae.update(dict(
      latent_channels=latent_channels, encoder_widths=(48,),
      decoder_widths=(64, 48), time_strides=(1,), blocks_per_stage=1, patch=4,
      shortcut=True))
  config.tokenizer.update(dict(num_steps=150, batch_size=8, clip_frames=4))
  config.tokenizer.optimizer.update(
      dict(learning_rate=2e-3, warmup_steps=20, frozen=('shortcut',)))


def smoke(config: ConfigDict, **model):
  """Every stage in about a minute: proves that it runs, learns nothing."""
  config.data.update(dict(
      generated_train_maps=2, generated_test_maps=1, train_episodes=2,
      test_episodes=2, num_frames=20))
  config.vae.update(dict(
      latent_channels=4, encoder_widths=(8,), decoder_widths=(8, 8),
      time_strides=(1,), blocks_per_stage=1, patch=4))
  config.model.update(model or dict(
      dim=32, ffn_dim=64, num_heads=2, num_layers=2))
  config.student.update(dict(window=3, sink=1))
  networks = [config[name] for name in config.stages]
  for stage in networks:
    stage.update(dict(num_steps=6, batch_size=8, clip_frames=4))
  critics = [stage.critic for stage in networks if 'critic' in stage]
  for network in networks + critics:
    network.optimizer.warmup_steps = 1
  config.teacher.max_context_frames = 2
  config.evaluate.update(dict(
      num_clips=4, horizon=8, teacher_steps=2, teacher_window=4, min_motion=0.,
      film_clips=2))
  config.loop.update(dict(log_every=2, save_every=3))

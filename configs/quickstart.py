"""Everything on two CPU cores: a world model of Doom mazes from nothing.

Renders 64x48 films of generated mazes, then trains a tiny video VAE, a
bidirectional teacher (rectified flow), a causal student (teacher forcing), and
distils it to four steps by Self Forcing with DMD (Huang et al. 2025, Alg. 1).

Command:  python -m worldsim_jax.main --config=configs/quickstart.py \
            --workdir=runs/quickstart
Machine:  2 CPU cores; minutes and memory: not yet measured.
Smoke:    --config=configs/quickstart.py:smoke (every stage, a few steps)
"""

from ml_collections import ConfigDict


def get_config(arg: str = '') -> ConfigDict:
  """The config; `arg` is '' or 'smoke'."""
  config = ConfigDict()
  config.seed = 0
  config.stages = ('tokenizer', 'teacher', 'teacher_forcing', 'self_forcing')
  config.data = world()
  config.vae = ConfigDict(dict(
      latent_channels=32, encoder_widths=(32, 48, 64),
      decoder_widths=(64, 48, 32, 16), blocks_per_stage=1,
      time_strides=(1, 1, 1), patch=1))
  config.model = ConfigDict(dict(
      dim=256, ffn_dim=1024, num_heads=4, num_layers=4, patch=(2, 2),
      image=True, parameterization='residual', dtype='float32', remat='none',
      attention='auto'))
  config.text = ConfigDict(dict(encoder='null', dim=0, length=0))
  config.student = ConfigDict(dict(
      chunk=1, context_frames=2, timesteps=(1000, 750, 500, 250), shift=3.,
      window=16, sink=2, relative_positions=True, context_sigma=0.))

  config.tokenizer = ConfigDict(dict(
      paradigm='tokenizer', num_steps=600, batch_size=8, clip_frames=3,
      power=1., edge_weight=0., latent_noise=0.05, start_from='',
      optimizer=adamw(2e-3), ema=None, ema_start=0))
  config.teacher = denoiser('full_sequence', num_steps=400, start_from='')
  config.teacher.max_context_frames = 3
  config.teacher_forcing = denoiser(
      'teacher_forcing', num_steps=300, start_from='teacher')
  config.self_forcing = ConfigDict(dict(
      paradigm='self_forcing', num_steps=60, batch_size=8, clip_frames=8,
      start_from='teacher_forcing', teacher='teacher', generator_every=5,
      guidance_scale=1.5, shift=3., min_sigma=0.02, max_sigma=0.98,
      critic_weight='x0', optimizer=adamw(1e-5, b1=0., schedule='constant'),
      ema=0.9, ema_start=0,
      critic=dict(num_steps=60, ema=None, ema_start=0,
                  optimizer=adamw(2e-5, b1=0., schedule='constant'))))

  config.evaluate = ConfigDict(dict(
      teacher='teacher', num_clips=128, horizon=32, min_motion=4.,
      teacher_steps=16, teacher_window=8, guidance_scale=1., film_clips=4))
  config.loop = ConfigDict(dict(log_every=10, save_every=100, max_to_keep=2))
  if arg == 'smoke':
    smoke(config)
  elif arg:
    raise ValueError(f'config argument {arg!r} is not one of: smoke')
  return config


def world() -> ConfigDict:
  """Generated mazes, walked at random; sizes in pixels and frames."""
  return ConfigDict(dict(
      dir='', records='', height=48, width=64, tics_per_frame=4,
      frames_per_second=8.75, actions=True, policy='random_walk',
      train_maps=(), test_maps=(), generated_train_maps=64,
      generated_test_maps=16, train_episodes=12, test_episodes=8,
      num_frames=40, num_workers=2))


def denoiser(paradigm: str, num_steps: int, start_from: str) -> ConfigDict:
  return ConfigDict(dict(
      paradigm=paradigm, num_steps=num_steps, batch_size=16, clip_frames=8,
      start_from=start_from, shift=3., weight='x0', guidance_dropout=0.1,
      optimizer=adamw(1e-3), ema=None, ema_start=0))


def adamw(learning_rate, b1=0.9, schedule='cosine') -> ConfigDict:
  return ConfigDict(dict(
      learning_rate=learning_rate, warmup_steps=20, schedule=schedule, b1=b1,
      b2=0.99, weight_decay=0.01, clip_norm=1.))


def smoke(config: ConfigDict):
  """Every stage in about a minute: proves that it runs, learns nothing."""
  config.data.update(dict(
      generated_train_maps=2, generated_test_maps=1, train_episodes=2,
      test_episodes=2, num_frames=20))
  config.vae.update(dict(
      latent_channels=4, encoder_widths=(8, 8, 8), decoder_widths=(8, 8, 8, 8)))
  config.model.update(dict(dim=32, ffn_dim=64, num_heads=2, num_layers=2))
  for name in config.stages:
    config[name].update(dict(num_steps=6, batch_size=8, clip_frames=4))
    config[name].optimizer.warmup_steps = 1
  config.self_forcing.critic.num_steps = 6
  config.self_forcing.critic.optimizer.warmup_steps = 1
  config.evaluate.update(dict(
      num_clips=4, horizon=8, teacher_steps=2, teacher_window=4, min_motion=0.,
      film_clips=2))
  config.loop.update(dict(log_every=2, save_every=3))

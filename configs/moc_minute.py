"""Minute-long films of eight shots by Mixture of Contexts (arXiv 2508.21058).

A bidirectional model is trained on whole films, first with dense attention,
then reading its own shot, its caption and 5 chunks of earlier shots' tokens:
chunks of 10240, 5120, 2560, then 1280, as published. 8 shots of 97 frames, 12 a
second, 480x480 pixels: 180,000 tokens. `:wan`: 480x832, 8 a second, 57 frames a
shot, 187,200 tokens, 3 chunks of a latent frame; `:published`: from wan_1_3b's.

Command:  python -m worldsim_jax.main --config=configs/moc_minute.py \
            --workdir=runs/moc_minute --config.data.latents=LATENTS
          python -m worldsim_jax.main --mode=sample --source=runs/moc_minute \
            --prompt='a shot | the next | ...'
Machine:  slices: README; `:tiny`: docs/moc.md; time, quality: not yet measured.
"""

from configs import arguments
from configs import quickstart
from configs import stages
from configs import wan
from ml_collections import ConfigDict

SHOTS, STEPS, CHUNKS = 8, 5000, (10240, 5120, 2560, 1280)  # 20k steps in all.


def get_config(arg: str = '') -> ConfigDict:
  """`arg`: words of 'tiny', 'wan', 'published' (weights to begin with)."""
  words = arguments.words(arg, 'tiny', 'wan', 'published')
  is_wan = 'wan' in words
  config = wan.wan(wan.MODEL_1_3B)
  config.data.update(
      height=480, width=832 if is_wan else 480, shots=SHOTS, shot_captions=True,
      frames_per_second=8. if is_wan else 12.,
      num_frames=SHOTS * (57 if is_wan else 97))
  config.text.per_shot = 'tiny' not in words
  config.student.update(context_frames=1, chunk=1)
  names = _stages(config, (0,) if is_wan else CHUNKS, 3 if is_wan else 5)
  for name in names:
    config[name].update(
        num_steps=STEPS, batch_size=16, shots=SHOTS, max_context_frames=1,
        clip_frames=SHOTS * (15 if is_wan else 25))
    config[name].optimizer.update(
        learning_rate=9e-5, b2=0.999, schedule='constant')
  config.stages = ('tokenizer', *names)
  config.mesh.update(data=1, fsdp=-1, context=4)
  if 'tiny' in words:
    _tiny(config, names)
  config.teacher.weights = 'weights/wan_1_3b' * ('published' in words)
  return config


def _stages(config, chunks, top_k: int):
  """Adds a stage for each length of a chunk; all names, dense first."""
  names = ['teacher']
  for chunk in chunks:
    names.append(f'moc_{chunk or "frame"}')
    config[names[-1]] = stages.full_sequence(
        start_from=names[-2], moc=stages.mixture(chunk=chunk, top_k=top_k))
  return names


def _tiny(config, names):
  """Who looks about in mazes, for a minute: 136 frames, 12 tokens each."""
  wan.tiny(config)
  quickstart.fast_tokenizer(config, latent_channels=6)
  config.data.update(
      num_frames=SHOTS * 17, tics_per_frame=16, frames_per_second=2.1875,
      generated_train_maps=16, train_episodes=4, policy='lookout')
  config.model.update(
      dim=128, ffn_dim=512, num_layers=4, dtype='float32', remat='none',
      image=True, coordinates=True, compass=90.)
  for name, chunk in zip(names, (0, 192, 96, 48, 24)):
    if config[name].moc.get('chunk'):
      config[name].moc.chunk = chunk
    n, steps, rate = (SHOTS, 30, 5e-4) if chunk else (2, 5000, 2e-3)
    config[name].update(num_steps=steps, shots=n, clip_frames=17 * n, shift=1.)
    config[name].optimizer.update(
        learning_rate=rate, warmup_steps=10, schedule='cosine')
  config.evaluate.update(teacher_steps=24, teacher_window=17, horizon=16)
  config.mesh.update(data=-1, fsdp=1, context=1)
  config.loop.update(log_every=10, save_every=100)

"""What a long past is worth: a student that recalls beside two that do not.

Players walk round a few places of generated mazes, look about at each, and come
back (`tour`). One small student is trained by Diffusion Forcing on clips of 11
seconds, with as many FLOPs, to read of the past

  all      every frame
  window   the latest 4 frames and the first
  recall   those, and of all others the 3 that each token chooses (Mixture of
           Contexts, frames for chunks)

Command:  python -m worldsim_jax.main --config=configs/revisits.py:recall \
            --workdir=runs/revisits/recall     (or revisits.py:window, :all)
All:      python -m benchmarks.run revisits    (and what each knows of its past)
Machine:  2 CPU cores; time and quality: docs/moc.md.
Smoke:    --config=configs/revisits.py:recall,tiny
"""

from configs import arguments
from configs import quickstart
from configs import stages
from ml_collections import ConfigDict

CLIP = 48  # frames: 11 s
# Steps of equal FLOPs in all: 64.5, 55.0 and 55.8 GFLOP each.
PASTS = {'all': 260, 'window': 305, 'recall': 300}


def get_config(arg: str = '') -> ConfigDict:
  """`arg`: one of 'all', 'window' and 'recall' (which '' is), and 'tiny'."""
  words = arguments.words(arg, *PASTS, 'tiny')
  is_tiny = 'tiny' in words
  config = quickstart.get_config('smoke' if is_tiny else '')
  clip = 8 if is_tiny else CLIP
  config.data.update(dict(
      policy='tour', tics_per_frame=8, frames_per_second=4.375,
      train_episodes=4, num_frames=24 if is_tiny else 2 * CLIP))
  config.student.update(dict(
      step='euler', timesteps=tuple(range(1000, 0, -125))))
  if not is_tiny:  # 12 tokens of 16x16 pixels: a long clip costs little.
    config.model.update(dict(dim=192, num_heads=3, patch=(2, 2)))
  config.past = stages.diffusion_forcing(
      past='student', clip_frames=clip, batch_size=8,
      context_frames=2)
  config.past.optimizer.learning_rate = 2e-3
  config.stages = ('tokenizer', 'past')
  config.evaluate.update(dict(
      teacher='past', sections=('recall',), walks=8 if is_tiny else 16,
      walk_frames=clip - 2))
  read(config, arguments.one_of(words, tuple(PASTS), 'recall'))
  if is_tiny:
    config.past.num_steps = 6
    config.past.optimizer.warmup_steps = 1
  return config


def read(config: ConfigDict, past: str):
  """Lets a config's student read this of its past."""
  slots = 2 * config.past.clip_frames
  config.past.num_steps = PASTS[past]
  config.student.update(dict(
      window=slots if past == 'all' else 4, sink=int(past != 'all'),
      relative_positions=False))
  recall = stages.recall(slots=slots) if past == 'recall' else ConfigDict()
  config.student.recall = recall  # `update` would keep what was there.

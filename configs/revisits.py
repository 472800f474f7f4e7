"""What a long past is worth: a student that recalls beside two that do not.

Players walk round a few places of generated mazes, look about at each, and come
back (`tour`). One small student that has learned by Teacher Forcing what comes
next is trained by Diffusion Forcing on clips of 11 seconds, with as many FLOPs,
to read of the past

  all      every frame
  window   the latest 2 frames and the first
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

CLIP = 24  # frames: 11 s
# Steps of equal FLOPs in all: 86.9, 63.1 and 69.5 GFLOP each.
PASTS = {'all': 400, 'window': 551, 'recall': 500}


def get_config(arg: str = '') -> ConfigDict:
  """`arg`: one of 'all', 'window' and 'recall' (which '' is), and 'tiny'."""
  words = arguments.words(arg, *PASTS, 'tiny')
  is_tiny = 'tiny' in words
  config = quickstart.get_config('smoke' if is_tiny else '')
  clip = 8 if is_tiny else CLIP
  config.data.update(dict(
      policy='lookout', tics_per_frame=16, frames_per_second=2.1875,
      train_episodes=8, num_frames=24 if is_tiny else 2 * CLIP))
  config.model.compass = 90.
  config.student.step = 'euler'
  # What is to be recalled is clean, or there is little to learn from it.
  config.past = stages.diffusion_forcing(
      start_from='teacher_forcing', past='student', clip_frames=clip,
      batch_size=8, context_frames=clip // 2, shift=1.)
  config.teacher_forcing.update(dict(start_from='', num_steps=600))
  for name in 'teacher_forcing', 'past':
    config[name].optimizer.learning_rate = 2e-3
  config.stages = ('tokenizer', 'teacher_forcing', 'past')
  config.evaluate.update(dict(
      teacher='past', sections=('recall',), walks=8 if is_tiny else 32,
      walk_frames=clip - 2, walk_policy='lookout'))
  read(config, arguments.one_of(words, tuple(PASTS), 'recall'))
  if is_tiny:
    for name in 'teacher_forcing', 'past':
      config[name].num_steps, config[name].optimizer.warmup_steps = 6, 1
  return config


def read(config: ConfigDict, past: str):
  """Lets a config's student read this of its past."""
  slots = 2 * config.past.clip_frames
  config.past.num_steps = PASTS[past]
  config.student.update(dict(
      window=slots if past == 'all' else 2, sink=int(past != 'all'),
      relative_positions=False))
  recall = stages.recall(slots=slots) if past == 'recall' else ConfigDict()
  config.student.recall = recall  # `update` would keep what was there.

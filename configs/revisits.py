"""What a long past is worth: a student that recalls beside two that do not.

Players walk round a few places of generated mazes, look about at each, and come
back (`tour`). One small student is trained by Diffusion Forcing on clips of 14
seconds, with the same compute, to read of the past

  all      every frame
  window   the latest 4 frames and the first
  recall   those, and of all others the 3 that each token chooses (Mixture of
           Contexts, frames for chunks)

Command:  python -m worldsim_jax.main --config=configs/revisits.py:recall \
            --workdir=runs/revisits/recall
Machine:  2 CPU cores; time and quality: not yet measured.
Smoke:    --config=configs/revisits.py:recall,tiny
All:      python -m benchmarks.run revisits
"""

from configs import arguments
from configs import quickstart
from configs import stages
from ml_collections import ConfigDict

CLIP = 64  # frames: 14.6 s
PASTS = ('all', 'window', 'recall')


def get_config(arg: str = '') -> ConfigDict:
  """`arg`: one of 'all', 'window' and 'recall' (which '' is), and 'tiny'."""
  words = arguments.words(arg, *PASTS, 'tiny')
  past = arguments.one_of(words, PASTS, 'recall')
  clip = 8 if 'tiny' in words else CLIP
  config = quickstart.get_config('smoke' if 'tiny' in words else '')
  config.data.update(dict(
      policy='tour', tics_per_frame=8, frames_per_second=4.375,
      num_frames=24 if 'tiny' in words else 2 * CLIP))
  config.student.update(dict(window=4, sink=1, relative_positions=False))
  if past == 'all':
    config.student.update(dict(window=2 * clip, sink=0))
  if past == 'recall':
    config.student.recall = stages.recall(slots=2 * clip)
  config.past = stages.diffusion_forcing(
      past='student', clip_frames=clip, batch_size=8, num_steps=400,
      context_frames=2)
  config.past.optimizer.learning_rate = 2e-3
  config.stages = ('tokenizer', 'past')
  config.evaluate.teacher = 'past'
  if 'tiny' in words:
    config.past.num_steps = 6
    config.past.optimizer.warmup_steps = 1
  return config

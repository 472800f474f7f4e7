"""What a long past is worth: a student that recalls beside two that do not.

Players stand in generated mazes and look about, to the left, to the right and
back (`lookout`): most of what comes into view has been seen before, and most of
that before the window. One small student is trained by Diffusion Forcing on
clips of 11 seconds, with as many FLOPs, to read of the past

  all      every frame
  window   the latest 2 frames and the first
  recall   those, and of all others the 3 that each token chooses (Mixture of
           Contexts, frames for chunks)

What it knows comes by attention alone, which knows from the turns where each
token looks (`compass`): the students differ in what they may read, not in what
they could make of it.

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
# Steps of equal FLOPs in all: 13.45, 11.97 and 12.38 GFLOP each.
PASTS = {'all': 1500, 'window': 1686, 'recall': 1630}


def get_config(arg: str = '') -> ConfigDict:
  """`arg`: one of 'all', 'window' and 'recall' (which '' is), and 'tiny'."""
  words = arguments.words(arg, *PASTS, 'tiny')
  is_tiny = 'tiny' in words
  config = quickstart.get_config('smoke' if is_tiny else '')
  clip = 8 if is_tiny else CLIP
  config.data.update(dict(
      policy='lookout', tics_per_frame=16, frames_per_second=2.1875,
      train_episodes=8, num_frames=24 if is_tiny else 2 * CLIP))
  config.student.step = 'euler'
  if not is_tiny:  # 12 tokens of 16x16 pixels.
    quickstart.fast_tokenizer(config, latent_channels=24)
    config.model.patch = (2, 2)
  config.model.update(dict(
      image=False, parameterization='velocity', coordinates=False,
      steered=False, compass=90.))
  # What is to be recalled is clean, or there is little to learn from it.
  config.past = stages.diffusion_forcing(
      past='student', clip_frames=clip, batch_size=8, context_frames=clip // 2,
      shift=1.)
  config.past.optimizer.learning_rate = 2e-3
  config.stages = ('tokenizer', 'past')
  config.evaluate.update(dict(
      teacher='past', sections=('recall',), walks=8 if is_tiny else 32,
      walk_frames=clip - 2, walk_policy='lookout'))
  read(config, arguments.one_of(words, tuple(PASTS), 'recall'))
  if is_tiny:
    config.past.num_steps, config.past.optimizer.warmup_steps = 6, 1
  return config


def read(config: ConfigDict, past: str):
  """Lets a config's student read this of its past."""
  slots = 2 * config.past.clip_frames
  config.past.num_steps = PASTS[past]
  config.student.update(dict(
      window=slots if past == 'all' else 2, sink=int(past != 'all'),
      relative_positions=False))
  config.student.recall = (  # `update` would keep what was there.
      stages.recall(slots=slots) if past == 'recall' else ConfigDict())

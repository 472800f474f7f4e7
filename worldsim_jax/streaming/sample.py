"""`--mode=sample`: a film from any world, driven by a list of actions.

A causal world streams through them. A bidirectional one makes a film as long as
its clips, of as many shots as it has prompts, or as many as it can.
"""

import os

import numpy as np

from worldsim_jax.data import actions as action_lib
from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError
from worldsim_jax.streaming import films


def sample(load, target: str, actions: str, *, prompt: str | None = None,
           seed: int = 0):
  """Writes an mp4 file.

  Args:
    load: () -> the world; called when the other arguments are in order.
    target: path of the mp4.
    actions: a script such as 'forward*20,left*10', or the path of a file.
    prompt: for models with text; of several shots, separated by |.
    seed: of the noise and the first frames.
  """
  if not target.endswith('.mp4'):
    raise UserError(f'--target={target} must be an .mp4 file')
  is_file = os.path.exists(actions) or actions.endswith(
      ('.npy', '.json', '.txt'))
  read = action_lib.read if is_file else action_lib.parse
  read(actions)  # What is wrong with it is told before the world is loaded.
  world = load()
  commands = read(actions, world.config.data.tics_per_frame)
  if world.is_causal:
    film = _streamed(world, commands, prompt, seed)
  else:
    prompts = [text.strip() for text in prompt.split('|')] if prompt else ()
    film = films.make(world, prompts, actions=commands, seed=seed)
  video_files.write_mp4(target, film, world.config.data.frames_per_second)
  print(f'{target}: {len(film)} frames')


def _streamed(world, commands, prompt, seed):
  step = world.frames_per_step
  missing = -len(commands) % step
  commands = np.concatenate([commands, np.repeat(commands[-1:], missing, 0)])
  session = world.stream(prompt, seed=seed)
  film = []
  for first in range(0, len(commands), step):
    session, frames = world.step(session, commands[first:first + step])
    film.append(frames)
  return np.concatenate([np.asarray(f) for f in film])

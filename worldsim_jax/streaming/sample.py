"""`--mode=sample`: a film from any world, driven by a list of actions."""

import os

import numpy as np

from worldsim_jax.data import actions as action_lib
from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError


def sample(load, target: str, actions: str, *, prompt: str | None = None,
           seed: int = 0):
  """Streams a world through the actions into an mp4 file.

  Args:
    load: () -> the world; called when the other arguments are in order.
    target: path of the mp4.
    actions: a script such as 'forward*20,left*10', or the path of a file.
    prompt: for models with text.
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
  step = world.frames_per_step
  missing = -len(commands) % step
  commands = np.concatenate([commands, np.repeat(commands[-1:], missing, 0)])
  session = world.stream(prompt, seed=seed)
  film = []
  for first in range(0, len(commands), step):
    session, frames = world.step(session, commands[first:first + step])
    film.append(frames)
  film = np.concatenate([np.asarray(f) for f in film])
  video_files.write_mp4(target, film, world.config.data.frames_per_second)
  print(f'{target}: {len(film)} frames')

"""What a player commands, in physical units.

  component  unit                 positive
  forward    map units per frame  along the view
  strafe     map units per frame  to the left
  turn       degrees per frame    to the left (yaw grows)

So displacement and yaw form a right-handed frame: in steady state one frame
moves the eye by R(yaw) [forward, strafe] and turns it by `turn`. Translation is
a *command*: the player has inertia (a quarter second to reach it) and walls
stop him. A turn is obeyed at once and exactly.
"""

import dataclasses
import json
import os
import re

import numpy as np

from worldsim_jax.errors import UserError

# What a word of an action script commands for a frame of WORD_TICS tics; for a
# shorter one it is as much less, so that a word is a speed.
WORD_TICS = 4
WORDS = {
    'forward': (24.0, 0.0, 0.0),
    'back': (-24.0, 0.0, 0.0),
    'strafe_left': (0.0, 24.0, 0.0),
    'strafe_right': (0.0, -24.0, 0.0),
    'left': (0.0, 0.0, 8.0),
    'right': (0.0, 0.0, -8.0),
    'wait': (0.0, 0.0, 0.0),
}
TOKEN = re.compile(r'([a-z_]+(?:\+[a-z_]+)*)(?:\*(\d+))?')


@dataclasses.dataclass(frozen=True)
class ActionSpace:
  """Names, units, and the scale that brings usual commands to [-1, 1]."""

  names: tuple[str, ...] = ('forward', 'strafe', 'turn')
  units: tuple[str, ...] = (
      'map units per frame',
      'map units per frame',
      'degrees per frame',
  )
  scale: tuple[float, ...] = (32.0, 32.0, 16.0)

  def normalise(self, actions):
    """[..., 3] in physical units to about [-1, 1]."""
    return (actions / np.asarray(self.scale)).astype(np.float32)


def parse(script: str, tics_per_frame: float = WORD_TICS) -> np.ndarray:
  """A script to float32 [T, 3]: 'forward*20,left*10,forward+left*5,wait*4'.

  Words joined by + act together; *n repeats for n frames.

  Args:
    script: see above.
    tics_per_frame: of the world that obeys, config.data.tics_per_frame.

  Raises:
    UserError: that names the token which is wrong.
  """
  rows = []
  for token in script.replace('\n', ',').split(','):
    token = token.strip()
    if not token:
      continue
    match = TOKEN.fullmatch(token)
    words = match[1].split('+') if match else []
    if not match or any(word not in WORDS for word in words):
      raise UserError(
          f'action script: cannot read {token!r}; words are '
          f'{", ".join(WORDS)}, joined by + and repeated by *n'
      )
    rows += [np.sum([WORDS[word] for word in words], 0)] * int(match[2] or 1)
  if not rows:
    raise UserError(f'action script {script!r} has no actions')
  return np.array(rows, np.float32) * np.float32(tics_per_frame / WORD_TICS)


def read(path: str, tics_per_frame: float = WORD_TICS) -> np.ndarray:
  """An action file to float32 [T, 3]: .npy, .json or a text script.

  Rows of numbers are physical units per frame as they stand; words, in text or
  as a list in .json, are for frames of so many tics, see `parse`.
  """
  suffix = os.path.splitext(path)[1]
  try:
    if suffix == '.npy':
      actions = np.load(path, allow_pickle=False)
    elif suffix == '.json':
      with open(path) as f:
        actions = json.load(f)
      if _is_words(actions):
        return parse(','.join(actions), tics_per_frame)
    else:
      with open(path) as f:
        return parse(f.read(), tics_per_frame)
    actions = np.asarray(actions, np.float32)
  except UserError as e:
    raise UserError(f'{path}: {e}') from e
  except (OSError, ValueError, TypeError, EOFError) as e:
    raise UserError(f'{path}: cannot read actions ({e})') from e
  if actions.ndim != 2 or actions.shape[1] != 3:
    raise UserError(
        f'{path}: actions have shape {actions.shape}, need [T, 3] '
        '(forward, strafe, turn per frame)'
    )
  if not np.isfinite(actions).all():
    raise UserError(f'{path}: actions must be finite numbers')
  return actions


def _is_words(content) -> bool:
  return isinstance(content, list) and all(
      isinstance(word, str) for word in content
  )

"""Our films in other people's layouts: what `vbench`, `worldscore` and
`worldmodelbench` share.

Those benchmarks judge with networks that are not here: an adapter writes what
their programs read, and stops there. Each takes clips and writes one folder,
which appears under its name only when it is complete: until then it is a folder
beside it whose name ends in .partial.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import re
import shutil

import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths

_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_-]*')
# What a component of an action is called, for positive and negative values.
_WORDS = (
    ('walks forward', 'walks backward'),
    ('steps to the left', 'steps to the right'),
    ('turns left', 'turns right'),
)
_USUAL = np.array([32.0, 32.0, 16.0])  # `actions.ActionSpace.scale`
_NOTICED = 0.1  # of usual commands
_SHORTEST = 0.1  # of the film, of a part that is put into words


@dataclasses.dataclass(frozen=True)
class Clip:
  """One film, and what the model that made it was given."""

  name: str  # letters, digits, - and _; names the files
  caption: str  # what is to be seen
  rgb: np.ndarray  # uint8 [T, H, W, 3], T >= 2
  first_frame: np.ndarray | None = None  # uint8 [H, W, 3]; None: rgb[0]
  instruction: str = ''  # what is to happen, see `in_words`
  motions: np.ndarray | None = None  # [T, 4, 4], cameras that were commanded
  objects: tuple[str, ...] = ()  # things that the caption names

  @property
  def given(self) -> np.ndarray:
    return self.rgb[0] if self.first_frame is None else self.first_frame


def in_words(actions) -> str:
  """Actions [T, 3] (see data/actions.py) as a sentence.

  >>> in_words(parse('forward*20,left*10'))
  'The player walks forward, then turns left.'

  What takes less than a tenth of the film is left out; what happens together is
  told by its strongest part.
  """
  strength = np.asarray(actions, np.float64) / _USUAL
  if strength.ndim != 2 or strength.shape[1:] != (3,):
    raise ValueError(f'actions are {strength.shape}; need [T, 3]')
  kinds = []
  for row in strength[1:]:  # Nothing led to the first frame.
    k = int(np.abs(row).argmax())
    kinds.append((k, row[k] < 0) if abs(row[k]) >= _NOTICED else None)
  told = []
  for kind, length in _runs(kinds):
    if length >= _SHORTEST * len(kinds) and told[-1:] != [kind]:
      told.append(kind)
  words = [
      _WORDS[kind[0]][int(kind[1])] if kind else 'stands still' for kind in told
  ]
  return f'The player {", then ".join(words or ["stands still"])}.'


def check(clips: Sequence[Clip]):
  """Raises UserError, with the clip's name, for what no benchmark can read."""
  if not clips:
    raise UserError('there are no clips to write')
  seen = set()
  for clip in clips:
    check_name('clip', clip.name)
    if clip.name in seen:
      raise UserError(f'clip {clip.name}: two clips have this name')
    seen.add(clip.name)
    if not clip.caption.strip():
      raise UserError(f'clip {clip.name}: it has no caption')
    rgb = np.asarray(clip.rgb)
    if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[-1] != 3:
      raise UserError(
          f'clip {clip.name}: film is {rgb.dtype} {rgb.shape}, need uint8 '
          '[T, H, W, 3]'
      )
    if len(rgb) < 2:
      raise UserError(f'clip {clip.name}: a film needs at least 2 frames')
    given = np.asarray(clip.given)
    if given.dtype != np.uint8 or given.shape != rgb.shape[1:]:
      raise UserError(
          f'clip {clip.name}: first frame is {given.dtype} {given.shape}, need '
          f'uint8 {rgb.shape[1:]}'
      )


def check_name(what: str, name: str):
  """Raises UserError for names that no file should have."""
  if not _NAME.fullmatch(name):
    raise UserError(
        f'{what} {name!r}: it becomes the name of a file, use letters, digits, '
        '- and _'
    )


@contextlib.contextmanager
def staged(folder: str):
  """Yields a new folder to write to, which takes its name when all went well.

  Raises:
    UserError: if the name is taken by anything but an empty folder, or the disk
      refuses.
  """
  folder = os.path.abspath(_local(folder))
  if os.path.isdir(folder) and not os.listdir(folder):
    os.rmdir(folder)
  if os.path.lexists(folder):
    raise UserError(f'{folder}: is already there; remove it or name another')
  partial = f'{folder}.{os.getpid()}.partial'
  try:
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    yield partial
    os.rename(partial, folder)
  except OSError as e:
    raise UserError(f'{folder}: cannot write ({paths.first_line(e)})') from e
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def write_json(path: str, content):
  with open(path, 'w', encoding='utf-8') as f:
    json.dump(content, f, indent=2, ensure_ascii=False)


def write_picture(path: str, rgb_HWC, scale: int = 1):
  """PNG, or JPEG by its suffix, each pixel repeated `scale` times."""
  from PIL import Image

  rgb = np.asarray(rgb_HWC).repeat(scale, 0).repeat(scale, 1)
  options = {'quality': 95} if path.endswith('.jpg') else {}
  Image.fromarray(rgb).save(path, **options)


def _local(folder):
  if paths.is_remote(folder):
    raise UserError(
        f'{folder}: benchmarks read local folders; write to a disk, then copy'
    )
  return os.fspath(folder)


def _runs(kinds):
  """[a, a, b] to [(a, 2), (b, 1)]."""
  runs = []
  for kind in kinds:
    if runs and runs[-1][0] == kind:
      runs[-1] = kind, runs[-1][1] + 1
    else:
      runs.append((kind, 1))
  return runs

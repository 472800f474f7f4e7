"""One evaluation: the subject, what it is asked to continue, and its answers.

Sections measure different things on the same films, so films are made once, and
only when a section asks for them:

  clips   many short ones, spread over the test split's records
  other   the same beginnings under other actions (counterfactuals)
  walks   a few long ones on test maps, that come by the same places again
"""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import splits
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import clips as clips_lib
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.clips import Clips
from worldsim_jax.evaluate.subjects import Played
from worldsim_jax.streaming.world import World

CLIPS, OTHER, WALKS = 'clips', 'other', 'walks'


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
  """A subject under test; see the module docstring.

  Attributes:
    config: of the run; evaluate and data are read.
    name: of the subject.
    subject: see `subjects`.
    frames_dir: the records of frames, with a test split.
    given: frames that a subject is shown, pixel frames.
    frames_per_step: of the model; horizons are multiples of it.
    world: the causal model's, or None for subjects without one.
    tokenizer: a world whose tokenizer the subject's frames come from, or None.
  """

  config: Any
  name: str
  subject: subjects.Subject
  frames_dir: str
  given: int
  frames_per_step: int = 1
  world: World | None = None
  tokenizer: World | None = None

  @functools.cached_property
  def clips(self) -> Clips:
    """Short clips of the test split whose first new frame moves."""
    return clips_lib.of_test_split(self.config, self.frames_dir, self.given)

  @functools.cached_property
  def other(self) -> Clips:
    """The same clips, under the opposite actions.

    Where nothing was commanded, under those of the next clip.
    """
    clips = self.clips
    actions = -clips.actions
    still = ~np.any(actions[:, self.given :], axis=(1, 2))
    actions[still] = np.roll(clips.actions, -1, axis=0)[still]
    return clips.commanded(actions)

  @functools.cached_property
  def walks(self) -> Clips:
    """Long walks on test maps."""
    evaluate, data = self.config.evaluate, self.config.data
    steps = evaluate.walk_frames // self.frames_per_step
    if not steps:
      raise UserError(
          f'config.evaluate.walk_frames={evaluate.walk_frames} is less than '
          f'the {self.frames_per_step} frames that the model makes at once'
      )
    num_frames = self.given + steps * self.frames_per_step
    options = engine_lib.Options(
        height=data.height, width=data.width, tics_per_frame=data.tics_per_frame
    )
    films = []
    for number, name in enumerate(self.test_maps(evaluate.walks)):
      with engine_lib.Engine(name, **options.engine_options) as engine:
        films.append(
            episodes.record(
                engine,
                policy=evaluate.walk_policy,
                num_frames=num_frames,
                seed=_seed(evaluate.seed, name, number),
            )
        )
    return clips_lib.of_episodes(films, self.given)

  def films(self, what: str) -> Clips:
    """`clips`, `other` or `walks`."""
    return {
        CLIPS: lambda: self.clips,
        OTHER: lambda: self.other,
        WALKS: lambda: self.walks,
    }[what]()

  def played(self, what: str) -> Played:
    """The subject's continuation of `clips`, `other` or `walks`."""
    if what not in self._played:
      self._played[what] = self.subject(self.films(what))
    return self._played[what]

  @functools.cached_property
  def _played(self) -> dict[str, Played]:
    return {}

  def test_maps(self, count: int) -> list[str]:
    """So many names of maps to play on, spread over those of the test split.

    They may repeat.

    Raises:
      UserError: if there are none, or one is a map of the train split.
    """
    evaluate, data = self.config.evaluate, self.config.data
    if data.records and not evaluate.walk_maps:
      raise UserError(
          'new films need maps of the embedded world: name some in '
          'config.evaluate.walk_maps (config.data.records has films only)'
      )
    maps = tuple(evaluate.walk_maps) or tuple(data.test_maps) + (
        splits.generated_maps('test', data.generated_test_maps)
    )
    for name in maps:
      if splits.split_of(name) != 'test':
        raise UserError(
            f'config.evaluate.walk_maps has {name!r}, a map of the train split'
        )
    return [maps[i * len(maps) // count % len(maps)] for i in range(count)]


def _seed(seed, map_name, number):
  """31 bits, other ones than those of any recorded episode."""
  text = f'walk {seed} {map_name} {number}'.encode()
  return int.from_bytes(hashlib.sha256(text).digest()[:4], 'big') >> 1

"""Films that a subject is given the beginning of, and asked to continue.

Their futures are known, and for films of the embedded world so is what any
other choice of actions would have led to: the recipe is played again.

Shapes: n clips of P frames, the first `given` of which are shown.
"""

from collections.abc import Sequence
import dataclasses
import functools
import itertools

import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import pipeline
from worldsim_jax.data import records
from worldsim_jax.errors import UserError

FIELDS = ('rgb', 'actions', 'caption')  # What every film has.
OF_A_WORLD = ('pose', 'recipe')


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
  """n clips; equal maps are what is not independent.

  Attributes:
    rgb: uint8 [n, P, H, W, 3], the true films.
    actions: float32 [n, P, 3], physical units; actions[:, p] leads to frame p.
    captions: n texts.
    maps: n names.
    given: frames that a subject is shown.
    pose: float64 [n, P, 4], or None for users' films.
    recipes: n recipes as JSON, or None.
    begins: n frame numbers in the recipes' films.
  """

  rgb: np.ndarray
  actions: np.ndarray
  captions: tuple[str, ...]
  maps: np.ndarray
  given: int
  pose: np.ndarray | None = None
  recipes: tuple[str, ...] | None = None
  begins: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.rgb)

  @property
  def future(self) -> np.ndarray:
    """What truly follows, uint8 [n, horizon, H, W, 3]."""
    return self.rgb[:, self.given :]

  @property
  def horizon(self) -> int:
    return self.rgb.shape[1] - self.given

  def take(self, which) -> 'Clips':
    """Some of the clips: a bool mask or indices."""
    which = np.arange(len(self))[which]
    taken = {}
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, np.ndarray):
        value = value[which]
      elif isinstance(value, tuple):
        value = tuple(value[i] for i in which)
      taken[field.name] = value
    return Clips(**taken)

  def first_frames(self, count: int) -> 'Clips':
    """The same clips, only so many frames long."""
    return self._cut(slice(count), self.given, self.begins)

  def last_frames(self, count: int, given: int) -> 'Clips':
    """The ends of the clips, of which other numbers of frames are given."""
    first = self.rgb.shape[1] - count
    begins = None if self.begins is None else self.begins + first
    return self._cut(slice(first, None), given, begins)

  def _cut(self, frames, given, begins):
    cut = {'rgb': self.rgb[:, frames], 'actions': self.actions[:, frames]}
    if self.pose is not None:
      cut['pose'] = self.pose[:, frames]
    return dataclasses.replace(self, **cut, given=given, begins=begins)

  @functools.cached_property
  def cameras(self) -> tuple[camera_lib.Camera, ...]:
    return tuple(
        camera_lib.of_engine(recipe) for recipe in self.parsed('cameras need')
    )

  @functools.cached_property
  def motions(self) -> np.ndarray:
    """Camera-to-world, float64 [n, P, 4, 4]."""
    self.parsed('camera motions need')
    return camera_lib.camera_to_world(self.pose)

  def geometry(self, index: int):
    """Exact geometry of one clip, see data/geometry.py.

    Where things and monsters are, and how doors stand, is told by the engine,
    which plays the recipes once more.
    """
    return self._geometries[index]

  @functools.cached_property
  def _geometries(self):
    from worldsim_jax.data import geometry  # It compiles its ray caster.

    told = [
        dataclasses.replace(recipe, geometry=True)
        for recipe in self.parsed('exact geometry needs')
    ]
    count = self.rgb.shape[1]
    return [
        geometry.of_episode(film, slice(begin, begin + count))
        for film, begin in zip(_films(told), self.begins)
    ]

  def commanded(self, actions_nPA) -> 'Clips':
    """The true films under other actions, from the same given frames.

    Args:
      actions_nPA: [n, P, 3]; those of given frames are ignored.
    """
    recipes = []
    for recipe, begin, actions in zip(
        self.parsed('other futures need'), self.begins, actions_nPA
    ):
      past = np.array(recipe.actions, np.float32)[: begin + self.given]
      recipes.append(
          recipe.with_actions(np.concatenate([past, actions[self.given :]]))
      )
    return self.rendered(recipes)

  def rendered(self, recipes: Sequence[episodes.Recipe]) -> 'Clips':
    """Clips of these recipes where this one's are in its own."""
    films = _films(recipes)
    count = self.rgb.shape[1]
    cut = lambda name: np.stack(
        [
            film[name][begin : begin + count]
            for film, begin in zip(films, self.begins)
        ]
    )
    return dataclasses.replace(
        self,
        rgb=cut('rgb'),
        actions=cut('actions'),
        pose=cut('pose'),
        recipes=tuple(film['recipe'] for film in films),
    )

  def parsed(self, what_needs: str) -> list[episodes.Recipe]:
    """The recipes.

    Raises:
      UserError: for films without.
    """
    if self.recipes is None:
      raise UserError(
          f'{what_needs} films of the embedded world (config.data.records has '
          'films without recipes)'
      )
    return [episodes.Recipe.from_json(text) for text in self.recipes]


def _films(recipes) -> list[episodes.Episode]:
  """Renders recipes, those of one map by one engine."""
  films = [None] * len(recipes)
  of_map = lambda number: recipes[number].map
  for name, numbers in itertools.groupby(
      sorted(range(len(recipes)), key=of_map), key=of_map
  ):
    numbers = list(numbers)
    options = recipes[numbers[0]].engine_options
    with engine_lib.Engine(name, **options) as engine:
      for number in numbers:
        films[number] = episodes.render(recipes[number], engine)
  return films


def of_test_split(config, directory: str, given: int) -> Clips:
  """Clips of the test split whose first new frame moves.

  A still one is a prize for copying.

  Args:
    config: of the run; evaluate.num_clips, horizon, min_motion (grey levels).
    directory: of the frames' records.
    given: pixel frames that subjects are given.

  Raises:
    UserError: if none moves.
  """
  evaluate = config.evaluate
  clips = of_records(
      records.Source(directory, 'test'),
      count=evaluate.num_clips,
      num_frames=given + evaluate.horizon,
      given=given,
      seed=evaluate.seed,
  )
  moves = pipeline.motion(clips.rgb[:, given - 1 : given + 1])[:, 1]
  moving = moves >= evaluate.min_motion
  if not moving.any():
    raise UserError(
        f'none of {evaluate.num_clips} test clips moves by '
        f'{evaluate.min_motion} grey levels (config.evaluate.min_motion).'
    )
  return clips.take(moving)


def of_records(source, *, count: int, num_frames: int, given: int, seed=0):
  """Clips spread over the episodes of a record set, see `eval_clips`."""
  fields = FIELDS + tuple(f for f in OF_A_WORLD if f in source[0])
  cut = pipeline.eval_clips(
      source, num_clips=count, clip_frames=num_frames, seed=seed, fields=fields
  )
  known = {}
  # Films of users have an empty recipe.
  if set(OF_A_WORLD) <= cut.keys() and all(cut['recipe']):
    known = dict(pose=cut['pose'], recipes=tuple(map(str, cut['recipe'])))
  return Clips(
      rgb=cut['rgb'],
      actions=cut['actions'],
      captions=tuple(map(str, cut['caption'])),
      maps=cut['map'],
      given=given,
      begins=cut['begin'],
      **known,
  )


def of_episodes(films: Sequence[episodes.Episode], given: int) -> Clips:
  """Whole episodes of one length."""
  stacked = lambda name: np.stack([film[name] for film in films])
  recipes = [episodes.Recipe.from_json(film['recipe']) for film in films]
  return Clips(
      rgb=stacked('rgb'),
      actions=stacked('actions'),
      captions=tuple(film['caption'] for film in films),
      maps=np.array([recipe.map for recipe in recipes], object),
      given=given,
      pose=stacked('pose'),
      recipes=tuple(film['recipe'] for film in films),
      begins=np.zeros(len(films), np.int64),
  )

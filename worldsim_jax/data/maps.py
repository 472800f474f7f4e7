"""One name, one map: 'E1M1', 'MAP07' (Freedoom) or 'gen:123' (generated)."""

import dataclasses
import functools
import os

from worldsim_jax.data import generator
from worldsim_jax.data import missing
from worldsim_jax.data import wad
from worldsim_jax.errors import UserError

GENERATED = 'gen:'


@dataclasses.dataclass(frozen=True, eq=False)
class Map:
  """What the engine and the planner need of a map."""

  name: str
  iwad: str  # path of the game's WAD
  engine_name: str  # what the engine calls it
  level: wad.Level
  caption: str
  pwad: bytes | None  # a patch WAD that holds it, for generated maps


@functools.lru_cache(maxsize=64)
def load(name: str) -> Map:
  """Finds a map by its name.

  Raises:
    UserError: if there is no such map; the message lists those that exist.
  """
  if name.startswith(GENERATED):
    maze = generator.generate(seed_of(name))
    return Map(
        name,
        freedoom('freedoom2.wad'),
        generator.MAP_LUMP,
        generator.level(maze),
        generator.caption(maze),
        generator.pwad(maze),
    )
  path = freedoom('freedoom1.wad' if name.startswith('E') else 'freedoom2.wad')
  return Map(
      name,
      path,
      name,
      wad.load_level(path, name),
      f'the Freedoom level {name}',
      None,
  )


def seed_of(name: str) -> int:
  """The seed in the name of a generated map."""
  digits = name.removeprefix(GENERATED)
  if not name.startswith(GENERATED) or not digits.isdecimal():
    raise UserError(
        f'map {name!r}: a generated map is named gen:<seed>, '
        'say gen:7; the others are E1M1-E4M9 and MAP01-MAP32'
    )
  return int(digits)


def freedoom(file_name: str) -> str:
  """Path of a WAD that comes with ViZDoom."""
  try:
    import vizdoom
  except ImportError as e:
    raise missing('vizdoom', 'the embedded world') from e
  return os.path.join(os.path.dirname(vizdoom.__file__), file_name)

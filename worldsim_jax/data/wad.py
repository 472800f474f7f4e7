"""Doom's WAD files: levels as numpy arrays, and a writer of patch WADs.

A WAD is a header, data, and a directory of named lumps. A level is a marker
lump ('MAP01', 'E1M1') followed by its tables in a fixed binary layout; we read
five. Each line of a level has a front side (right of the direction from its
first to its second vertex) and maybe a back side, and each side faces one
sector, a patch of ground with a floor and a ceiling height. That is all of a
level's geometry.
"""

import dataclasses
import os
import re
import struct

import numpy as np

from worldsim_jax.errors import UserError

MAP_NAME = re.compile(r'MAP\d\d|E\dM\d')
NO_SIDE = 0xFFFF
IMPASSABLE = 1  # linedef flag
PLAYER_START = 1  # thing type

# Linedef actions that end the level or teleport whoever walks over the line.
WALK_OVER_HAZARDS = [39, 52, 97, *range(124, 127), 174, 195, *range(207, 211)]
WALK_OVER_HAZARDS += [243, 244, 262, 263]

# Linedef actions that leave every floor and ceiling where it is: exits,
# teleports, lights, a scrolling texture. Any other moves some.
STILL = [0, 11, 12, 13, 17, 35, 39, 48, 51, 52, *range(79, 82), 97, 104]
STILL += [*range(124, 127), 138, 139]
MOVING_SECTORS = (10, 14)  # sector specials: doors that follow a clock
NO_TEXTURE = '-'
SKY = 'F_SKY'  # how the names of flats begin that show the sky
FLOOR_AND_CEILING = ('floor', 'ceiling')

# Thing types that stand in the way: radius in map units.
SOLID_RADIUS = dict.fromkeys((*range(25, 34), *range(35, 38), 70, 85, 86), 16)
SOLID_RADIUS |= dict.fromkeys((*range(41, 49), *range(55, 58), 2028), 16)
SOLID_RADIUS |= {54: 32, 2035: 10}


def _table(names: str, formats: str) -> np.dtype:
  return np.dtype({'names': names.split(), 'formats': formats.split()})


LINEDEF = _table('start end flags special tag front back', '<u2 ' * 7)
SIDEDEF = _table('x y upper lower middle sector', '<i2 <i2 S8 S8 S8 <u2')
SECTOR = _table(
    'floor ceiling floor_flat ceiling_flat light special tag',
    '<i2 <i2 S8 S8 <i2 <i2 <i2',
)
THING = _table('x y angle type flags', '<i2 <i2 <i2 <u2 <u2')


@dataclasses.dataclass(frozen=True)
class Level:
  """Geometry of a level; L segments, S sectors, K obstacles; map units."""

  segments: np.ndarray  # float64 [L, 4]: x1, y1, x2, y2
  front: np.ndarray  # int64 [L]: sector right of the segment
  back: np.ndarray  # int64 [L]: sector left of it, -1 for a solid wall
  impassable: np.ndarray  # bool [L]: players cannot cross, whatever the heights
  hazard: np.ndarray  # bool [L]: crossing ends the level or teleports
  see_through: np.ndarray  # bool [L]: a grate or the like hangs in the opening
  textures: np.ndarray  # str [L, 2, 3]: front and back; upper, middle, lower
  floor: np.ndarray  # float64 [S]
  ceiling: np.ndarray  # float64 [S]
  sky: np.ndarray  # bool [S]: the ceiling is sky
  sky_floor: np.ndarray  # bool [S]: and so is the floor
  flats: np.ndarray  # str [S, 2]: textures of floor and ceiling
  can_move: bool  # some floor or ceiling could move in play
  obstacles: np.ndarray  # float64 [K, 3]: x, y, radius
  start: tuple[float, float, float]  # x, y, yaw in degrees


def read_directory(path: str) -> list[tuple[str, int, int]]:
  """Name, offset and size in bytes of every lump."""
  try:
    with open(path, 'rb') as f:
      header = f.read(12)
      if header[:4] not in (b'IWAD', b'PWAD') or len(header) < 12:
        raise UserError(f'{path}: not a WAD file')
      count, offset = struct.unpack('<4xii', header)
      f.seek(offset)
      table = f.read()[: 16 * count]
  except OSError as e:
    raise UserError(f'{path}: cannot read this WAD file ({e})') from e
  if len(table) < 16 * count:
    raise UserError(f'{path}: this WAD file is truncated')
  return [
      (name.split(b'\0')[0].decode('latin1').upper(), start, size)
      for start, size, name in struct.iter_unpack('<ii8s', table)
  ]


def map_names(path: str) -> tuple[str, ...]:
  """The levels of a WAD file, in its order."""
  return tuple(
      name for name, _, _ in read_directory(path) if MAP_NAME.fullmatch(name)
  )


def load_level(path: str, map_name: str) -> Level:
  """Reads one level, say 'MAP01'.

  Raises:
    UserError: if the file has no such level, or keeps it in another format.
  """
  lumps = _level_lumps(path, map_name.upper())
  if 'BEHAVIOR' in lumps or 'TEXTMAP' in lumps:
    raise UserError(f'{path}: {map_name} is not in the binary Doom format')
  vertices = np.frombuffer(lumps['VERTEXES'], '<i2').reshape(-1, 2)
  lines = np.frombuffer(lumps['LINEDEFS'], LINEDEF)
  sides = np.frombuffer(lumps['SIDEDEFS'], SIDEDEF)
  sectors = np.frombuffer(lumps['SECTORS'], SECTOR)
  things = np.frombuffer(lumps['THINGS'], THING)
  textures = _textures(lines, sides)
  flats = _names(np.stack([sectors[f'{k}_flat'] for k in FLOOR_AND_CEILING], 1))
  sky_floor, sky = np.char.startswith(flats, SKY).T
  back = _facing_sector(lines['back'], sides)
  return Level(
      segments=np.concatenate(
          [vertices[lines['start']], vertices[lines['end']]], 1
      ).astype(float),
      front=_facing_sector(lines['front'], sides),
      back=back,
      impassable=(lines['flags'] & IMPASSABLE) > 0,
      hazard=np.isin(lines['special'], WALK_OVER_HAZARDS),
      see_through=see_through(back, textures),
      textures=textures,
      floor=sectors['floor'].astype(float),
      ceiling=sectors['ceiling'].astype(float),
      sky=sky,
      sky_floor=sky_floor,
      flats=flats,
      can_move=bool(
          np.any(~np.isin(lines['special'], STILL))
          or np.any(np.isin(sectors['special'], MOVING_SECTORS))
      ),
      obstacles=_obstacles(things),
      start=_player_start(things, path, map_name),
  )


def see_through(back: np.ndarray, textures: np.ndarray) -> np.ndarray:
  """The lines [L] with something in their opening, of `Level`'s fields."""
  return (back >= 0) & (textures[:, :, 1] != NO_TEXTURE).any(1)


def sectors_in_row(level: Level, x: np.ndarray, y: float) -> np.ndarray:
  """The sectors at points (x, y), -1 in the void; x [N] to int64 [N].

  Going east along the row, the line crossed last tells the sector.
  """
  x1, y1, x2, y2 = level.segments.T
  y = y + 1 / 128  # To miss the vertices: they have whole numbers.
  crossed = np.flatnonzero((y1 > y) != (y2 > y))
  x1, y1, x2, y2 = level.segments[crossed].T
  crossing = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
  # The front is on the right: to the east, if the line goes north.
  east = np.where(y2 > y1, level.front[crossed], level.back[crossed])
  order = np.argsort(crossing)
  return np.append(-1, east[order])[np.searchsorted(crossing[order], x)]


def pwad(lumps: list[tuple[str, bytes]]) -> bytes:
  """The bytes of a patch WAD with these lumps."""
  data = b''.join(content for _, content in lumps)
  directory, offset = b'', 12
  for name, content in lumps:
    directory += struct.pack('<ii8s', offset, len(content), name.encode())
    offset += len(content)
  return struct.pack('<4sii', b'PWAD', len(lumps), offset) + data + directory


def _level_lumps(path, map_name):
  directory = read_directory(path)
  names = [name for name, _, _ in directory]
  if map_name not in names:
    known = ', '.join(n for n in names if MAP_NAME.fullmatch(n))
    raise UserError(
        f'{os.path.basename(path)} has no map {map_name!r}; '
        f'it has: {known or "none"}'
    )
  first = names.index(map_name) + 1
  lumps = {}
  with open(path, 'rb') as f:
    for name, offset, size in directory[first : first + 11]:
      if MAP_NAME.fullmatch(name):
        break
      f.seek(offset)
      lumps[name] = f.read(size)
  return lumps


def _facing_sector(side, sides):
  """The sector that each line's side faces, -1 where it has no such side."""
  sector = sides['sector'][np.minimum(side, len(sides) - 1)].astype(np.int64)
  return np.where(side == NO_SIDE, -1, sector)


def _textures(lines, sides):
  """Names [L, 2, 3] on both sides of all lines, '-' where there are none."""
  names = _names(np.stack([sides[k] for k in ('upper', 'middle', 'lower')], 1))
  side = np.stack([lines['front'], lines['back']], 1)
  found = names[np.minimum(side, len(sides) - 1)]
  return np.where(side[..., None] == NO_SIDE, NO_TEXTURE, found)


def _names(raw):
  """Text of names that end at their first zero byte; the empty one is '-'."""
  values, index = np.unique(raw, return_inverse=True)
  text = [v.split(b'\0')[0].decode('latin1').upper() for v in values]
  return np.array([t or NO_TEXTURE for t in text])[index].reshape(raw.shape)


def _obstacles(things):
  solid = [
      (t['x'], t['y'], SOLID_RADIUS[int(t['type'])])
      for t in things
      if int(t['type']) in SOLID_RADIUS
  ]
  return np.array(solid, float).reshape(-1, 3)


def _player_start(things, path, map_name):
  starts = things[things['type'] == PLAYER_START]
  if not len(starts):
    raise UserError(f'{path}: {map_name} has no player start')
  # With several, the engine uses the last.
  return tuple(float(starts[-1][k]) for k in ('x', 'y', 'angle'))

"""Procedural levels: a seed becomes rooms, a patch WAD, geometry, a caption.

A maze is a grid of square rooms. A random spanning tree of doorways makes every
room reachable; some extra doorways make loops, so that places can be revisited
by another way. What the engine renders, what the navigator plans on and what
the caption says are all read off the same `Maze`. The level is written as UDMF
text, for which the engine builds its own BSP nodes. `variants` makes mazes of
the same rooms with other textures, or without some object.
"""

import collections
import dataclasses
import random

import numpy as np

from worldsim_jax.data import wad

WALLS = {
    'brick': 'BRICK7',
    'grey stone': 'STONE4',
    'orange stone': 'STONE6',
    'metal': 'METAL1',
    'wood': 'WOOD12',
    'green marble': 'MARBLE1',
    'red rock': 'ROCKRED1',
    'red brick': 'SP_HOT1',
    'steel': 'SILVER1',
    'blue panel': 'COMPBLUE',
    'green tile': 'A-TILE',
    'tan panel': 'STARTAN2',
}
FLOORS = {
    'grass': 'GRASS1',
    'plank': 'FLAT5_2',
    'grey tile': 'AQF050',
    'orange tile': 'FLAT8',
    'pebble': 'MFLR8_3',
    'hexagon': 'FLOOR4_8',
    'red carpet': 'FLAT5_3',
    'blue carpet': 'FLAT14',
}
CEILINGS = ('CEIL3_5', 'CEIL5_1', 'FLAT5_4', 'FLOOR0_1', 'RROCK16', 'RROCK09')
# Name: the engine's thing type.
OBJECTS = {
    'blue torch': 44,
    'green torch': 45,
    'red torch': 46,
    'barrel': 2035,
    'lamp': 2028,
    'pillar': 48,
    'green column': 30,
    'candelabra': 35,
}
MONSTERS = {'zombie': 3004, 'sergeant': 9, 'imp': 3001, 'demon': 3002}

MAP_LUMP = 'MAP01'
DOOR_WIDTH = 128
CORNER = 80  # distance of an object from the two walls of its corner
EXTRA_DOOR_PROBABILITY = 0.3
ROOMS_PER_MONSTER = 3
# Where the engine keeps what is gone: out of the maze, hidden by its walls.
NOWHERE = (-4096, -4096)
WALLS_PER_MAZE, FLOORS_PER_MAZE = 4, 3


@dataclasses.dataclass(frozen=True)
class Room:
  """Keys of WALLS and FLOORS, a ceiling flat, heights in map units."""

  wall: str
  floor: str
  ceiling: str
  floor_height: int
  ceiling_height: int
  light: int  # 0 is black, 255 full


@dataclasses.dataclass(frozen=True)
class Maze:
  """n x n rooms; room i, j is number i * n + j and starts at (i, j) * size."""

  n: int
  size: int
  rooms: tuple[Room, ...]
  doors: frozenset[tuple[int, int]]  # pairs of room numbers, smaller first
  objects: tuple[tuple[str, int, int], ...]  # key of OBJECTS, x, y
  monsters: tuple[tuple[str, int, int], ...] = ()  # key of MONSTERS, x, y
  gone: tuple[tuple[int, str], ...] = ()  # number and name of taken objects

  @property
  def start(self) -> tuple[float, float, float]:
    return self.size / 2, self.size / 4, 90.0


@dataclasses.dataclass(frozen=True)
class Line:
  """Walking from (x1, y1) to (x2, y2), the front room is on the right."""

  x1: float
  y1: float
  x2: float
  y2: float
  front: int
  back: int | None


def generate(seed: int, n: int = 3, size: int = 384) -> Maze:
  """The maze of a seed, the same on every machine."""
  rng = random.Random(seed)
  doors = _doors(rng, n)
  walls = rng.sample(list(WALLS), WALLS_PER_MAZE)
  floors = rng.sample(list(FLOORS), FLOORS_PER_MAZE)
  rooms = tuple(
      Room(
          wall=rng.choice(walls),
          floor=rng.choice(floors),
          ceiling=rng.choice(CEILINGS),
          # Two rooms differ by at most 16: steps up to 24 can be climbed.
          floor_height=8 * rng.randint(0, 2),
          ceiling_height=128 + 32 * rng.randint(0, 3),
          light=rng.choice((160, 192, 224, 255)),
      )
      for _ in range(n * n)
  )
  kinds = rng.sample(list(OBJECTS), 3)
  objects = tuple(
      placed
      for room in range(n * n)
      for placed in _furnish(rng, room, n, size, kinds)
  )
  return Maze(n, size, rooms, doors, objects, _monsters(seed, n, size))


def caption(maze: Maze) -> str:
  """What a visitor would say, most common things first."""
  walls = collections.Counter(room.wall for room in maze.rooms)
  floors = collections.Counter(room.floor for room in maze.rooms)
  objects = collections.Counter(name for name, _, _ in maze.objects)
  text = (
      f'a {maze.n}x{maze.n} maze of rooms with {_listed(walls)} walls, '
      f'{_listed(floors)} floors'
  )
  if objects:
    text += ', ' + joined([counted(*item) for item in objects.most_common()])
  return text


def level(maze: Maze) -> wad.Level:
  """The same geometry that the engine gets."""
  lines = list(_lines(maze))
  back = np.array([-1 if line.back is None else line.back for line in lines])
  rooms = maze.rooms
  textures = np.array([_textures(maze, line) for line in lines])
  return wad.Level(
      segments=np.array([(l.x1, l.y1, l.x2, l.y2) for l in lines], float),
      front=np.array([line.front for line in lines]),
      back=back,
      impassable=back < 0,
      hazard=np.zeros(len(lines), bool),
      see_through=wad.see_through(back, textures),
      textures=textures,
      floor=np.array([room.floor_height for room in rooms], float),
      ceiling=np.array([room.ceiling_height for room in rooms], float),
      sky=np.zeros(len(rooms), bool),
      sky_floor=np.zeros(len(rooms), bool),
      flats=np.array([(FLOORS[room.floor], room.ceiling) for room in rooms]),
      can_move=False,
      obstacles=np.array(
          [
              (x, y, wad.SOLID_RADIUS[OBJECTS[name]])
              for name, x, y in maze.objects
          ],
          float,
      ).reshape(-1, 3),
      start=maze.start,
  )


def pwad(maze: Maze) -> bytes:
  """A patch WAD with the maze as MAP01, for freedoom2.wad."""
  return wad.pwad(
      [(MAP_LUMP, b''), ('TEXTMAP', _udmf(maze).encode()), ('ENDMAP', b'')]
  )


def _doors(rng, n):
  """A depth-first spanning tree of the grid, and some doors beyond it."""
  cells = [(i, j) for i in range(n) for j in range(n)]
  number = {cell: k for k, cell in enumerate(cells)}
  seen, stack, doors = {cells[0]}, [cells[0]], set()
  while stack:
    i, j = stack[-1]
    fresh = [
        c
        for c in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1))
        if c in number and c not in seen
    ]
    if not fresh:
      stack.pop()
      continue
    chosen = rng.choice(fresh)
    doors.add(tuple(sorted((number[i, j], number[chosen]))))
    seen.add(chosen)
    stack.append(chosen)
  for i, j in cells:
    for neighbour in ((i + 1, j), (i, j + 1)):
      if neighbour in number and rng.random() < EXTRA_DOOR_PROBABILITY:
        doors.add((number[i, j], number[neighbour]))
  return frozenset(doors)


def _furnish(rng, room, n, size, kinds):
  """Up to two objects in corners, where they leave the doorways free."""
  x, y = room // n * size, room % n * size
  corners = [
      (x + dx, y + dy)
      for dx in (CORNER, size - CORNER)
      for dy in (CORNER, size - CORNER)
  ]
  spots = rng.sample(corners, rng.choice((0, 1, 1, 2)))
  return [(rng.choice(kinds), *spot) for spot in spots]


def _monsters(seed, n, size):
  """One in the middle of every third room, not of the player's.

  They have dice of their own: mazes were made before there were monsters.
  """
  rng = random.Random(f'monsters of {seed}')
  homes = rng.sample(range(1, n * n), n * n // ROOMS_PER_MONSTER)
  return tuple(
      (
          rng.choice(list(MONSTERS)),
          room // n * size + size // 2,
          room % n * size + size // 2,
      )
      for room in homes
  )


def _lines(maze):
  """Every wall and doorway of the maze, doorways once."""
  n, size = maze.n, maze.size
  for room in range(n * n):
    i, j = divmod(room, n)
    x0, y0, x1, y1 = i * size, j * size, (i + 1) * size, (j + 1) * size
    # Clockwise, so that the room is on the right of each of its walls.
    for di, dj, a, b in (
        (-1, 0, (x0, y0), (x0, y1)),
        (0, 1, (x0, y1), (x1, y1)),
        (1, 0, (x1, y1), (x1, y0)),
        (0, -1, (x1, y0), (x0, y0)),
    ):
      neighbour = (i + di) * n + j + dj
      if tuple(sorted((room, neighbour))) in maze.doors and (
          0 <= i + di < n and 0 <= j + dj < n
      ):
        yield from _doorway(a, b, size, room, neighbour)
      else:
        yield Line(*a, *b, room, None)


def _doorway(a, b, size, room, neighbour):
  """A wall from a to b with an opening in its middle."""
  left, right = (
      tuple(p + (q - p) * t / 2 for p, q in zip(a, b))
      for t in (1 - DOOR_WIDTH / size, 1 + DOOR_WIDTH / size)
  )
  yield Line(*a, *left, room, None)
  yield Line(*right, *b, room, None)
  if room < neighbour:
    yield Line(*left, *right, room, neighbour)


def _textures(maze, line):
  """Names [2][3] of a line's textures, as in `wad.Level.textures`."""
  wall = WALLS[maze.rooms[line.front].wall]
  if line.back is None:
    return [[wall] * 3, [wad.NO_TEXTURE] * 3]
  behind = WALLS[maze.rooms[line.back].wall]
  # One sees through a doorway.
  return [[name, wad.NO_TEXTURE, name] for name in (wall, behind)]


def _udmf(maze):
  """The level as UDMF text; an object's number is its place in the text."""
  blocks = list(_line_blocks(maze))
  for room in maze.rooms:
    heights = dict(
        heightfloor=room.floor_height, heightceiling=room.ceiling_height
    )
    flats = dict(texturefloor=FLOORS[room.floor], textureceiling=room.ceiling)
    blocks.append(_block('sector', lightlevel=room.light, **heights, **flats))
  things = [(wad.PLAYER_START, *maze.start), *_things(maze)]
  always = dict.fromkeys(['single', *(f'skill{k}' for k in range(1, 6))], True)
  for kind, x, y, yaw in things:
    blocks.append(
        _block('thing', type=kind, x=x, y=y, angle=int(yaw), **always)
    )
  return 'namespace="zdoom";\n' + '\n'.join(blocks)


def _things(maze):
  """Engine type, x, y and yaw of objects and monsters.

  The order decides at which phase a torch flickers. So a maze that has lost an
  object looks like the maze that has it wherever that would not be seen.
  """
  things = [(OBJECTS[name], x, y, 0) for name, x, y in maze.objects]
  for number, name in maze.gone:
    things.insert(number, (OBJECTS[name], *NOWHERE, 0))
  return things + [(MONSTERS[name], x, y, 270) for name, x, y in maze.monsters]


def _line_blocks(maze):
  """Yields the text of all vertices, lines and sides."""
  vertices, num_sides = {}, 0
  for line in _lines(maze):
    ends = []
    for point in ((line.x1, line.y1), (line.x2, line.y2)):
      if point not in vertices:
        yield _block('vertex', x=point[0], y=point[1])
      ends.append(vertices.setdefault(point, len(vertices)))
    two_sided = line.back is not None
    sides = (line.front, line.back)[: 1 + two_sided]
    for room, (upper, middle, lower) in zip(sides, _textures(maze, line)):
      yield _block(
          'sidedef',
          sector=room,
          texturetop=upper,
          texturebottom=lower,
          texturemiddle=middle,
      )
    kind = (
        dict(sideback=num_sides + 1, twosided=True)
        if two_sided
        else dict(blocking=True)
    )
    yield _block('linedef', v1=ends[0], v2=ends[1], sidefront=num_sides, **kind)
    num_sides += 1 + two_sided


def _block(kind, **fields):
  def written(value):
    if isinstance(value, bool):
      return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)

  body = ''.join(f'{key}={written(v)};' for key, v in fields.items())
  return f'{kind}{{{body}}}'


def _listed(counter):
  return joined([name for name, _ in counter.most_common()])


def joined(words):
  return ' and '.join(filter(None, [', '.join(words[:-1]), words[-1]]))


def counted(name, count):
  if count == 1:
    return f'a {name}'
  words = ('two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
  amount = words[count - 2] if count <= 9 else str(count)
  plural = name + (
      'es' if name.endswith('ch') else '' if name.endswith('a') else 's'
  )
  return f'{amount} {plural}'

"""Mazes changed as the real world never does, for films of the impossible.

Rooms, doors, heights and light stay, so that a player's actions lead through a
variant as through its maze, and whatever is not changed looks the same, to the
byte. A film can therefore go over from one to the other at any frame.
"""

import dataclasses
import random

from worldsim_jax.data import generator
from worldsim_jax.errors import UserError


def change(
    maze: generator.Maze,
    *,
    decor: int | None = None,
    room: int | None = None,
    without: int | None = None,
) -> generator.Maze:
  """A variant of a maze.

  Args:
    maze: a generated one.
    decor: seed of other walls, floors and ceilings; see `redecorated`.
    room: the only room that gets them.
    without: number of an object that is gone.

  Raises:
    UserError: if the maze has no such room or object.
  """
  if room is not None and not room < len(maze.rooms):
    raise UserError(
        f'there is no room {room}, the last is {len(maze.rooms) - 1}'
    )
  if without is not None and not without < len(maze.objects):
    raise UserError(
        f'there is no object {without}, there are {len(maze.objects)}'
    )
  if decor is not None:
    maze = redecorated(maze, decor, room)
  if without is not None:
    name = maze.objects[without][0]
    objects = maze.objects[:without] + maze.objects[without + 1 :]
    maze = dataclasses.replace(maze, objects=objects, gone=((without, name),))
  return maze


def redecorated(
    maze: generator.Maze, seed: int, room: int | None = None
) -> generator.Maze:
  """Other textures, none of which the maze has, in all rooms or in one."""
  rng = random.Random(f'decor {seed}')

  def choices(known, used, count):
    return rng.sample([name for name in known if name not in used], count)

  walls = choices(
      generator.WALLS,
      {r.wall for r in maze.rooms},
      generator.WALLS_PER_MAZE,
  )
  floors = choices(
      generator.FLOORS,
      {r.floor for r in maze.rooms},
      generator.FLOORS_PER_MAZE,
  )
  rooms = list(maze.rooms)
  for number, old in enumerate(rooms):
    new = dataclasses.replace(
        old,
        wall=rng.choice(walls),
        floor=rng.choice(floors),
        ceiling=rng.choice(choices(generator.CEILINGS, {old.ceiling}, 5)),
    )
    if room in (None, number):
      rooms[number] = new
  return dataclasses.replace(maze, rooms=tuple(rooms))

"""What happens in a film that no action brings about: cuts, and the impossible.

  kind      argument     from its frame on
  cut       x, y, yaw    another shot: the player stands elsewhere
  teleport  x, y, yaw    the same without a cut
  ghost                  the player walks through walls,
  solid                  until then
  map       a name       the same world, but for what differs in that map: a
                         variant, see `maps`

A cut is how films are told. A teleport, a ghost and a map violate what has been
seen to hold, and the film says so (`violation_id`). Their frame is the first
that shows it, if they were planned by `impossible`.
"""

import dataclasses

import numpy as np

WITH_PLACE = ('cut', 'teleport')
VIOLATIONS = ('teleport', 'ghost', 'map')
KINDS = (*WITH_PLACE, 'ghost', 'solid', 'map')


@dataclasses.dataclass(frozen=True, order=True)
class Event:
  """Something that is so from a frame on."""

  frame: int
  kind: str
  argument: tuple[float, float, float] | str | None = None

  def __post_init__(self):
    if self.kind not in KINDS or self.frame < 1:
      raise ValueError(
          f'event {self.kind!r} at frame {self.frame}: kinds are '
          f'{", ".join(KINDS)}; nothing happens before frame 1'
      )
    if self.kind in WITH_PLACE:
      x, y, yaw = map(float, self.argument)
      object.__setattr__(self, 'argument', (x, y, yaw))
    elif isinstance(self.argument, str) != (self.kind == 'map'):
      raise ValueError(f'event {self.kind!r}: what is {self.argument!r}?')


def of_json(rows) -> tuple[Event, ...]:
  """Of lists of the fields, as a recipe in JSON has them."""
  return tuple(sorted(Event(*row) for row in rows))


def step(engine, action, now: list[Event]):
  """Like engine.step(action), in a frame in which all of `now` happens."""
  places = [event.argument for event in now if event.kind in WITH_PLACE]
  for event in now:
    if event.kind in ('ghost', 'solid'):
      engine.toggle_walls()
  if places:
    return engine.jump(places[-1])
  return engine.step(action)


def count(events, kinds, num_frames: int) -> np.ndarray:
  """How many events of some kinds there were up to each frame, int32 [T]."""
  frames = [event.frame for event in events if event.kind in kinds]
  return np.searchsorted(
      np.sort(frames), np.arange(num_frames), side='right'
  ).astype(np.int32)


def maps_in(events, first_map: str) -> list[tuple[int, str]]:
  """First frame and name of the maps that a film shows, in order."""
  changes = [(e.frame, e.argument) for e in events if e.kind == 'map']
  return [(0, first_map), *sorted(changes)]

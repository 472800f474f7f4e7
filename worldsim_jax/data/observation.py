"""What the engine tells besides its picture: sprites, objects, moved sectors.

`engine.Options.geometry` turns it on. An episode then has these fields more:

  sprites       bool    [T, H, W]  a thing or monster covers part of the pixel
  moved         float32 [M, 4]     frame, sector, floor, ceiling: heights that
                                   are new in this frame; before, the map's
  objects       float32 [N, 9]     frame, id, x, y, z of the feet, and the box
                                   left, top, right, bottom; see `object_tracks`
  object_names  str                JSON: names by id

There is a row of `objects` for every object that is seen in the film, in every
frame in which it exists. A box is in pixels of the frame, around what is
visible of the sprite, NaN where nothing is. Sprites are flat pictures that turn
to the eye: a box follows its object to some pixels, and is no exact geometry.
An object's id holds until a game ends and begins anew.
"""

import dataclasses
import json

import numpy as np

from worldsim_jax.data import area

# In the engine's buffer of labels 0 and 1 are the level itself.
LEVEL_LABELS = 1
# Objects of the k-th game of a film have ids from k times this.
IDS_PER_GAME = 2**16
PLAYER = 'DoomPlayer'


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
  """Of one frame."""

  sprites: np.ndarray  # bool [H, W]
  heights: np.ndarray | None  # float32 [S, 2]; None if nothing can move
  names: dict[int, str]  # of objects that exist
  positions: dict[int, tuple[float, float, float]]
  boxes: dict[int, tuple[float, float, float, float]]  # of those seen


@dataclasses.dataclass(frozen=True, eq=False)
class ObjectTracks:
  """K objects in T frames."""

  ids: np.ndarray  # int32 [K]
  names: tuple[str, ...]
  positions: np.ndarray  # float32 [T, K, 3]: of the feet; NaN: does not exist
  boxes: np.ndarray  # float32 [T, K, 4]: left, top, right, bottom; NaN: unseen


def configure(game, level):
  """Asks a game that is not yet started to tell it."""
  game.set_labels_buffer_enabled(True)
  game.set_objects_info_enabled(True)
  # All lines of the level come with it: 6 ms a frame on MAP12.
  game.set_sectors_info_enabled(level.can_move)


def of_state(state, options) -> Seen:
  """Reads the state of a game; options are `engine.Options`."""
  heights = None
  if state.sectors is not None and len(state.sectors):
    heights = np.array(
        [(s.floor_height, s.ceiling_height) for s in state.sectors], np.float32
    )
  return Seen(
      _shrink(
          state.labels_buffer > LEVEL_LABELS, options.height, options.width
      ),
      heights,
      {o.id: o.name for o in state.objects},
      {o.id: (o.position_x, o.position_y, o.position_z) for o in state.objects},
      {label.object_id: _box(label, options) for label in state.labels},
  )


def fields(seen: list[Seen], games, level) -> dict:
  """The fields of an episode.

  Args:
    seen: of all frames.
    games: int [T], which grows when the game began anew.
    level: of the map.
  """
  moved, objects, names = [], [], {}
  heights = np.stack([level.floor, level.ceiling], 1).astype(np.float32)
  met = {
      _id(game, number)
      for frame, game in zip(seen, games)
      for number in frame.boxes
      if frame.names.get(number) != PLAYER
  }
  nowhere = (np.nan,) * 4
  for t, (frame, game) in enumerate(zip(seen, games)):
    if frame.heights is not None:
      for sector in np.flatnonzero((frame.heights != heights).any(1)):
        moved.append((t, sector, *frame.heights[sector]))
      heights = frame.heights
    for number, position in frame.positions.items():
      if _id(game, number) in met:
        names[_id(game, number)] = frame.names[number]
        box = frame.boxes.get(number, nowhere)
        objects.append((t, _id(game, number), *position, *box))
  return dict(
      sprites=np.stack([frame.sprites for frame in seen]),
      moved=np.array(moved, np.float32).reshape(-1, 4),
      objects=np.array(objects, np.float32).reshape(-1, 9),
      object_names=json.dumps(names),
  )


def spliced(parts: list[tuple[dict, int, int]]) -> dict:
  """The tables of a film of parts: episode, first frame, and the one after."""
  tables = {}
  for field in ('moved', 'objects'):
    cut = [
        film[field][(film[field][:, 0] >= a) & (film[field][:, 0] < b)]
        for film, a, b in parts
    ]
    tables[field] = np.concatenate(cut)
  names = {}
  for film, _, _ in parts:
    names |= json.loads(film['object_names'])
  return tables | dict(object_names=json.dumps(names))


def object_tracks(episode: dict) -> ObjectTracks:
  """Of an episode that has the fields above; ids in growing order."""
  rows = np.asarray(episode['objects'])
  names = json.loads(episode['object_names'])
  ids, column = np.unique(rows[:, 1].astype(np.int32), return_inverse=True)
  shape = len(episode['pose']), len(ids)
  positions = np.full((*shape, 3), np.nan, np.float32)
  boxes = np.full((*shape, 4), np.nan, np.float32)
  frame = rows[:, 0].astype(int)
  positions[frame, column], boxes[frame, column] = rows[:, 2:5], rows[:, 5:]
  return ObjectTracks(
      ids, tuple(names[str(number)] for number in ids), positions, boxes
  )


def _id(game, number):
  return int(game) * IDS_PER_GAME + number


def _box(label, options):
  """left, top, right, bottom in pixels of the frame."""
  across = options.width / options.render_width
  down = options.height / options.render_height
  return (
      label.x * across,
      label.y * down,
      (label.x + label.width) * across,
      (label.y + label.height) * down,
  )


def _shrink(mask, height, width):
  """Which pixels of a smaller picture [height, width] have any of a mask."""
  if mask.shape == (height, width):
    return mask.copy()
  rows = area.overlaps(mask.shape[0], height)
  columns = area.overlaps(mask.shape[1], width)
  return rows @ mask @ columns.T > 0

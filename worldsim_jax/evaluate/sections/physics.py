"""Physics-IQ's score on monsters: does what moves move where and when it must?

Scenes are rooms of test maps; the player faces a monster and stands still, so
that whatever moves moves by itself. The engine with another seed is the second
take that the formula asks for (evaluate/physics_iq.py): what it is to guess
right in a world that rolls dice. They are rolled from the first frame on, so
the takes are alike at the beginning, not the same. A model that never saw a
monster, as the quickstart's has not, is asked for more than it was taught.
"""

import dataclasses

import numpy as np

from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import maps as maps_lib
from worldsim_jax.data import navigator
from worldsim_jax.data import occupancy
from worldsim_jax.data import sight
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import clips as clips_lib
from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate import physics_iq
from worldsim_jax.evaluate import replay
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.trial import Trial

SCENES, FILM_SCENES = 8, 4
TRIES = 6  # places per map, of which the one where most moves is taken
NEAR, FAR = 128.0, 448.0  # map units from the place to a monster
SMALL = 96  # pixels of height below which masks are opened by less
LEAST_MOVING = 0.002  # share of pixels and frames that some monster moves


def measure(trial: Trial) -> figures.Section:
  """The score of the scenes.

  Raises:
    UserError: if nothing moves in any scene.
  """
  section = figures.Section('Physics: what moves by itself')
  takes = scenes(trial)
  clips, second = (
      clips_lib.of_episodes(films, trial.given) for films in zip(*takes)
  )
  film = trial.subject(clips).rgb
  kernel = 5 if trial.config.data.height >= SMALL else 3
  compared = lambda films: [
      physics_iq.compare(*both, kernel=kernel)
      for both in zip(films, clips.future)
  ]
  model, star = compared(film), compared(second.future)
  for name in physics_iq.NAMES:
    ours, real = ([row[name] for row in rows] for rows in (model, star))
    section.figures.append(
        figures.mean(f'physics_{name}', ours, clips.maps, real)
    )
  # Where nothing moves in either film counts, too: a still one has some points.
  still = compared(subjects.copy(clips).rgb)
  for prefix, rows in (('', model), ('copy_', still)):
    score = physics_iq.dataset_score(rows, star, clips.maps)
    section.figures.append(
        figures.Figure(
            f'{prefix}physics_iq',
            *score,
            len(clips),
            real=100.0,
            unit='of 100',
        )
    )
  section.notes.append(
      f'{len(clips)} scenes of {clips.horizon} frames. For the four parts the '
      'column of the true future is the second take: the same scene under '
      'another seed of the engine.'
  )
  section.films['Monsters: true future, second take, subject'] = replay.film(
      {
          'true future': clips.future,
          'second take': second.future,
          trial.name: film,
      },
      clips,
      FILM_SCENES,
  )
  return section


def scenes(trial: Trial) -> list[tuple]:
  """Pairs of takes: the same place, another seed of the engine."""
  config = trial.config
  options = engine_lib.Options(
      height=config.data.height,
      width=config.data.width,
      tics_per_frame=config.data.tics_per_frame,
      monsters=True,
  )
  num_frames = trial.given + config.evaluate.horizon
  found = []
  for number, name in enumerate(trial.test_maps(SCENES)):
    seeds = 1000 * config.evaluate.seed + 100 * number + np.arange(TRIES)
    with engine_lib.Engine(name, **options.engine_options) as engine:
      places = _places(engine.map, int(seeds[0]))
      takes = [
          _takes(engine, options, num_frames, int(seed), start)
          for seed, start in zip(seeds, places)
      ]
    takes = [both for both in takes if both is not None]
    # Of the take that moves least: neither is chosen for what it does.
    moving = [
        min(_moving(one['rgb']) for one in both) if _still(*both) else 0.0
        for both in takes
    ]
    if max(moving, default=0.0) >= LEAST_MOVING:
      found.append(takes[int(np.argmax(moving))])
  if not found:
    raise UserError(
        f'no monster moves in any of {SCENES} scenes of {num_frames} frames '
        '(config.data.generated_test_maps, config.evaluate.horizon)'
    )
  return found


def _moving(film):
  return physics_iq.motion_masks(film).mean()


def _still(*films):
  """Whether no monster pushes the player about."""
  return all(np.ptp(film['pose'], axis=0).max() == 0 for film in films)


def _places(map_, seed):
  """Up to TRIES x, y and yaw: of a maze, places that face a monster in sight.

  Where monsters are on other maps is not told: places are any.
  """
  grid = occupancy.of_map(map_.name)
  if not map_.name.startswith(maps_lib.GENERATED):
    return [navigator.random_start(grid, seed + k) for k in range(TRIES)]
  rng = np.random.default_rng(seed)
  monsters = maps_lib.maze_of(map_.name).monsters
  free = grid.centre(grid.free_cells)
  places = []
  for k in range(TRIES):
    _, *monster = monsters[k % len(monsters)]
    way = np.array(monster) - free
    far = np.hypot(*way.T)
    good = (far >= NEAR) & (far <= FAR) & sight.clear(map_.level, monster, free)
    if good.any():
      one = rng.choice(np.flatnonzero(good))
      yaw = np.degrees(np.arctan2(way[one, 1], way[one, 0]))
      places.append((*map(float, free[one]), float(yaw)))
  return places


def _takes(engine, options, num_frames, seed, start):
  """Two films from one place, in which the player does nothing; or None.

  None if nobody can stand there: a grid says so of most places only.
  """
  recipe = episodes.Recipe(
      engine.map.name,
      ((0.0, 0.0, 0.0),) * num_frames,
      seed=seed,
      start=start,
      **options.engine_options,
  )
  try:
    return tuple(
        episodes.render(dataclasses.replace(recipe, seed=s), engine)
        for s in (seed, seed + 50)
    )
  except UserError:
    return None

"""Attributes: do the pixels show the walls and the floor that are there?

A classifier without learned features (evaluate/attributes.py) is fitted on true
frames of training maps, whose rooms are known exactly, and asked which walls
and which floor each generated frame shows. Its accuracy on the true frames is
the ceiling, the commonest class the floor.
"""

import json

import numpy as np

from worldsim_jax.data import captions
from worldsim_jax.data import maps as maps_lib
from worldsim_jax.data import records
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import attributes
from worldsim_jax.evaluate import figures
from worldsim_jax.evaluate import trial as trials
from worldsim_jax.evaluate.trial import Trial

MOST_FILMS, FRAMES_PER_FILM = 400, 4
# As far as two rooms may be in one picture: a class per frame is that of the
# room the player is in.
NAMES = ('wall', 'floor')


def measure(trial: Trial) -> figures.Section:
  """Accuracies on the clips.

  Raises:
    UserError: if no clip is of a generated map.
  """
  section = figures.Section('Attributes: walls and floors, told from pixels')
  known = [name.startswith(maps_lib.GENERATED) for name in trial.clips.maps]
  if not any(known):
    raise UserError(
        'walls and floors are known of generated maps only '
        '(config.data.generated_test_maps)'
    )
  clips = trial.clips.take(known)
  film = trial.played(trials.CLIPS).rgb[known]
  classifier, count = _fit(trial)
  labels = [
      labels_of(name, pose[clips.given :])
      for name, pose in zip(clips.maps, clips.pose)
  ]
  ours, real = (_told(classifier, rgb) for rgb in (film, clips.future))
  for name in NAMES:
    common = classifier.majority[name]
    rights, balanced = zip(
        *(_accuracies(told[name], labels, name) for told in (ours, real))
    )
    section.figures += [
        figures.mean(f'{name}_accuracy', rights[0], clips.maps, real=rights[1]),
        figures.single(
            f'{name}_balanced_accuracy',
            balanced[0],
            real=balanced[1],
            count=len(clips),
        ),
        figures.mean(
            f'{name}_accuracy_of_the_commonest',
            [np.mean(of_clip[name] == common) for of_clip in labels],
            clips.maps,
        ),
    ]
  section.notes.append(
      f'Ridge classifier on colours and gradients, fitted on {count} true '
      'frames of training maps.'
  )
  return section


def labels_of(map_name: str, pose) -> dict[str, np.ndarray]:
  """Names of the wall and the floor of the room at each pose, str [T]."""
  maze = maps_lib.maze_of(map_name)
  rooms = [maze.rooms[number] for number in captions.rooms(maze, pose)]
  return {
      name: np.array([getattr(room, name) for room in rooms]) for name in NAMES
  }


def _told(classifier, films):
  """What the classifier says of each frame, str [n, T] by attribute."""
  told = [
      attributes.predict(classifier, attributes.features(film))
      for film in films
  ]
  return {name: np.stack([film[name] for film in told]) for name in NAMES}


def _accuracies(told, labels, name):
  """Share of right frames of each clip, [n], and balanced over all frames."""
  labels = np.stack([of_clip[name] for of_clip in labels])
  both = attributes.accuracy(told.reshape(-1), labels.reshape(-1))
  return np.mean(told == labels, axis=1), both['balanced_accuracy']


def _fit(trial):
  """On true frames spread over the training films."""
  source = records.Source(trial.frames_dir, 'train')
  chosen = np.unique(np.linspace(0, len(source) - 1, MOST_FILMS).astype(int))
  frames, labels = [], {name: [] for name in NAMES}
  for number in map(int, chosen):
    film = source[number]
    name = json.loads(film.get('recipe') or '{}').get('map', '')
    if name.startswith(maps_lib.GENERATED):
      some = slice(None, None, max(1, len(film['rgb']) // FRAMES_PER_FILM))
      frames.append(film['rgb'][some])
      for key, values in labels_of(name, film['pose'][some]).items():
        labels[key].append(values)
  if any(len(set(np.concatenate(labels[name] or [[]]))) < 2 for name in NAMES):
    raise UserError(
        'walls and floors are learned from training films, which '
        'must show two of each (config.data.generated_train_maps)'
    )
  frames = np.concatenate(frames)
  classifier = attributes.fit(
      attributes.features(frames),
      {name: np.concatenate(values) for name, values in labels.items()},
  )
  return classifier, len(frames)

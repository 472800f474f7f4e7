"""Attributes: which room a picture shows, against which room it is."""

import dataclasses
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

from tests.evaluate import tiny_trial
from worldsim_jax.data import maps as maps_lib
from worldsim_jax.data import records
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import subjects
from worldsim_jax.evaluate.sections import attributes


def grey(clips):
  return subjects.Played(np.full_like(clips.future, 128))


@pytest.mark.slow
class AttributesTest(absltest.TestCase):

  def test_labels_are_those_of_the_room_that_one_is_in(self):
    name = 'gen:1048576'
    maze = maps_lib.maze_of(name)
    i, j = 1, 2
    pose = np.array([[(i + .5) * maze.size, (j + .5) * maze.size, 41, 0]])
    labels = attributes.labels_of(name, pose)
    room = maze.rooms[i * maze.n + j]
    self.assertEqual((labels['wall'][0], labels['floor'][0]),
                     (room.wall, room.floor))

  def test_the_truth_is_as_good_as_the_classifier(self):
    found = tiny_trial.figures_of(attributes.measure(tiny_trial.make()))
    for name in ('wall_accuracy', 'floor_accuracy'):
      self.assertEqual(found[name].value, found[name].real)
      self.assertEqual(found[name].count, len(tiny_trial.make().clips))

  def test_a_grey_picture_shows_no_room(self):
    found = tiny_trial.figures_of(attributes.measure(tiny_trial.of(grey)))
    known = [found[name].real - found[name].value
             for name in ('wall_accuracy', 'floor_accuracy')]
    self.assertGreater(sum(known), .1)

  def test_rooms_of_other_maps_are_not_known(self):
    trial = tiny_trial.make()
    trial = dataclasses.replace(trial)
    vars(trial)['clips'] = dataclasses.replace(
        tiny_trial.make().clips, maps=np.array(['MAP21'] * 8, object))
    with self.assertRaisesRegex(UserError, 'config.data.generated_test_maps'):
      attributes.measure(trial)

  def test_labels_are_those_of_the_frames_that_are_shown(self):
    asked, trial = [], tiny_trial.make()

    def labels_of(name, pose):
      asked.append(pose)
      return known(name, pose)

    known = attributes.labels_of
    with mock.patch.object(attributes, 'labels_of', labels_of):
      attributes.measure(trial)
    some = lambda pose: any(np.array_equal(pose, x) for x in asked)
    for pose in trial.clips.pose:
      self.assertTrue(some(pose[trial.clips.given:]))
    # Training frames are every so many of a film.
    source = records.Source(trial.frames_dir, 'train')
    step = len(source[0]['rgb']) // attributes.FRAMES_PER_FILM
    for number in range(len(source)):
      self.assertTrue(some(source[number]['pose'][::step]))


if __name__ == '__main__':
  absltest.main()

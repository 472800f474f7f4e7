"""Attributes from pixels: by hand, on the engine's mazes, corruptions."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import generator
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import attributes


@functools.cache
def _mazes(*seeds):
  """Two frames of every room of mazes, and what the rooms are made of."""
  frames, walls, floors = [], [], []
  rng = np.random.default_rng(seeds[0])
  for seed in seeds:
    maze = generator.generate(seed)
    with engine_lib.Engine(f'gen:{seed}') as engine:
      for i, room in enumerate(maze.rooms):
        middle = (np.array(divmod(i, maze.n)) + 0.5) * maze.size
        for yaw in rng.uniform(0, 360, 2):
          frames.append(engine.reset(0, (*middle, float(yaw)))[0])
          walls.append(room.wall)
          floors.append(room.floor)
  return np.stack(frames), {'wall': np.array(walls), 'floor': np.array(floors)}


@functools.cache
def _fitted():
  frames, labels = _mazes(*range(10))
  return attributes.fit(attributes.features(frames), labels)


def _accuracies(frames, labels):
  found = attributes.predict(_fitted(), attributes.features(frames))
  return {
      name: attributes.accuracy(found[name], labels[name])['balanced_accuracy']
      for name in labels
  }


class OnTheEngineTest(absltest.TestCase):

  @pytest.mark.slow
  def test_walls_and_floors_of_unseen_mazes_are_told(self):
    frames, labels = _mazes(100, 101, 102)
    x = attributes.features(frames)
    told = attributes.predict(_fitted(), x)
    right = {
        name: attributes.accuracy(told[name], labels[name])['accuracy']
        for name in labels
    }
    # From 180 frames; ten times as many tell 81 % of walls.
    self.assertGreater(right['wall'], 0.45)
    self.assertGreater(right['floor'], 0.85)
    for name, accuracy in right.items():
      common = np.mean(labels[name] == _fitted().majority[name])
      self.assertGreater(accuracy, 2 * common)

  def test_wrong_captions_and_lost_colours_are_seen(self):
    frames, labels = _mazes(100, 101, 102)
    right = _accuracies(frames, labels)
    other = np.roll(np.arange(len(frames)), len(frames) // 2)
    swapped = _accuracies(
        frames, {name: values[other] for name, values in labels.items()}
    )
    grey = frames.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8)
    faded = _accuracies(grey, labels)
    for name in labels:
      self.assertLess(swapped[name], 0.5 * right[name])
      self.assertLess(faded[name], 0.8 * right[name])

  @pytest.mark.slow
  def test_light_matters_little(self):
    frames, labels = _mazes(100, 101, 102)
    dimmed = (frames * 0.8).astype(np.uint8)
    self.assertGreater(_accuracies(dimmed, labels)['floor'], 0.75)

  @pytest.mark.slow
  def test_equal_frames_give_equal_answers(self):
    frames, labels = _mazes(100, 101, 102)
    x = attributes.features(frames)
    np.testing.assert_array_equal(x, attributes.features(frames))
    again = attributes.fit(x, labels)
    for name, weights in attributes.fit(x, labels).weights.items():
      np.testing.assert_array_equal(weights, again.weights[name])
    # One at a time or many: the sums of a frame are its own.
    np.testing.assert_allclose(
        x[20:22], attributes.features(frames[20:22]), rtol=1e-9, atol=1e-12
    )


class FitTest(parameterized.TestCase):

  def test_two_classes_on_a_line_by_hand(self):
    x = np.array([[0.0], [0.0], [2.0], [2.0]])
    labels = {'side': np.array(['left', 'left', 'right', 'right'])}
    fitted = attributes.fit(x, labels, ridge=0.0)
    # Standardised features are the targets themselves.
    np.testing.assert_allclose(
        fitted.weights['side'], [[-1, 1], [0, 0]], atol=1e-9
    )
    shrunk = attributes.fit(x, labels, ridge=1.0)
    # Equation (1): 4 / (4 + 1 x 4).
    np.testing.assert_allclose(shrunk.weights['side'][0], [-0.5, 0.5])
    found = attributes.predict(fitted, [[0.9], [1.1]])
    self.assertEqual(found['side'].tolist(), ['left', 'right'])

  def test_rare_classes_count_as_much_as_common_ones(self):
    x = np.concatenate([np.full(97, 0.0), np.full(3, 1.0)])[:, None]
    x = x + np.random.default_rng(0).normal(0, 0.3, x.shape)
    labels = {'a': np.array(['no'] * 97 + ['yes'] * 3)}
    fitted = attributes.fit(x, labels)
    found = attributes.predict(fitted, x)['a']
    scores = attributes.accuracy(found, labels['a'])
    self.assertGreater(scores['balanced_accuracy'], 0.85)
    self.assertEqual(fitted.majority['a'], 'no')

  def test_features_that_never_change_do_no_harm(self):
    x = np.array([[0.0, 5.0], [1.0, 5.0]] * 10)
    fitted = attributes.fit(x, {'a': np.array(['no', 'yes'] * 10)})
    # Even if they change later.
    found = attributes.predict(fitted, [[0.0, 900.0], [1.0, -900.0]])
    self.assertEqual(found['a'].tolist(), ['no', 'yes'])

  def test_accuracies_by_hand(self):
    labels = np.array(['a', 'a', 'a', 'b'])
    scores = attributes.accuracy(['a', 'a', 'a', 'a'], labels)
    self.assertEqual(scores, {'accuracy': 0.75, 'balanced_accuracy': 0.5})
    unseen = attributes.accuracy(['a', 'b'], ['c', 'c'])
    self.assertEqual(unseen['accuracy'], 0)

  def test_one_class_cannot_be_fitted(self):
    with self.assertRaisesRegex(
        ValueError, r"wall: all frames are \['brick'\]"
    ):
      attributes.fit(np.zeros((3, 2)), {'wall': ['brick'] * 3})

  def test_labels_must_be_as_many_as_frames(self):
    with self.assertRaisesRegex(ValueError, r'wall: \(2,\) labels for 3'):
      attributes.fit(np.zeros((3, 2)), {'wall': ['a', 'b']})

  @parameterized.parameters(
      (np.zeros((2, 48, 64, 3)), ValueError, 'float64'),
      (np.zeros((2, 12, 64, 3), np.uint8), UserError, '12x64 are too small'),
  )
  def test_other_frames_are_refused(self, frames, error, message):
    with self.assertRaisesRegex(error, message):
      attributes.features(frames)

  def test_no_frames_have_features_of_the_same_length(self):
    none = attributes.features(np.zeros((0, 48, 64, 3), np.uint8))
    one = attributes.features(np.zeros((1, 48, 64, 3), np.uint8))
    self.assertEqual(none.shape, (0, one.shape[1]))


if __name__ == '__main__':
  absltest.main()

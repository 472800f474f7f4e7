"""Clips whose other futures the real engine renders."""

import functools
from unittest import mock

from absl.testing import absltest
import numpy as np

from tests.streaming import tiny_world
from worldsim_jax.data import engine as engine_lib
from worldsim_jax.data import episodes
from worldsim_jax.data import records
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import clips as clips_lib

GIVEN, HORIZON = 2, 4
MAPS = ('gen:1048576', 'gen:1048577')  # of the test split


@functools.cache
def walked():
  """Two films of the engine, on two maps."""
  films = []
  for seed, name in enumerate(MAPS):
    with engine_lib.Engine(name, height=24, width=32) as engine:
      films.append(
          episodes.record(engine, policy='navigate', num_frames=12, seed=seed)
      )
  return films


def film(moves, seed=0):
  """Of a user: frame t differs from the one before by moves[t]."""
  dice = np.random.default_rng(seed)
  shades = np.cumsum(moves).astype(np.uint8)
  rgb = (
      dice.integers(0, 99, (24, 32, 3), dtype=np.uint8)
      + shades[:, None, None, None]
  )
  actions = dice.normal(0, 9, (len(moves), 3)).astype(np.float32)
  return {'rgb': rgb, 'actions': actions, 'caption': f'room {seed}'}


def of_test_split(films, **evaluate):
  config = tiny_world.config()
  config.evaluate.update(dict(num_clips=4, horizon=HORIZON) | evaluate)
  with mock.patch.object(records, 'Source', lambda *unused: films):
    return clips_lib.of_test_split(config, 'folder', GIVEN)


class SplitTest(absltest.TestCase):

  def test_only_clips_whose_first_new_frame_moves_are_taken(self):
    early, now, later = (
        film([9 * (t == frame) for t in range(6)], seed=frame)
        for frame in (1, 2, 3)
    )
    found = of_test_split([early, now, later, now], min_motion=8.0)
    self.assertEqual(found.rgb.shape, (2, 6, 24, 32, 3))
    for index in range(2):
      np.testing.assert_array_equal(found.rgb[index], now['rgb'])
      np.testing.assert_array_equal(found.actions[index], now['actions'])
      self.assertEqual(found.captions[index], 'room 2')

  def test_without_a_clip_that_moves_the_keys_are_named(self):
    with self.assertRaisesRegex(
        UserError, r'none of 4 .* 4.0 grey levels \(config.evaluate.min_mot'
    ):
      of_test_split([film([0, 9, 3, 9, 9, 9])], min_motion=4.0)

  def test_all_clips_are_taken_if_none_must_move(self):
    self.assertLen(of_test_split([film([0] * 6)], min_motion=0.0), 4)

  def test_clips_know_where_they_are_in_their_films(self):
    clips = of_test_split(walked(), min_motion=0.0)
    self.assertCountEqual(set(clips.maps), MAPS)
    for index, name in enumerate(clips.maps):
      begin = clips.begins[index]
      whole = walked()[MAPS.index(name)]
      np.testing.assert_array_equal(
          clips.rgb[index], whole['rgb'][begin : begin + GIVEN + HORIZON]
      )
      np.testing.assert_array_equal(
          clips.pose[index], whole['pose'][begin : begin + GIVEN + HORIZON]
      )


class OtherFuturesTest(absltest.TestCase):

  def test_the_same_actions_lead_to_the_same_frames(self):
    clips = of_test_split(walked(), min_motion=0.0)
    np.testing.assert_array_equal(clips.commanded(clips.actions).rgb, clips.rgb)

  def test_other_actions_change_the_future_and_not_the_past(self):
    clips = of_test_split(walked(), min_motion=4.0)
    turned = np.zeros_like(clips.actions)
    turned[..., 2] = 12.0
    other = clips.commanded(turned)
    np.testing.assert_array_equal(other.rgb[:, :GIVEN], clips.rgb[:, :GIVEN])
    np.testing.assert_array_equal(other.actions[:, GIVEN:], turned[:, GIVEN:])
    yaw = np.diff(other.pose[:, GIVEN - 1 :, 3], axis=1) % 360
    np.testing.assert_allclose(yaw, 12, atol=360 / 65536)  # An engine's step.
    self.assertGreater(np.abs(np.diff(other.future, axis=1)).max(), 0)

  def test_films_without_recipes_have_one_future_only(self):
    clips = of_test_split([film([0, 9, 9, 9, 9, 9])])
    with self.assertRaisesRegex(UserError, 'other futures need films of the e'):
      clips.commanded(clips.actions)


class PartsTest(absltest.TestCase):

  def test_the_end_of_a_clip_is_a_clip(self):
    clips = clips_lib.of_episodes(walked(), given=4)
    end = clips.last_frames(7, given=3)
    np.testing.assert_array_equal(end.rgb, clips.rgb[:, 5:])
    self.assertEqual((end.given, end.horizon), (3, 4))
    # It still knows its recipe: the engine makes the same frames.
    np.testing.assert_array_equal(end.commanded(end.actions).rgb, end.rgb)

  def test_taking_some_clips_takes_all_that_belongs_to_them(self):
    clips = clips_lib.of_episodes(walked(), GIVEN)
    second = clips.take([False, True])
    self.assertLen(second, 1)
    np.testing.assert_array_equal(second.pose[0], clips.pose[1])
    self.assertEqual(second.recipes, clips.recipes[1:])
    self.assertEqual(list(second.maps), [MAPS[1]])


if __name__ == '__main__':
  absltest.main()

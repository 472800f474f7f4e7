"""A session: what it makes depends on its seed and actions, and on no more."""

import io
from unittest import mock

from absl.testing import absltest
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from benchmarks.timing import compilations
from tests.streaming import tiny_world
from tests.streaming.tiny_world import ACTIONS
from worldsim_jax.data import actions as action_lib
from worldsim_jax.models import text_encoder
from worldsim_jax.streaming.world import World


def play(world, session, actions):
  """(session, uint8 [T, H, W, 3])."""
  film, step = [], world.frames_per_step
  for first in range(0, len(actions), step):
    session, frames = world.step(session, actions[first:first + step])
    film.append(np.asarray(frames))
  return session, np.concatenate(film)


def continue_start(world, actions, seed=0):
  """The same film in one program: its given frames have no actions either."""
  given = world.context_frames
  actions = np.concatenate([np.zeros((given, 3), np.float32), actions])
  start = world.starts[seed % len(world.starts)]
  return np.asarray(
      world.continue_videos(start[None], actions[None], seed=seed))[0]


class SessionTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.world = tiny_world.make()

  def film(self, actions=ACTIONS, **kwargs):
    return play(self.world, self.world.stream(**kwargs), actions)[1]

  def test_a_step_makes_uint8_frames_of_the_worlds_size(self):
    _, frames = self.world.step(self.world.stream(), ACTIONS[0])
    self.assertEqual(frames.shape, (1, 24, 32, 3))
    self.assertEqual(frames.dtype, np.uint8)

  def test_frames_move_and_are_neither_black_nor_white(self):
    # Or the tests below would compare nothing.
    film = self.film()
    for before, after in zip(film, film[1:]):
      self.assertGreater(np.mean(before != after), 0.3)
    self.assertGreater(np.mean((film > 0) & (film < 255)), 0.3)

  def test_stepping_is_what_continue_videos_does(self):
    # Two programs: XLA may fuse the body of a scan otherwise, and a value that
    # lies between two grey levels may then fall to either.
    np.testing.assert_allclose(
        self.film().astype(int), continue_start(self.world, ACTIONS), atol=1)

  @pytest.mark.slow
  def test_a_video_can_go_on_from_a_longer_past_and_remembers_it(self):
    past = np.concatenate([self.world.starts[1], self.world.starts[0]])[None]
    other = past.copy()
    other[:, 0] = 255 - other[:, 0]
    actions = np.concatenate([np.zeros((4, 3), np.float32), ACTIONS])[None]
    one, two = (self.world.continue_videos(p, actions) for p in (past, other))
    self.assertEqual(one.shape[:2], (1, len(ACTIONS)))
    self.assertGreater(np.mean(np.asarray(one[:, 0]) != two[:, 0]), 0.01)

  @pytest.mark.slow
  def test_of_a_past_that_is_too_long_first_and_latest_frames_stay(self):
    past = np.zeros((1, 9, 24, 32, 3), np.uint8)
    session = self.world.start(
        self.world.variables, past, jnp.zeros((1, 9, 3)), None,
        jax.random.key_data(jax.random.key(0)))
    cache, student = session.video.cache, self.world.config.student
    self.assertLess(cache.num_slots, 9)
    self.assertCountEqual(
        np.asarray(cache.position).tolist(),
        [*range(student.sink), *range(9 - student.window, 9)])

  def test_seed_and_actions_determine_every_bit(self):
    np.testing.assert_array_equal(self.film(seed=4), self.film(seed=4))

  def test_a_seed_draws_the_noise(self):
    start = self.world.starts[0]
    one, other = (self.film(frames=start, seed=seed) for seed in (1, 2))
    self.assertGreater(np.mean(one != other), 0.5)

  def test_a_seed_picks_the_first_frames(self):
    np.testing.assert_array_equal(
        self.film(seed=4), self.film(seed=4, frames=self.world.starts[4 % 3]))

  def test_longer_beginnings_are_cut_to_their_last_frames(self):
    start = self.world.starts[0]
    np.testing.assert_array_equal(
        self.film(frames=np.concatenate([start[::-1], start])),
        self.film(frames=start))

  @pytest.mark.slow
  def test_later_actions_leave_earlier_frames_as_they_are(self):
    other = np.concatenate([ACTIONS[:3], -ACTIONS[3:]])
    one, two = (continue_start(self.world, a) for a in (ACTIONS, other))
    np.testing.assert_array_equal(one[:3], two[:3])
    for before, after in zip(one[3:], two[3:]):
      self.assertGreater(np.mean(before != after), 0.1)

  def test_actions_can_be_words_or_numbers(self):
    _, words = self.world.step(self.world.stream(), 'back+left')
    _, row = self.world.step(self.world.stream(), [-12, 0, 4])
    _, rows = self.world.step(self.world.stream(), [[-12., 0., 4.]])
    np.testing.assert_array_equal(words, row)
    np.testing.assert_array_equal(words, rows)

  def test_a_snapshot_continues_as_if_nothing_had_happened(self):
    session, _ = play(self.world, self.world.stream(), ACTIONS)
    leaves, treedef = jax.tree.flatten(session)
    file = io.BytesIO()
    np.savez(file, *leaves)
    _, expected = play(self.world, session, ACTIONS)
    file.seek(0)
    saved = np.load(file)
    for _ in range(2):  # A snapshot is not consumed.
      restored = jax.tree.unflatten(treedef, [saved[name] for name in saved])
      _, film = play(self.world, restored, ACTIONS)
      np.testing.assert_array_equal(film, expected)

  def test_twenty_steps_compile_nothing(self):
    session, _ = play(self.world, self.world.stream(), ACTIONS)
    with compilations() as compiled:
      for index in range(20):
        action = ('left', ACTIONS[0])[index % 2]
        session, frames = self.world.step(session, action)
        np.asarray(frames)
    self.assertEmpty(compiled)

  def test_a_stream_goes_on_when_its_window_is_full(self):
    session = self.world.stream()
    for _ in range(45):
      session, frames = self.world.step(session, 'forward')
    _, other = self.world.step(jax.tree.map(np.array, session), 'back')
    session, frames = self.world.step(session, 'forward')
    self.assertGreater(np.mean(np.asarray(frames != other)), 0.1)
    self.assertTrue(np.isfinite(session.video.last_frame).all())
    cache = session.video.cache
    # The sinks and the latest of 2 + 46 frames, at positions that stay small.
    student = self.world.config.student
    kept = [*range(student.sink), *range(48 - student.window, 48)]
    self.assertCountEqual(cache.position, kept)
    self.assertCountEqual(cache.slot_positions(), range(len(kept)))
    self.assertEqual(cache.next_positions(1).tolist(), [len(kept)])


class StrideTest(absltest.TestCase):
  """Chunks of two latent frames, each of which is two pixel frames."""

  @pytest.mark.slow
  def test_a_step_makes_a_whole_chunk(self):
    world = tiny_world.of_config(tiny_world.config(
        vae=dict(time_strides=(2,)), student=dict(chunk=2)))
    self.assertEqual(world.context_frames, 3)
    self.assertEqual(world.frames_per_step, 4)
    actions = action_lib.parse('forward*4,left+back,right*2,wait')
    _, film = play(world, world.stream(), actions)
    self.assertEqual(film.shape, (8, 24, 32, 3))
    np.testing.assert_allclose(  # As above.
        film.astype(int), continue_start(world, actions), atol=1)


class BadInputTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.world = tiny_world.make()

  def test_frames_of_another_shape_name_both_and_the_key(self):
    for shape in ((1, 24, 32, 3), (2, 24, 30, 3), (24, 32, 3)):
      with self.assertRaisesRegex(
          ValueError, r'frames have shape .*\(2, 24, 32, 3\) '
          r'\(config.student.context_frames\)'):
        self.world.stream(frames=np.zeros(shape, np.uint8))

  def test_actions_of_another_shape_name_both_and_the_key(self):
    session = self.world.stream()
    for action in (np.zeros(2), np.zeros((2, 3)), 'forward*2'):
      with self.assertRaisesRegex(
          ValueError, r'shape \(.*takes \[3\] or \[1, 3\] '
          r'\(config.student.chunk\)'):
        self.world.step(session, action)

  def test_the_text_encoder_is_read_once(self):
    config = tiny_world.config()
    config.text.update(dict(encoder='umt5', dim=6, length=4, path='a/folder'))
    world = World(config, {}, {}, np.zeros(0))
    embed = lambda prompts: np.full((len(prompts), 4, 6), len(prompts[0]))
    with mock.patch.object(text_encoder, 'make', return_value=embed) as make:
      texts = [world.encode_text(prompt) for prompt in ('four', 'a', None)]
    make.assert_called_once_with('umt5', 4, 'a/folder')
    self.assertEqual([text[0, 0, 0] for text in texts], [4, 1, 0])

  def test_a_world_of_before_there_were_paths_has_its_text(self):
    config = tiny_world.config()
    config.text = ml_collections.ConfigDict(dict(encoder='null', length=2))
    self.assertEqual(text_encoder.of_config(config.text)(['']).shape, (1, 2, 0))

  def test_a_prompt_to_a_world_without_text_names_the_key(self):
    with self.assertRaisesRegex(ValueError, "config.text.encoder='null'"):
      self.world.stream('a stone room')


if __name__ == '__main__':
  absltest.main()

"""Films from action scripts and files."""

import json
import os
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from tests.streaming import tiny_world
from tests.streaming.tiny_world import ACTIONS
from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError
from worldsim_jax.streaming import sample


class SampleTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.target = str(self.folder / 'film.mp4')

  def sample(self, actions, target=None, **kwargs):
    sample.sample(tiny_world.make, target or self.target, actions, **kwargs)
    return video_files.read(
        target or self.target, height=24, width=32,
        frames_per_second=tiny_world.config().data.frames_per_second)

  @pytest.mark.slow
  def test_a_script_makes_a_frame_per_action(self):
    film = self.sample('forward*3,left*2,wait')
    self.assertEqual(film.shape, (6, 24, 32, 3))
    written = self.frames('forward*3,left*2,wait')
    # H.264 is lossy, most of all in the colours of noise: compare greys.
    greys = [np.mean(x, axis=-1).ravel() for x in (film, written)]
    self.assertGreater(np.corrcoef(greys)[0, 1], 0.8)

  def frames(self, actions, **kwargs):
    """What is written to the film, before H.264 makes it lossy."""
    with mock.patch.object(video_files, 'write_mp4') as write:
      sample.sample(tiny_world.make, self.target, actions, **kwargs)
    return write.call_args.args[1]

  def test_the_film_is_what_the_world_shows(self):
    world = tiny_world.make()
    _, expected = world.step(world.stream(seed=1), 'forward')
    np.testing.assert_array_equal(self.frames('forward', seed=1), expected)

  def test_files_of_actions_make_the_film_of_the_same_script(self):
    np.save(self.folder / 'a.npy', ACTIONS)
    (self.folder / 'a.json').write_text(json.dumps(ACTIONS.tolist()))
    expected = self.frames(
        'forward,strafe_left+left,right,back,strafe_right+left')
    self.assertLen(expected, 5)
    for name in ('a.npy', 'a.json'):
      np.testing.assert_array_equal(
          self.frames(str(self.folder / name)), expected)

  def test_the_seed_changes_the_film(self):
    one, other = (self.sample('forward*2', seed=seed) for seed in (0, 1))
    self.assertTrue(np.any(one != other))

  def test_a_target_that_is_no_mp4_is_refused_before_any_work(self):
    load = mock.Mock()
    with self.assertRaisesRegex(UserError, '--target=film.gif .* .mp4'):
      sample.sample(load, 'film.gif', 'forward')
    load.assert_not_called()

  @parameterized.named_parameters(
      ('missing_file', '/nowhere/actions.npy', '/nowhere/actions.npy'),
      ('bad_word', 'forward,fly', "'fly'"))
  def test_actions_that_cannot_be_read_are_named(self, actions, said):
    with self.assertRaisesRegex(UserError, said):
      self.sample(actions)
    self.assertEmpty(os.listdir(self.folder))

  def test_a_prompt_that_the_world_cannot_read_names_the_key(self):
    with self.assertRaisesRegex(UserError, 'config.text.encoder'):
      self.sample('forward', prompt='a stone room')


if __name__ == '__main__':
  absltest.main()

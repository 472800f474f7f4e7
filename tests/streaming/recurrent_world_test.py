"""A world whose student is recurrent streams like any other."""

import functools
import pathlib

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.timing import compilations
from tests.streaming import tiny_world
from tests.streaming import world_test
from tests.streaming.tiny_world import ACTIONS
from worldsim_jax.convert import out_of_world
from worldsim_jax.errors import UserError
from worldsim_jax.streaming import export
from worldsim_jax.streaming import files


@functools.cache
def world():
  return tiny_world.of_config(tiny_world.recurrent_config())


# All that a world of a transformer does, too; but there is no cache to fill.
class SessionTest(world_test.SessionTest):

  def setUp(self):
    absltest.TestCase.setUp(self)
    self.world = world()

  @pytest.mark.slow
  def test_of_a_past_that_is_too_long_first_and_latest_frames_stay(self):
    past = np.zeros((1, 9, 24, 32, 3), np.uint8)  # The window is 4.
    film = self.world.continue_videos(past, np.zeros((1, 10, 3)))
    self.assertEqual(film.shape, (1, 1, 24, 32, 3))

  def test_a_stream_goes_on_when_its_window_is_full(self):
    session = self.world.stream()
    sizes = jax.tree.map(jnp.shape, session)
    for _ in range(45):
      session, _ = self.world.step(session, 'forward')
    self.assertEqual(jax.tree.map(jnp.shape, session), sizes)
    _, other = self.world.step(jax.tree.map(np.array, session), 'back')
    session, frames = self.world.step(session, 'forward')
    self.assertGreater(np.mean(np.asarray(frames != other)), 0.1)
    self.assertTrue(np.isfinite(session.video.last_frame).all())
    self.assertEqual(session.video.cache.length, 48)


class FilesTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    files.save(world(), self.folder / 'world')

  @pytest.mark.slow
  def test_it_is_read_as_it_was_written_and_exported(self):
    read = files.load(self.folder)
    self.assertEqual(read.model, world().model)
    _, film = world_test.play(read, read.stream(), ACTIONS)
    export.export(read, str(self.folder / 'exported'))
    exported = export.ExportedWorld(self.folder / 'exported')
    session = exported.stream()
    for action, expected in zip(ACTIONS, film):
      session, frames = exported.step(session, action[None])
      # Another compilation: a value between two grey levels falls to either.
      np.testing.assert_allclose(
          frames[0].astype(int), expected.astype(int), atol=1)

  def test_formats_of_transformers_refuse_it_in_one_line(self):
    with self.assertRaisesRegex(UserError, 'recurrent network .*keep it as'):
      out_of_world.convert(
          str(self.folder), str(self.folder / 'wan'), 'wan')


if __name__ == '__main__':
  absltest.main()

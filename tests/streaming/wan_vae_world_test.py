"""A world with Wan's tokenizer streams what the whole sequence decodes to."""

import functools
import os
import pathlib
import shutil

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.streaming import tiny_world
from tests.streaming.tiny_world import ACTIONS
from worldsim_jax.models import pixels
from worldsim_jax.streaming import export
from worldsim_jax.streaming import files
from worldsim_jax.streaming import world as worlds

SEED = 1


@functools.cache
def world() -> worlds.World:
  return tiny_world.of_config(tiny_world.wan_vae_config())


def actions():
  """[steps, frames per step, 3]"""
  return np.repeat(ACTIONS[:4, None], world().frames_per_step, axis=1)


def film():
  """(latents made, frames made) of a stream of steps."""
  session, latents, frames = world().stream(seed=SEED), [], []
  for action in actions():
    session, made = world().step(session, action)
    latents.append(np.asarray(session.video.last_frame)[:, None])
    frames.append(np.asarray(made))
  return np.concatenate(latents, axis=1), np.concatenate(frames)


class WanVAEWorldTest(absltest.TestCase):

  @pytest.mark.slow
  def test_streamed_frames_are_those_of_the_whole_sequence(self):
    self.assertEqual(world().context_frames, 1 + 2 * (3 - 1))
    self.assertEqual(world().frames_per_step, 2)
    latents, frames = film()
    self.assertEqual(frames.shape, (8, 24, 32, 3))
    given = pixels.to_float(world().starts[SEED][None])
    context, _ = world().vae.apply(
        world().vae_variables, given, method='encode')
    whole, _ = world().vae.apply(
        world().vae_variables, jnp.concatenate([context, latents], axis=1),
        method='decode')
    self.assertEqual(whole.shape[1], 5 + 8)
    expected = np.asarray(pixels.to_uint8(whole[0, 5:]))
    self.assertGreater(np.mean((frames > 0) & (frames < 255)), 0.3)
    # Chunks add up in another order: a value between two grey levels may fall
    # to either.
    np.testing.assert_allclose(frames.astype(int), expected, atol=1)
    self.assertLess(np.mean(frames != expected), 0.01)

  @pytest.mark.slow
  def test_a_session_keeps_its_shapes(self):
    session = world().stream(seed=SEED)
    shapes = jax.tree.map(jnp.shape, session)
    session, _ = world().step(session, actions()[0])
    self.assertEqual(jax.tree.map(jnp.shape, session), shapes)

  def test_saved_and_loaded_it_is_the_same_world(self):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'world'
    files.save(world(), folder)
    read = files.load(folder)
    self.assertEqual(read.vae, world().vae)
    jax.tree.map(np.testing.assert_array_equal, read.variables,
                 world().variables)

  @pytest.mark.slow
  def test_its_exported_programs_make_its_frames(self):
    folder = pathlib.Path(
        absltest.get_default_test_tmpdir(), f'wan_vae_world.{os.getpid()}')
    self.addCleanup(shutil.rmtree, folder)
    export.export(world(), str(folder))
    exported, made = export.ExportedWorld(folder), []
    session = exported.stream(seed=SEED)
    for action in actions():
      session, frames = exported.step(session, action)
      made.append(np.asarray(frames, int))
    # Lowered for three platforms, XLA may round to the next grey level.
    np.testing.assert_allclose(np.concatenate(made), film()[1], atol=1)


if __name__ == '__main__':
  absltest.main()

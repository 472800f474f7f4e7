"""The exported programs make the frames that the world makes."""

import os
import pathlib
import shutil
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from tests.streaming import tiny_world
from tests.streaming.tiny_world import ACTIONS
from worldsim_jax.errors import UserError
from worldsim_jax.streaming import export
from worldsim_jax.streaming import files

# Of this process: someone else may be running the same tests.
SAVED = pathlib.Path(
    absltest.get_default_test_tmpdir(), f'export_test.{os.getpid()}')
SEED = 1

# Another process, with one device, that has seen nothing but the files.
STREAM = """
import sys
import numpy as np
from worldsim_jax.streaming.export import ExportedWorld
folder, target, seed = sys.argv[1:]
world = ExportedWorld(folder)
session, film = world.stream(seed=int(seed)), []
for action in np.load(f'{target}/actions.npy'):
  session, frames = world.step(session, action[None])
  film.append(frames)
np.save(f'{target}/film.npy', np.concatenate(film))
"""


def setUpModule():
  shutil.rmtree(SAVED, ignore_errors=True)
  files.save(tiny_world.make(), SAVED / 'run' / 'world')
  export.export(files.load(SAVED / 'run'), str(SAVED / 'exported'))


def tearDownModule():
  shutil.rmtree(SAVED)


def stream_elsewhere(folder):
  target = SAVED / 'film'
  target.mkdir()
  np.save(target / 'actions.npy', ACTIONS)
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  subprocess.run(
      [sys.executable, '-c', STREAM, str(folder), str(target), str(SEED)],
      env=environment | {'PYTHONPATH': os.pathsep.join(sys.path)}, check=True)
  return np.load(target / 'film.npy')


class ExportTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_another_process_makes_the_same_frames(self):
    world = tiny_world.make()
    session, film = world.stream(seed=SEED), []
    for action in ACTIONS:
      session, frames = world.step(session, action)
      film.append(frames)
    exported = stream_elsewhere(SAVED / 'exported')
    self.assertEqual(exported.dtype, np.uint8)
    # The program is lowered for three platforms: XLA may round a value between
    # two grey levels to the other one.
    np.testing.assert_allclose(
        exported.astype(int), np.concatenate(film), atol=1)

  def test_the_export_is_a_world_too(self):
    world = files.load(SAVED / 'exported')
    np.testing.assert_array_equal(world.starts, tiny_world.make().starts)

  def test_a_world_without_programs_says_how_to_make_them(self):
    world = SAVED / 'run' / 'world'
    with self.assertRaisesRegex(UserError, f'{world}: no readable .*=export'):
      export.ExportedWorld(world)

  @parameterized.parameters(0, 0.5, 0.99)
  @pytest.mark.slow
  def test_a_damaged_program_is_named(self, part):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'exported'
    shutil.copytree(SAVED / 'exported', folder)
    program = folder / export.ADVANCE
    os.truncate(program, int(part * program.stat().st_size))
    with self.assertRaisesRegex(UserError, f'{program} has .* bytes, not'):
      export.ExportedWorld(folder)


if __name__ == '__main__':
  absltest.main()

"""Worlds on disk: whole, or not there, or said to be damaged."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from tests.streaming import tiny_world
import worldsim_jax
from worldsim_jax.errors import UserError
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.storage import checksums
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World

# Of this process: someone else may be running the same tests.
SAVED = pathlib.Path(
    absltest.get_default_test_tmpdir(), f'files_test.{os.getpid()}')


def setUpModule():
  shutil.rmtree(SAVED, ignore_errors=True)
  files.save(tiny_world.make(), SAVED / 'run' / 'world')


def tearDownModule():
  shutil.rmtree(SAVED)


def assert_same_world(one, other):
  jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)
  np.testing.assert_array_equal(one.starts, other.starts)
  assert one.model == other.model and one.vae == other.vae
  # JSON has lists where a config has tuples.
  assert json.loads(one.config.to_json()) == json.loads(other.config.to_json())


class RoundTripTest(parameterized.TestCase):

  @parameterized.parameters('run', 'run/world')
  def test_a_loaded_world_is_the_saved_one_to_the_bit(self, path):
    assert_same_world(files.load(SAVED / path), tiny_world.make())

  def test_the_package_loads_it_too(self):
    world = worldsim_jax.load(str(SAVED / 'run'))
    self.assertIsInstance(world, worldsim_jax.World)
    assert_same_world(world, tiny_world.make())

  def test_parameters_are_loaded_to_the_device(self):
    # They would be sent there with every step otherwise.
    for leaf in jax.tree.leaves(files.load(SAVED / 'run').variables):
      self.assertIsInstance(leaf, jax.Array)
      self.assertLen(leaf.devices(), 1)

  @pytest.mark.slow
  def test_what_several_devices_saved_a_machine_with_one_loads(self):
    # Not all: Orbax compiles a program per shape to share the writing.
    world, everywhere = tiny_world.make(), meshes.make_mesh()
    vae_variables = world.vae_variables | {'latent_stats': meshes.replicate(
        everywhere, world.vae_variables['latent_stats'])}
    folder = self.create_tempdir().full_path
    files.save(
        World(world.config, world.params, vae_variables, world.starts), folder)
    code = ('import jax, sys, worldsim_jax\n'
            'world = worldsim_jax.load(sys.argv[1])\n'
            'print(len(jax.devices()), len(jax.tree.leaves(world.params)))')
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    done = subprocess.run(
        [sys.executable, '-c', code, folder], text=True, capture_output=True,
        env=environment | {'PYTHONPATH': os.pathsep.join(sys.path)},
        check=False)
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(
        done.stdout, f'1 {len(jax.tree.leaves(world.params))}\n')


class SaveTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.parent = pathlib.Path(self.create_tempdir().full_path)
    self.folder = self.parent / 'world'
    self.changed = World(
        tiny_world.config(), tiny_world.make().params,
        tiny_world.make().vae_variables, tiny_world.make().starts[:1])

  def test_an_older_world_is_replaced(self):
    files.save(tiny_world.make(), self.folder, extra={'note': b'of the old'})
    files.save(self.changed, self.folder, extra={'more': b'of the new'})
    assert_same_world(files.load(self.folder), self.changed)
    self.assertCountEqual(os.listdir(self.folder), [
        'config.json', 'starts.npz', 'params', 'more', 'checksums.json'])
    self.assertEqual(os.listdir(self.parent), ['world'])

  def test_a_save_that_fails_leaves_the_older_world_and_nothing_else(self):
    files.save(tiny_world.make(), self.folder)
    with self.assertRaisesRegex(
        UserError, f'{self.folder} could not be written: .*No such file'):
      files.save(self.changed, self.folder, extra={'no/such/folder': b''})
    assert_same_world(files.load(self.folder), tiny_world.make())
    self.assertEqual(os.listdir(self.parent), ['world'])

  def test_what_a_killed_process_left_is_no_obstacle(self):
    for suffix in ('incomplete', 'replaced'):
      (self.parent / f'world.{suffix}' / 'params').mkdir(parents=True)
    files.save(self.changed, self.folder)
    assert_same_world(files.load(self.folder), self.changed)
    self.assertEqual(os.listdir(self.parent), ['world'])

  def test_a_folder_with_something_else_is_left_alone(self):
    precious = self.parent / 'thesis.tex'
    precious.write_text('...')
    for target in (self.parent, precious):
      with self.assertRaisesRegex(UserError, f'{target} is there and is no'):
        files.save(self.changed, target)
    self.assertEqual(os.listdir(self.parent), ['thesis.tex'])

  def test_an_empty_folder_will_do(self):
    self.folder.mkdir()
    files.save(self.changed, self.folder)
    assert_same_world(files.load(self.folder), self.changed)


def flipped(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def truncated(path):
  os.truncate(path, path.stat().st_size // 2)


def copy_of_saved(test) -> pathlib.Path:
  folder = pathlib.Path(test.create_tempdir().full_path) / 'world'
  return shutil.copytree(SAVED / 'run' / 'world', folder)


def configured(part, **changes):
  def change(folder):
    config = json.loads((folder / 'config.json').read_text())
    config[part].update(changes)
    (folder / 'config.json').write_text(json.dumps(config))

  return change


class DamageTest(parameterized.TestCase):

  @parameterized.parameters(flipped, truncated, pathlib.Path.unlink)
  def test_damage_to_any_file_is_one_line_with_its_name(self, damage):
    folder = copy_of_saved(self)
    for path in sorted(p for p in folder.rglob('*') if p.is_file()):
      with self.subTest(path.name):
        if damage is pathlib.Path.unlink and path.name == 'config.json':
          continue  # It is what tells that there is a world.
        before = path.read_bytes()
        damage(path)
        with self.assertRaisesRegex(
            UserError, rf'^{path} (is damaged|is missing|has \d+ bytes, not)'
        ) as caught:
          files.load(folder)
        self.assertLen(str(caught.exception).splitlines(), 1)
        path.write_bytes(before)
    files.load(folder)

  def test_a_film_beside_it_is_no_damage(self):
    folder = copy_of_saved(self)
    (folder / 'sample.mp4').write_bytes(b'')
    assert_same_world(files.load(folder), tiny_world.make())


# Orbax abandons its coroutines when one of them fails.
@pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning')
class LoadTest(parameterized.TestCase):

  def test_a_folder_without_a_world_is_named(self):
    empty = self.create_tempdir().full_path
    for path in (empty, f'{empty}/nowhere'):
      with self.assertRaisesRegex(UserError, f'{path}: no world here'):
        files.load(path)

  @parameterized.named_parameters(
      ('another_width', configured('model', dim=64), 'params'),
      ('another_depth', configured('model', num_layers=3), 'params'),
      ('another_tokenizer', configured('vae', shortcut=False), 'params'),
      ('impossible_heads', configured('model', num_heads=5), 'config.json'),
      ('unknown_key', configured('model', colour=3), 'config.json'),
  )
  def test_files_that_do_not_fit_are_one_line_that_names_one(
      self, change, name):
    folder = copy_of_saved(self)
    change(folder)
    checksums.write(folder)
    with self.assertRaisesRegex(
        UserError, f'^{folder}/{name} is damaged, or does not fit') as caught:
      files.load(folder)
    self.assertLen(str(caught.exception).splitlines(), 1)


class PackageTest(absltest.TestCase):

  def test_importing_it_does_not_even_import_jax(self):
    code = ('import sys, worldsim_jax\n'
            'assert worldsim_jax.__version__\n'
            'print({"jax", "numpy", "orbax", "av"} & set(sys.modules))')
    done = subprocess.run(
        [sys.executable, '-c', code], text=True, capture_output=True,
        check=True, env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)})
    self.assertEqual(done.stdout, 'set()\n')

  def test_its_public_names_are_there_and_others_are_not(self):
    for name in worldsim_jax.__all__:
      self.assertTrue(getattr(worldsim_jax, name))
    with self.assertRaisesRegex(AttributeError, "attribute 'lode'"):
      worldsim_jax.lode


if __name__ == '__main__':
  absltest.main()

"""Any checkpoint of a causal stage is a world, be the run finished or not."""

import contextlib
import io
import pathlib

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.streaming import tiny_world
import worldsim_jax
from worldsim_jax.errors import UserError
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World
from worldsim_jax.train import assemble
from worldsim_jax.train import checkpoints
from worldsim_jax.train.state import TrainState


def student(seed):
  return tiny_world.random_variables(tiny_world.config(), seed)['student']


class AssembleTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)

  def save_latent_space(self):
    full = tiny_world.make()
    files.save(World(full.config, {}, full.vae_variables, full.starts),
               self.workdir / assemble.LATENT_SPACE)

  def save_checkpoint(self, stage, step, params, ema=None):
    state = TrainState(
        step=jnp.array(step), params={stage: params, 'critic': student(9)},
        opt_state={stage: {'nu': np.ones(3)}}, ema={stage: ema} if ema else {})
    with checkpoints.Checkpoints(self.workdir / stage, {}) as saved:
      saved.save(step, jax.tree.map(jnp.asarray, state), {})

  def assert_student(self, world, params):
    jax.tree.map(np.testing.assert_array_equal, world.params, params)
    expected = tiny_world.make()
    jax.tree.map(np.testing.assert_array_equal, world.vae_variables,
                 expected.vae_variables)
    np.testing.assert_array_equal(world.starts, expected.starts)

  @pytest.mark.slow
  def test_the_latest_stage_that_can_stream_is_the_student(self):
    self.save_latent_space()
    self.save_checkpoint('teacher', 6, student(1))
    self.save_checkpoint('teacher_forcing', 3, student(2))
    self.save_checkpoint('teacher_forcing', 6, student(3))
    self.assert_student(assemble.load(self.workdir), student(3))
    self.save_checkpoint('self_forcing', 3, student(4))
    self.assert_student(assemble.load(self.workdir), student(4))
    self.assert_student(
        worldsim_jax.load(str(self.workdir), 'teacher_forcing'), student(3))

  def test_averaged_parameters_come_first(self):
    self.save_latent_space()
    self.save_checkpoint('self_forcing', 3, student(4), ema=student(5))
    self.assert_student(assemble.load(self.workdir), student(5))

  @pytest.mark.slow
  def test_a_world_from_a_checkpoint_streams(self):
    self.save_latent_space()
    self.save_checkpoint('self_forcing', 3, tiny_world.make().params)
    world, expected = assemble.load(self.workdir), tiny_world.make()
    films = [w.step(w.stream(), 'forward')[1] for w in (world, expected)]
    np.testing.assert_array_equal(*films)

  def test_a_finished_world_comes_first_unless_a_stage_is_named(self):
    self.save_latent_space()
    self.save_checkpoint('teacher_forcing', 6, student(3))
    files.save(tiny_world.make(), self.workdir / assemble.WORLD)
    self.assert_student(
        assemble.load(self.workdir), tiny_world.make().params)
    self.assert_student(
        assemble.load(self.workdir, 'teacher_forcing'), student(3))

  def test_what_is_missing_is_said_in_one_line(self):
    with self.assertRaisesRegex(UserError, 'no world here'):
      assemble.load(self.workdir)
    with self.assertRaisesRegex(UserError, 'no latent_space/'):
      assemble.load(self.workdir, 'teacher_forcing')
    self.save_latent_space()
    with self.assertRaisesRegex(UserError, 'no checkpoint of teacher_forcing'):
      assemble.load(self.workdir, 'teacher_forcing')
    with self.assertRaisesRegex(UserError, 'no checkpoint of teacher_for.* or'):
      assemble.load(self.workdir)
    with self.assertRaisesRegex(
        UserError, '--stage=teacher is not one of teacher_forcing, self_forc'):
      assemble.load(self.workdir, 'teacher')

  def test_a_damaged_checkpoint_is_named(self):
    self.save_latent_space()
    self.save_checkpoint('self_forcing', 3, student(4))
    state = self.workdir / 'self_forcing' / '3' / 'state'
    for file in state.rglob('*'):
      if file.is_file():
        file.write_bytes(b'')
    with self.assertRaisesRegex(UserError, 'no checkpoint .* is readable'):
      assemble.load(self.workdir)

  def test_of_a_damaged_checkpoint_the_one_before_it_is_the_student(self):
    self.save_latent_space()
    for step in 2, 3:
      self.save_checkpoint('self_forcing', step, student(step))
    config = self.workdir / 'self_forcing' / '3' / 'config' / 'metadata'
    config.write_text('[]')  # It was {}.
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      world = assemble.load(self.workdir)
    jax.tree.map(np.testing.assert_array_equal, world.params, student(2))
    self.assertIn(f'{config} is damaged', printed.getvalue())
    self.assertIn('student: self_forcing after 2 of', printed.getvalue())


if __name__ == '__main__':
  absltest.main()

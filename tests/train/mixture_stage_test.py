"""A stage with a mixture in the real step: scan, remat, donation and resume."""

import dataclasses
import functools
import json
from unittest import mock

from absl.testing import absltest
from etils import epath
import jax
import numpy as np
import pytest

from configs import moc_minute
from tests.streaming import tiny_world
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import loop
from worldsim_jax.train import stages
from worldsim_jax.train import state as train_state

NAME, NUM_STEPS = 'moc_1280', 4
# Two films of three shots, cut differently; frames of 4 tokens.
SHOT_ID = np.array([[0, 0, 0, 1, 1, 2, 2, 2], [3, 4, 4, 4, 4, 7, 7, 7]])
MAKE_TRAIN_STEP = functools.cache(train_state.make_train_step)


class Interrupted(Exception):
  """Stands for whatever ends a process."""


class Films:
  """Other latents and actions in every step, until it fails."""

  def __init__(self, fail_at=None):
    self._fail_at, self._step = fail_at, 0

  def __next__(self):
    # The first one is given back, see loop.model_flops.
    if self._step == self._fail_at:
      raise Interrupted
    self._step += 1
    return batch(self._step - 1)

  def get_state(self):
    return {'step': self._step}

  def set_state(self, state):
    self._step = state['step']


def batch(seed):
  dice = np.random.default_rng(seed)
  draw = lambda *shape: dice.normal(
      size=(*SHOT_ID.shape, *shape)).astype(np.float32)
  return {'latents': draw(4, 4, config().vae.latent_channels),
          'actions': draw(3), 'shot_id': SHOT_ID}


def config(remat='full'):
  small = moc_minute.get_config('tiny')
  small.data.update(dict(height=32, width=32))
  small.model.update(dict(
      dim=32, ffn_dim=32, num_heads=2, num_layers=2, freq_dim=16, remat=remat))
  small[NAME].update(dict(
      num_steps=NUM_STEPS, batch_size=2, clip_frames=8, shots=3))
  small[NAME].moc.update(dict(
      chunk=5, top_k=2, drop_off=.5, implementation='xla'))
  small[NAME].optimizer.warmup_steps = 1
  small.loop.update(dict(log_every=1, save_every=2))
  return small


@functools.cache
def stage(remat='full') -> loop.Stage:
  return stages.make(NAME, stages.Inputs(config(remat), lambda _: Films, None))


@functools.cache
def trained():
  """The network that the stage starts from."""
  return tiny_world.random_variables(config())['student']


@pytest.mark.slow
class MixtureStageTest(absltest.TestCase):

  def train(self, workdir, fail_at=None):
    one = meshes.make_mesh(devices=jax.devices()[:1])
    with mock.patch.object(train_state, 'make_train_step', MAKE_TRAIN_STEP):
      return loop.train(
          dataclasses.replace(stage(), batches=lambda: Films(fail_at)),
          {config()[NAME].start_from: trained()}, config().loop, seed=0,
          workdir=workdir, fingerprint={}, mesh=one)

  def test_a_run_that_was_interrupted_ends_as_one_that_was_not(self):
    uninterrupted, parts = (
        epath.Path(self.create_tempdir().full_path) for _ in range(2))
    expected = self.train(uninterrupted)
    with self.assertRaises(Interrupted):
      self.train(parts, fail_at=3)
    self.assertTrue((parts / NAME / '2').exists())
    resumed = self.train(parts)
    self.assertEqual(resumed.step, NUM_STEPS)
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)
    for workdir in uninterrupted, parts:
      lines = (workdir / 'metrics.jsonl').read_text().splitlines()
      losses = [json.loads(line)['loss'] for line in lines]
      self.assertLen(losses, NUM_STEPS)
      self.assertTrue(np.isfinite(losses).all())
    before = trained()['blocks']['self_attn']
    for name, after in expected.params[NAME]['blocks']['self_attn'].items():
      self.assertFalse(np.array_equal(jax.tree.leaves(after)[0],
                                      jax.tree.leaves(before[name])[0]), name)

  def test_what_is_computed_anew_for_the_gradient_is_the_same(self):
    found = {}
    # The gradient has the dtype of its parameter, which is kept in bfloat16.
    params = jax.tree.map(lambda x: x.astype(np.float32), trained())
    for remat in 'full', 'none':
      (update,) = stage(remat).updates
      loss = lambda own, films: update.loss(
          {NAME: own}, films, jax.random.key(1))
      found[remat] = jax.jit(jax.value_and_grad(loss, has_aux=True))(
          params, batch(0))
    (loss, _), gradients = found['full']
    (expected, _), others = found['none']
    # fp32, in another order; gradients in parts of the largest.
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for ours, theirs in zip(*map(jax.tree.leaves, (gradients, others))):
      np.testing.assert_allclose(
          ours, theirs, atol=5e-5 * max(np.abs(theirs).max(), 1e-3))


if __name__ == '__main__':
  absltest.main()

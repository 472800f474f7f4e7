"""The real loop in several processes, on the smallest model that has a loss.

A program, started by tests/distributed/processes.py with its options as JSON.
"""

import json
import sys
import time

from absl import flags
from etils import epath
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from worldsim_jax import command_line
from worldsim_jax.data import pipeline
from worldsim_jax.errors import UserError
from worldsim_jax.parallel import distributed
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.parallel import preemption
from worldsim_jax.train import loop
from worldsim_jax.train import state as train_state

BATCH, WIDTH = 8, 12


class Slow:
  """An iterator whose steps take a while, or that fails in one process."""

  def __init__(self, batches, options):
    self._batches, self._options = batches, options
    self.get_state, self.set_state = batches.get_state, batches.set_state

  def __next__(self):
    time.sleep(self._options.get('seconds_per_step', 0))
    step = self.get_state()['next_index']
    if [jax.process_index(), step] == self._options.get('fails'):
      raise UserError('the disk of this host is full')
    return next(self._batches)


def make_stage(options, mesh) -> loop.Stage:
  """A linear map of frames with random noise: what pairs with what matters."""
  def loss(params, batch, rng):
    x = batch['rgb'].astype(jnp.float32).reshape(BATCH, WIDTH) / 255
    y = x @ params['line']['ffn_0']['kernel']
    loss = jnp.mean((y - jax.random.normal(rng, y.shape) * x)**2)
    return loss, {'loss': loss}

  def init(unused_trained):
    kernel = jax.random.normal(jax.random.key(0), (WIDTH, WIDTH))
    return {'line': {'ffn_0': {'kernel': kernel}}}

  dice = np.random.default_rng(0)
  films = [{'rgb': dice.integers(0, 256, (5, 2, 2, 3), np.uint8)}
           for _ in range(20)]

  def batches():
    return Slow(pipeline.make_iterator(
        films, batch_size=BATCH, clip_frames=1, seed=0, fields=('rgb',),
        rows=meshes.rows(mesh, BATCH)), options)

  update = train_state.Update('line', loss, optax.adam(1e-2), ema=0.9)
  return loop.Stage(
      'line', options['num_steps'], (update,), init, lambda _: {},
      batches, BATCH)


def main(unused_argv):
  options = json.loads(sys.argv[1])
  workdir = epath.Path(options['workdir'])
  with preemption.handled():
    distributed.start(**options['start'])
    print('started', flush=True)
    if distributed.is_main():
      (workdir / 'started').write_text('')
    time.sleep(options.get('seconds_before', 0))
    mesh = meshes.make_mesh(options.get('mesh'))
    settings = ml_collections.ConfigDict(
        dict(log_every=1, save_every=4, max_to_keep=2, keep_every=0))
    state = loop.train(
        make_stage(options, mesh), {}, settings, 0, workdir, {}, mesh)
    meshes._GATHERED = 256  # Row by row, as what is larger than a device is.
    params = meshes.fetch(state.best_params('line'))
    if distributed.is_main():
      np.save(workdir / 'params.npy', params['ffn_0']['kernel'])
  distributed.stop()


if __name__ == '__main__':
  flags.FLAGS.mark_as_parsed()
  command_line.run(main, flags_parser=lambda argv: argv)

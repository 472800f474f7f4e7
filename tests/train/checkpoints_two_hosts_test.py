"""Two processes save one checkpoint, and agree on which to go back to."""

import os
import pathlib
import socket
import subprocess
import sys

from absl.testing import absltest
import pytest

# Each process holds half of every array. Arguments: port, index, folder, mode.
SCRIPT = """
import sys
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from worldsim_jax.train.checkpoints import Checkpoints

port, index, folder, mode = sys.argv[1:]
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
jax.distributed.initialize(f'localhost:{port}', 2, int(index))
mesh = jax.make_mesh((2,), ('fsdp',))
split = NamedSharding(mesh, PartitionSpec('fsdp'))

def state(step):
  whole = np.random.default_rng(step).normal(size=(4096, 8))
  return {'w': jax.make_array_from_callback(
      whole.shape, split, lambda part: whole[part].astype(np.float32))}

with Checkpoints(folder, {}) as saved:
  if mode == 'save':
    for step in 1, 2:
      saved.save(step, state(step), {'position': step})
  else:
    found, data = saved.restore({
        'w': jax.ShapeDtypeStruct((4096, 8), np.float32, sharding=split)})
    expected = state(data['position'])['w'].addressable_data(0)
    np.testing.assert_array_equal(found['w'].addressable_data(0), expected)
    print('restored', data['position'])
"""


@pytest.mark.slow
class TwoHostsTest(absltest.TestCase):

  def run_two(self, folder, mode):
    """What the two processes print."""
    with socket.socket() as probe:
      probe.bind(('localhost', 0))
      port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    environment['PYTHONPATH'] = os.pathsep.join(sys.path)
    processes = [subprocess.Popen(
        [sys.executable, '-c', SCRIPT, str(port), str(index), folder, mode],
        env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT) for index in range(2)]
    texts = [process.communicate(timeout=300)[0] for process in processes]
    for process, text in zip(processes, texts):
      self.assertEqual(process.returncode, 0, text)
    return texts

  def test_damage_to_the_part_of_one_sends_both_back(self):
    folder = self.create_tempdir().full_path
    self.run_two(folder, 'save')
    for text in self.run_two(folder, 'restore'):
      self.assertIn('restored 2', text)
    second = pathlib.Path(folder) / '2' / 'state' / 'ocdbt.process_1'
    largest = max((second / 'd').iterdir(), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    texts = self.run_two(folder, 'restore')
    for text in texts:
      self.assertIn('2 is unreadable', text)
      self.assertIn('restored 1', text)
    self.assertIn(f'{largest} is damaged', ''.join(texts))


if __name__ == '__main__':
  absltest.main()

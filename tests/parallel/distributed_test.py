"""Who takes part in a run, from flags or the environment. See tests/distributed
for processes that do."""

import os
import socket
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from worldsim_jax.errors import UserError
from worldsim_jax.parallel import distributed

SLURM = {
    'SLURM_JOB_ID': '70007', 'SLURM_STEP_NODELIST': 'node[07-08]',
    'SLURM_NTASKS': '2', 'SLURM_PROCID': '1', 'SLURM_LOCALID': '0',
    'SLURM_STEP_NUM_NODES': '2'}


class StartTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    # What these tests start must be nothing: JAX is running already.
    self.initialize = self.enter_context(
        mock.patch.object(jax.distributed, 'initialize'))

  @parameterized.parameters(
      (('localhost:1',), '--num_processes and --process_id missing'),
      ((None, 2, 0), '--coordinator missing'),
      (('localhost', 2, 0), '--coordinator=localhost must be host:port'),
      (('localhost:1', 2, 2), '--process_id=2 must be from 0 to '
       '--num_processes=2 - 1'),
      (('localhost:99999', 2, 0), '--coordinator=localhost:99999 cannot be'),
      (('host.invalid:1', 2, 1), '--coordinator=host.invalid:1 cannot be used'),
      ((None, None, None, 1.), '--heartbeat_seconds=1 must be at least 5'),
  )
  def test_bad_flags_are_one_line_that_names_them(self, flags, said):
    *given, heartbeat = flags if len(flags) == 4 else (*flags, 30.)
    with self.assertRaisesRegex(UserError, said) as caught:
      distributed.start(*given, detect=False, heartbeat_seconds=heartbeat)
    self.assertNotIn('\n', str(caught.exception))
    self.initialize.assert_not_called()

  def test_a_port_that_is_taken_is_named(self):
    with socket.create_server(('', 0)) as taken:
      port = taken.getsockname()[1]
      with self.assertRaisesRegex(UserError, f'coordinator=localhost:{port} '):
        distributed.start(f'localhost:{port}', 2, 0)

  @parameterized.parameters(
      {}, SLURM | {'SLURM_NTASKS': '1', 'SLURM_PROCID': '0'})
  def test_one_process_alone_starts_nothing(self, **environment):
    with mock.patch.dict(os.environ, environment):
      distributed.start()
    distributed.start('localhost:1', 1, 0)
    self.initialize.assert_not_called()
    self.assertTrue(distributed.is_main())
    self.assertFalse(distributed.has_others())

  def test_slurm_tells_who_the_others_are(self):
    with mock.patch.dict(os.environ, SLURM):
      address, count, index, _ = distributed._detected(1.)
    self.assertStartsWith(address, 'node07:')
    self.assertEqual((count, index), (2, 1))

  def test_a_share_of_the_work_is_told_by_flags_or_by_the_environment(self):
    with mock.patch.dict(os.environ, SLURM):
      self.assertEqual(distributed.share(), (1, 2))
      self.assertEqual(distributed.share(detect=False), (0, 1))
      self.assertEqual(distributed.share(64, 17), (17, 64))
    self.assertEqual(distributed.share(), (0, 1))
    for wrong in (None, 3), (3, None), (3, 3), (0, 0):
      with self.assertRaisesRegex(UserError, '--process_id'):
        distributed.share(*wrong)

  def test_an_environment_that_does_not_answer_is_one_line(self):
    broken = SLURM | {'SLURM_NTASKS': 'two'}
    with mock.patch.dict(os.environ, broken):
      with self.assertRaisesRegex(UserError, "'two'.*--distributed=off"):
        distributed.start()


class AloneTest(absltest.TestCase):

  def test_there_is_nobody_to_wait_for_or_to_ask(self):
    folder = self.create_tempdir().full_path
    distributed.barrier('nobody')
    self.assertTrue(distributed.sees_main(folder))
    self.assertEqual(distributed.in_order(lambda: 'made', folder), 'made')
    tree = {'x': np.ones(2)}
    self.assertIs(distributed.same_everywhere(tree), tree)
    distributed.stop()
    self.assertEmpty(os.listdir(folder))


if __name__ == '__main__':
  absltest.main()

"""What is read from a compiled program's text is what the program does."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import jax.numpy as jnp

from worldsim_jax.parallel import flops
from worldsim_jax.parallel import hlo
from worldsim_jax.parallel import hlo_text
from worldsim_jax.parallel import mesh as meshes

N = 64  # A matrix [N, N] of float32 is KIB16.
KIB16 = 4 * N * N


def compiled(fn, sizes, *specs):
  """The text of fn, for square matrices of these layouts."""
  mesh = meshes.make_mesh(sizes, jax.devices()[:4])
  args = [jax.ShapeDtypeStruct((N, N), jnp.float32,
                               sharding=NamedSharding(mesh, spec))
          for spec in specs]
  with jax.set_mesh(mesh):
    return jax.jit(fn).lower(*args).compile().as_text()


class CollectivesTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    if len(jax.devices()) < 4:
      self.skipTest('needs four devices')

  def test_a_sum_over_devices_sends_each_value_there_and_back(self):
    text = compiled(lambda a, b: a @ b, {'data': 4}, P(None, 'data'), P('data'))
    found = hlo.costs(text).collectives
    self.assertEqual(found, {'all-reduce': hlo.Moved(1, 2 * KIB16 * 3 / 4, 4)})

  def test_what_a_loop_gathers_counts_as_often_as_it_runs(self):
    def fn(a, b):
      def body(x, _):
        whole = jax.lax.with_sharding_constraint(jnp.tanh(x), P())
        x = jax.lax.with_sharding_constraint(b @ whole, P('fsdp'))
        return x, None

      return jax.lax.scan(body, a, length=7)[0]

    text = compiled(fn, {'data': 2, 'fsdp': 2}, P('fsdp'), P('fsdp'))
    found = hlo.costs(text).collectives['all-gather']
    self.assertEqual(found, hlo.Moved(7, 7 * KIB16 / 2, 2))

  def test_a_loop_whose_length_the_run_decides_counts_by_its_rate(self):
    def fn(a, b):
      trips = jnp.int32(a[0, 0])
      body = lambda _, x: jax.lax.with_sharding_constraint(
          jnp.sin(x) @ b, P())
      return jax.lax.fori_loop(0, trips, body, a)

    text = compiled(fn, {'data': 4}, P(), P('data'))
    count = lambda trips: sum(
        moved.bytes for moved in hlo.costs(
            text, flops.Rates(while_trips=trips)).collectives.values())
    self.assertGreater(count(1.), 0)
    self.assertEqual(count(3.) - count(1.), 2 * (count(2.) - count(1.)))
    self.assertGreater(count(2.), count(1.))

  def test_what_leaves_a_slice_is_told_apart(self):
    text = compiled(lambda a, b: a @ b, {'slice': 2, 'data': 2},
                    P(None, 'data'), P('data'))
    self.assertEqual(hlo.costs(text, devices_per_slice=2).dcn_bytes, 0)
    text = compiled(lambda a, b: a @ b, {'slice': 2, 'data': 2},
                    P(None, 'slice'), P('slice'))
    self.assertEqual(hlo.costs(text, devices_per_slice=2).dcn_bytes,
                     2 * KIB16 / 2)

  def test_the_devices_of_a_slice_share_what_comes_from_others(self):
    text = compiled(lambda a, b: a @ b, {'slice': 2, 'data': 2},
                    P(None, ('slice', 'data')), P(('slice', 'data')))
    found = hlo.costs(text, devices_per_slice=2)
    self.assertEqual(found.collectives['all-reduce'],
                     hlo.Moved(1, 2 * KIB16 * 3 / 4, 4))
    # Half of the sum is missing on either side, and two devices fetch it.
    self.assertEqual(found.dcn_bytes, 2 * KIB16 / 2 / 2)


class TpuTest(absltest.TestCase):
  """By hand: a step of six layers x @ w, w [2048, 2048], as libtpu compiled it.

  Four chips, rows of x and of w split, bfloat16, the forward pass recomputed in
  the gradient. `tpu_step.hlo.txt` is the text without metadata.
  """
  WEIGHT = 2 * 2048 * 2048  # bytes, of a layer
  ROWS = 2 * 256 * 2048  # of x on a chip

  def setUp(self):
    super().setUp()
    text = pathlib.Path(__file__).with_name('tpu_step.hlo.txt').read_text()
    self.costs = hlo.costs(text)

  def test_weights_are_gathered_twice_and_gradients_scattered_once(self):
    padded = 2 * 2112 * 2048  # 4 x 528 rows: XLA shifts the parts by 48.
    self.assertEqual(self.costs.collectives, {
        'all-gather': hlo.Moved(12, 12 * self.WEIGHT * 3 / 4, 4),
        'reduce-scatter': hlo.Moved(6, 6 * padded * 3 / 4, 4),
        'collective-permute': hlo.Moved(6, 6 * 2 * 48 * 2048, 2)})
    self.assertEqual(self.costs.unknown_loops, 0)

  def test_memory_is_what_has_to_be_read_and_written_and_little_more(self):
    # The shard of the weights read twice and of the gradients written, inputs
    # of the layers stored and read; all else fits into VMEM.
    least = 6 * (3 * self.WEIGHT / 4 + 2 * self.ROWS)
    self.assertBetween(self.costs.memory_bytes, least, 1.2 * least)


class KernelTest(absltest.TestCase):

  def test_what_follows_a_kernels_metadata_of_several_lines_counts(self):
    text = '''
ENTRY %main (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  %kernel = f32[8,8]{1,0} custom-call(%p), attributes={"name":"splash",
 "xprof_metadata":"{\\"block_q\\": 512}"
}, metadata={op_name="jit(step) = it"}
  ROOT %sum = f32[8,8]{1,0} all-reduce(%kernel), replica_groups={{0,1}}
}
'''
    self.assertEqual(hlo.costs(text).collectives,
                     {'all-reduce': hlo.Moved(1, 256, 2)})
    self.assertEqual(hlo.costs(text).memory_bytes, 4 * 256)


class GroupsTest(parameterized.TestCase):

  @parameterized.parameters(
      ('{{0,1},{2,3}}', [[0, 1], [2, 3]]),
      ('[2,2]<=[4]', [[0, 1], [2, 3]]),
      ('[2,2]<=[2,2]T(1,0)', [[0, 2], [1, 3]]),
      ("mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
      ("mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
      ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 2], [1, 3]]),
      ("mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
      ("mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]))
  def test_every_notation_names_the_same_devices(self, text, expected):
    attributes = f'channel_id=1, replica_groups={text}, dimensions={{1}}'
    self.assertEqual(hlo_text.groups(attributes), expected)


class MemoryTest(absltest.TestCase):

  def test_a_product_reads_its_operands_and_writes_its_result(self):
    text = compiled(lambda a, b: a @ b, {'data': 4}, P(), P())
    self.assertEqual(hlo.costs(text).memory_bytes, 3 * KIB16)

  def test_a_slice_of_a_stack_is_all_that_a_loop_reads_of_it(self):
    def fn(a, stack):
      return jax.lax.scan(lambda x, w: (x @ w, None), a, stack)[0]

    text = jax.jit(fn).lower(
        jnp.ones((N, N)), jnp.ones((10, N, N))).compile().as_text()
    # Ten products; the slice and the sum may be copied each time. To read the
    # whole stack each time would be 100 for that alone.
    self.assertBetween(
        hlo.costs(text).memory_bytes, 30 * KIB16, (30 + 20 + 20 + 5) * KIB16)

  def test_values_in_vmem_cost_nothing(self):
    text = '''
ENTRY %main (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0:T(8,128)} parameter(0)
  %a = f32[8,8]{1,0:T(8,128)S(1)} negate(%p)
  ROOT %b = f32[8,8]{1,0:T(8,128)} negate(%a)
}
'''
    self.assertEqual(hlo.costs(text).memory_bytes, 2 * 256)


if __name__ == '__main__':
  absltest.main()

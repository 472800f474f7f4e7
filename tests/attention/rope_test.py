"""Rotary positions: what attention sees are differences, on each axis."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import rope

HEIGHT, WIDTH, HEAD_DIM = 3, 4, 12


@jax.jit
def angles(positions):
  return rope.angles(positions, HEIGHT, WIDTH, HEAD_DIM)


rotate = jax.jit(rope.rotate)


def naive_angles(positions):
  """Eq. (1) token by token, in float64."""
  table = []
  for frame in positions:
    for row in range(HEIGHT):
      for column in range(WIDTH):
        for position, channels in zip(
            (frame, row, column), rope.axis_channels(HEAD_DIM)
        ):
          for i in range(channels):
            table.append(position * 10_000 ** (-i / channels))
  return np.reshape(table, (len(positions), HEIGHT * WIDTH, HEAD_DIM // 2))


def logits(positions):
  """q·k over [frame, row, column] pairs; every token has the same q and k."""
  grid = (len(positions), HEIGHT, WIDTH)
  tokens = (1, len(positions), HEIGHT * WIDTH, 1, HEAD_DIM)
  table = angles(np.array(positions))
  q, k = (
      np.reshape(rotate(np.broadcast_to(x, tokens), table), (-1, HEAD_DIM))
      for x in np.random.default_rng(0).normal(size=(2, HEAD_DIM))
  )
  return (q @ k.T).reshape(*grid, *grid)


class RopeTest(parameterized.TestCase):

  def test_channels_are_split_as_in_wan(self):
    self.assertEqual(rope.axis_channels(128), (22, 21, 21))

  @parameterized.parameters(6, 8, 12, 64, 96)
  def test_every_channel_belongs_to_an_axis(self, head_dim):
    channels = rope.axis_channels(head_dim)
    self.assertEqual(sum(channels), head_dim // 2)
    self.assertGreater(min(channels), 0)

  def test_table_equals_a_naive_loop(self):
    positions = np.array([7, -2, 1000])
    # A float32 frequency is known to 1e-7 of itself, and so is the product.
    np.testing.assert_allclose(
        angles(positions), naive_angles(positions), rtol=1e-6
    )

  def test_rotation_keeps_the_norm_of_every_channel_pair(self):
    shape = (1, 3, HEIGHT * WIDTH, 1, HEAD_DIM)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    turned = np.asarray(rotate(x, angles(np.array([0, 3, 5]))))
    norm = lambda x: np.linalg.norm(x.reshape(*x.shape[:-1], -1, 2), axis=-1)
    np.testing.assert_allclose(norm(turned), norm(x), rtol=1e-6)

  def test_position_zero_leaves_channels_as_they_are(self):
    shape = (1, 3, HEIGHT * WIDTH, 1, HEAD_DIM)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    turned = rotate(x, angles(np.zeros(3, int)))
    np.testing.assert_array_equal(turned[:, :, 0], x[:, :, 0])

  def test_only_differences_of_frames_count(self):
    # Angles below 20 radians are known to 1e-6, logits are near 10.
    np.testing.assert_allclose(
        logits([0, 1, 2]), logits([11, 12, 13]), atol=3e-5
    )

  def test_only_differences_of_rows_and_of_columns_count(self):
    table = logits([0, 1, 2])[0, :, :, 0]
    np.testing.assert_allclose(table[:-1, :, :-1], table[1:, :, 1:], atol=1e-5)
    np.testing.assert_allclose(
        table[:, :-1, :, :-1], table[:, 1:, :, 1:], atol=1e-5
    )

  def test_each_axis_is_told_apart(self):
    from_first = logits([0, 1, 2])[0, 0, 0]
    for step in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
      self.assertGreater(abs(from_first[step] - from_first[0, 0, 0]), 1e-2)

  def test_rotation_keeps_the_dtype(self):
    shape = (1, 3, HEIGHT * WIDTH, 1, HEAD_DIM)
    turned = jax.eval_shape(
        rope.rotate,
        jax.ShapeDtypeStruct(shape, jnp.bfloat16),
        jax.ShapeDtypeStruct((3, HEIGHT * WIDTH, HEAD_DIM // 2), jnp.float32),
    )
    self.assertEqual((turned.shape, turned.dtype), (shape, jnp.bfloat16))

  @parameterized.parameters(7, 4)
  def test_a_head_without_a_pair_for_each_axis_names_the_key(self, head_dim):
    with self.assertRaisesRegex(ValueError, 'config.model.dim'):
      rope.angles(np.arange(2), HEIGHT, WIDTH, head_dim)


class DirectionsTest(absltest.TestCase):

  def turned(self, heading, width=8, head_dim=64, field_of_view=90.):
    heading = np.float32(heading)[None]
    extra = rope.directions(heading, 2, width, head_dim, field_of_view)
    return np.float64(extra + rope.angles(
        np.zeros(heading.shape[1]), 2, width, head_dim)[None])[0]

  def test_tokens_that_look_the_same_way_have_the_same_angle(self):
    # The middle of the first column is atan(7/8 tan 45°) to the left.
    left = np.arctan(7 / 8)
    ahead, aside = self.turned([0., 2 * left])
    np.testing.assert_allclose(ahead[0], aside[7], atol=1e-5)
    self.assertGreater(abs(ahead[7] - aside[0]).max(), 1)

  def test_a_whole_turn_is_none(self):
    once, again = self.turned([.3, .3 + 2 * np.pi])
    whole = (once - again) / (2 * np.pi)
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-5)
    # 2 f = 8 per radian down to 1, none left out by rounding to 0.
    np.testing.assert_array_equal(
        np.round(whole[0, -10:]), [8, 6, 5, 4, 3, 3, 2, 2, 1, 1])

  def test_frames_and_rows_stay_as_they_are(self):
    extra = rope.directions(np.ones((3, 2)), 4, 6, 32, 60.)
    self.assertEqual(extra.shape, (3, 2, 4 * 6, 16))
    frames, rows, _ = rope.axis_channels(32)
    self.assertFalse(np.any(extra[..., :frames + rows]))
    by_row = np.reshape(extra, (3, 2, 4, 6, 16))
    np.testing.assert_array_equal(by_row, by_row[:, :, :1].repeat(4, 2))

  def test_each_sample_is_turned_by_its_own_angles(self):
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 2, 12))
    x = np.float32(x)
    extra = rope.directions(np.float32([[0, 1, 2], [3, 4, 5]]), 2, 4, 12, 90.)
    found = rotate(x, extra)
    for sample in range(2):
      np.testing.assert_allclose(
          found[sample], rotate(x[sample][None], extra[sample])[0], atol=1e-6)


if __name__ == '__main__':
  absltest.main()

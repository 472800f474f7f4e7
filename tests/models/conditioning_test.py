"""Streams of conditioning: cut, repeated, dropped."""

from absl.testing import absltest
import chex
import jax
import numpy as np

from worldsim_jax.data.actions import ActionSpace
from worldsim_jax.forcing import batches
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.models.conditioning import given_frames

B, F = 64, 5


class ConditioningTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    draw = lambda *shape: np.float32(rng.normal(size=shape))
    self.full = Conditioning(
        text=draw(B, 3, 2),
        actions=draw(B, F, 4),
        actions_mask=np.float32(rng.integers(0, 2, size=(B, F))),
        image=draw(B, F, 2, 2, 1),
        image_mask=np.ones((B, F), np.float32),
        heading=draw(B, F),
        concatenated=draw(B, F, 2, 2, 3),
        clip=draw(B, 4, 2),
    )

  def test_a_stream_that_is_given_is_known(self):
    found = Conditioning(actions=self.full.actions).with_masks()
    np.testing.assert_array_equal(found.actions_mask, np.ones((B, F)))
    self.assertIsNone(found.image_mask)

  def test_a_mask_that_is_given_stays(self):
    chex.assert_trees_all_equal(self.full.with_masks(), self.full)

  def test_frames_are_cut_from_every_stream_that_has_them(self):
    found = jax.jit(lambda c, start: c.frames(start, 2))(self.full, 1)
    expected = jax.tree.map(lambda x: x[:, 1:3], self.full)
    whole = dict(text=self.full.text, clip=self.full.clip)
    chex.assert_trees_all_equal(found, expected.replace(**whole))

  def test_frames_can_be_had_in_any_order_and_more_than_once(self):
    found = self.full.at_frames(np.array([2, 0, 2]))
    self.assertEqual(found.actions.shape, (B, 3, 4))
    for place, frame in enumerate([2, 0, 2]):
      chex.assert_trees_all_equal(
          found.frames(place, 1), self.full.frames(frame, 1)
      )

  def test_the_frames_of_wan_that_are_given_are_marked_four_to_a_latent(self):
    latents = self.full.image[:1, :3]
    given = np.arange(9) < 3  # The first, and half of the next four.
    found = given_frames(latents, given)
    marks = [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(found[0, :, 1, 0, :4], marks)
    np.testing.assert_array_equal(found[..., 4:], latents)

  def test_padding_repeats_the_last_frame(self):
    found = self.full.pad_frames(F + 2)
    chex.assert_trees_all_equal(found.frames(0, F), self.full)
    for extra in (F, F + 1):
      chex.assert_trees_all_equal(
          found.frames(extra, 1), self.full.frames(F - 1, 1)
      )

  def test_padding_to_fewer_frames_changes_nothing(self):
    chex.assert_trees_all_equal(self.full.pad_frames(F - 1), self.full)

  def test_unconditional_knows_neither_text_nor_actions_but_the_image(self):
    found = self.full.unconditional()
    self.assertFalse(np.any(found.text))
    self.assertFalse(np.any(found.actions_mask))
    np.testing.assert_array_equal(found.image, self.full.image)
    np.testing.assert_array_equal(found.image_mask, self.full.image_mask)
    np.testing.assert_array_equal(found.concatenated, self.full.concatenated)
    np.testing.assert_array_equal(found.clip, self.full.clip)

  def test_dropping_never_or_always_is_conditional_or_unconditional(self):
    dropped = jax.jit(Conditioning.dropped)
    key = jax.random.key(0)
    chex.assert_trees_all_equal(dropped(self.full, key, 0.0), self.full)
    chex.assert_trees_all_equal(
        dropped(self.full, key, 1.0), self.full.unconditional()
    )

  def test_all_streams_of_a_sample_are_dropped_together(self):
    known = self.full.replace(actions_mask=np.ones((B, F), np.float32))
    found = jax.jit(Conditioning.dropped)(known, jax.random.key(0), 0.5)
    no_text = ~np.any(found.text, axis=(1, 2))
    np.testing.assert_array_equal(no_text, ~np.any(found.actions_mask, axis=1))
    # 64 coins: 32 ± 4 heads, four standard deviations.
    self.assertAlmostEqual(int(no_text.sum()), 32, delta=16)

  def test_the_heading_is_the_sum_of_all_turns(self):
    degrees = np.float32([[[10, 20], [-30, 0], [5, 5]]])  # Two pixel frames.
    actions = np.zeros((1, 3, 2, 3), np.float32)
    actions[..., 0], actions[..., 2] = 7, degrees
    given = Conditioning(actions=batches.group_actions(
        ActionSpace().normalise(actions).reshape(1, 6, 3), 2))
    found = given.headed()
    np.testing.assert_allclose(
        np.degrees(found.heading), [[30, 0, 10]], atol=1e-4)
    after = given.headed(np.radians([90]))
    np.testing.assert_allclose(
        np.degrees(after.heading), [[120, 90, 100]], atol=1e-4)
    chex.assert_trees_all_equal(found.headed(1.), found)  # Known is known.

  def test_who_does_not_know_the_actions_does_not_know_the_heading(self):
    given = Conditioning(actions=np.ones((1, 4, 3), np.float32)).headed()
    self.assertTrue(np.all(given.with_masks().known_heading()))
    self.assertFalse(np.any(given.unconditional().known_heading()))

  def test_streams_that_are_not_there_stay_away(self):
    empty = Conditioning()
    for found in (
        empty.with_masks(),
        empty.headed(),
        empty.unconditional(),
        empty.frames(0, 1),
        empty.at_frames(np.arange(2)),
        empty.pad_frames(9),
        empty.dropped(jax.random.key(0), 0.5),
    ):
      self.assertEqual(found, empty)


if __name__ == '__main__':
  absltest.main()

"""What each frame continues from, and how actions meet latent frames."""

from absl.testing import absltest
import jax
import numpy as np

from worldsim_jax.forcing import batches


def numbered(num_frames):
  """Latents [1, F, 1, 1, 1] that hold their frame number, from 1."""
  frames = np.arange(1, num_frames + 1, dtype=np.float32)
  return frames.reshape(1, num_frames, 1, 1, 1)


class BatchesTest(absltest.TestCase):

  def assertContinuesFrom(self, found, frames):
    """Frames count from 1; 0 is 'no such frame'."""
    image, mask = found
    np.testing.assert_array_equal(np.ravel(image), frames)
    np.testing.assert_array_equal(np.ravel(mask), np.minimum(frames, 1))

  def test_a_chunk_continues_from_the_last_frame_before_it(self):
    self.assertContinuesFrom(
        batches.image_before_chunks(numbered(6), 2), [0, 0, 2, 2, 4, 4]
    )
    self.assertContinuesFrom(
        batches.image_before_chunks(numbered(3), 1), [0, 1, 2]
    )

  def test_a_future_continues_from_the_last_given_frame(self):
    before_future = jax.jit(batches.image_before_future)
    for given, frames in (1, [0, 1, 1, 1, 1]), (3, [0, 1, 2, 3, 3]):
      self.assertContinuesFrom(before_future(numbered(5), given), frames)

  def test_conditioning_has_the_streams_of_the_batch(self):
    found = batches.conditioning({'latents': 0, 'actions': 1})
    self.assertEqual((found.actions, found.text, found.image), (1, None, None))

  def test_actions_of_a_latent_frame_lie_side_by_side(self):
    # Pixel frames 0..8 in latent frames of 4: the first one stands alone.
    actions = np.arange(1, 10, dtype=np.float32).reshape(1, 9, 1)
    np.testing.assert_array_equal(
        batches.group_actions(actions, 4)[0],
        [[0, 0, 0, 1], [2, 3, 4, 5], [6, 7, 8, 9]],
    )

  def test_actions_of_later_chunks_need_no_padding(self):
    actions = np.arange(16, dtype=np.float32).reshape(1, 8, 2)
    np.testing.assert_array_equal(
        batches.group_actions(actions, 4)[0], np.arange(16).reshape(2, 8)
    )


if __name__ == '__main__':
  absltest.main()

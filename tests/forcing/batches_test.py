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

  def test_a_noisy_frame_tells_what_a_regression_knows(self):
    # Of 100,000 pairs (x0, x_σ) with x0 ~ N(0, 1), per level.
    rng = np.random.default_rng(0)
    x0, eps = rng.normal(size=(2, 100_000))
    for sigma in (0.0, 0.3, 0.8, 1.0):
      x = (1 - sigma) * x0 + sigma * eps
      slope = np.mean(x0 * x) / np.mean(x * x)
      explained = slope**2 * np.mean(x * x)
      latents = np.ones((1, 2, 1, 1, 1), np.float32)
      image, mask = batches.image_before_chunks(
          latents, 1, np.full((1, 2), sigma, np.float32)
      )
      # Standard errors of the moments, 1 / √100,000, times 4.
      self.assertAlmostEqual(float(image[0, 1, 0, 0, 0]), slope, delta=0.013)
      self.assertAlmostEqual(float(mask[0, 1]), explained, delta=0.013)

  def test_at_its_ends_a_noisy_frame_is_the_frame_or_none(self):
    levels = np.float32([[0, 1, 0, 0]])
    image, mask = batches.image_before_chunks(numbered(4), 1, levels)
    np.testing.assert_array_equal(np.ravel(image), [0, 1, 0, 3])
    np.testing.assert_array_equal(np.ravel(mask), [0, 1, 0, 1])
    self.assertContinuesFrom(
        batches.image_before_chunks(
            numbered(6), 2, np.zeros((1, 6), np.float32)
        ),
        [0, 0, 2, 2, 4, 4],
    )

  def test_a_future_continues_from_the_last_given_frame(self):
    before_future = jax.jit(batches.image_before_future)
    for given, frames in (1, [0, 1, 1, 1, 1]), (3, [0, 1, 2, 3, 3]):
      self.assertContinuesFrom(before_future(numbered(5), given), frames)

  def test_conditioning_has_the_streams_of_the_batch(self):
    actions = np.float32([[[0, 0, 1], [0, 0, -2]]])
    found = batches.conditioning({'latents': 0, 'actions': actions})
    self.assertIs(found.actions, actions)
    self.assertIsNone(found.text)
    self.assertIsNone(found.image)
    self.assertEqual(np.sign(found.heading).tolist(), [[1, -1]])

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

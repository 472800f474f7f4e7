"""Latent frames as tokens and back."""

from absl.testing import absltest
import numpy as np

from worldsim_jax.models import patches


class PatchesTest(absltest.TestCase):

  def test_patches_are_put_back_where_they_were(self):
    x = np.float32(np.random.default_rng(0).normal(size=(2, 3, 4, 6, 5)))
    tokens = patches.patchify(x, (2, 3))
    self.assertEqual(tokens.shape, (2, 3, 2 * 2, 2 * 3 * 5))
    np.testing.assert_array_equal(
        patches.unpatchify(tokens, (2, 2), (2, 3)), x
    )

  def test_tokens_run_row_by_row(self):
    x = np.arange(4 * 6).reshape(1, 1, 4, 6, 1)
    tokens = patches.patchify(x, (2, 3))
    np.testing.assert_array_equal(tokens[0, 0, 1], [3, 4, 5, 9, 10, 11])
    np.testing.assert_array_equal(tokens[0, 0, 2, :3], [12, 13, 14])


if __name__ == '__main__':
  absltest.main()

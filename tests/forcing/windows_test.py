"""Windows of a teacher that knows the true future."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import samplers
from worldsim_jax.forcing import windows
from worldsim_jax.models.conditioning import Conditioning

B, F, H, W, C = 1, 10, 1, 2, 2
CONTEXT, WINDOW = 2, 5
SIGMAS = np.float32([1.0, 0.5])


def velocity_fn(params, x, timesteps, conditioning):
  """Leads to the frame that the actions number.

  With what is unknown it leads to zero.
  """
  known = conditioning.with_masks().actions_mask[..., None]
  target = jnp.broadcast_to(
      (conditioning.actions * known)[..., None, None], x.shape
  )
  return flow.velocity_from_x0(x, params * target, timesteps / 1000)


class WindowsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    frames = np.arange(1, F + 1, dtype=np.float32)
    self.video = np.broadcast_to(frames[:, None, None, None], (B, F, H, W, C))
    self.given = Conditioning(actions=frames[None, :, None])

  def test_frames_after_the_context_are_made(self):
    made = windows.continue_window(
        velocity_fn,
        np.float32(1),
        self.video[:, :CONTEXT],
        self.given.frames(0, WINDOW),
        jax.random.key(0),
        SIGMAS,
        window=WINDOW,
    )
    # Roundings of values near 5.
    np.testing.assert_allclose(made, self.video[:, CONTEXT:WINDOW], atol=5e-6)

  def test_guidance_leads_away_from_the_unconditional(self):
    made = windows.continue_window(
        velocity_fn,
        np.float32(1),
        self.video[:, :CONTEXT],
        self.given.frames(0, WINDOW),
        jax.random.key(0),
        SIGMAS[:1],
        window=WINDOW,
        guidance_scale=2.0,
    )
    np.testing.assert_allclose(
        made, 2 * self.video[:, CONTEXT:WINDOW], atol=1e-5
    )

  def test_each_window_reads_its_own_conditioning(self):
    # Windows of three new frames make 9, of which 8 were asked for.
    made = windows.extend(
        velocity_fn,
        np.float32(1),
        self.video[:, :CONTEXT],
        self.given.frames(0, CONTEXT + 8),
        jax.random.key(0),
        SIGMAS,
        num_frames=8,
        window=WINDOW,
        sample=samplers.unipc,
    )
    np.testing.assert_allclose(
        made, self.video[:, CONTEXT : CONTEXT + 8], atol=1e-5
    )


if __name__ == '__main__':
  absltest.main()

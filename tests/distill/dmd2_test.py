"""DMD2 is its two parts, on one pass."""

import functools

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from tests.distill import gan_test
from tests.distill import gaussians
from worldsim_jax.diffusion import flow
from worldsim_jax.distill import dmd
from worldsim_jax.distill import dmd2

GIVEN, FAKE, KEY = gan_test.GIVEN, gan_test.FAKE, gan_test.KEY


def leads_to(x0, x, timesteps, unused_conditioning):
  return flow.velocity_from_x0(x, jnp.full(x.shape, x0), timesteps / 1000)


def networks(calls=None):
  """A teacher and a critic with constant predictions, and logits."""
  critic = functools.partial(leads_to, 0.8)

  def judge(x, timesteps, conditioning):
    if calls is not None:
      calls.append(len(x))
    logits = gan_test.curved(x, timesteps, conditioning)[1]
    return critic(x, timesteps, conditioning), logits

  return {'teacher': functools.partial(leads_to, 0.3), 'critic': critic,
          'discriminator': judge}


def run(loss, fake=FAKE, calls=None, **changes):
  return loss(networks(calls), gan_test.sample(fake), KEY,
              gaussians.config(**changes))


class Dmd2Test(absltest.TestCase):

  def test_the_student_s_gradient_is_the_sum_of_both_parts(self):
    @jax.jit
    def gradient(fake, weight):
      return jax.grad(lambda fake: run(
          dmd2.generator_loss, fake, generator_gan_weight=weight)[0])(fake)

    none, one, two = (gradient(FAKE, w) for w in (0., 1., 2.))
    # Predictions are constants, so that DMD's does not depend on the noise.
    alone = jax.jit(jax.grad(
        lambda fake: run(dmd.generator_loss, fake)[0]))(FAKE)
    # Values near 1 / 36, of x0 = x - σ v with roundings of x.
    np.testing.assert_allclose(none, alone, atol=1e-7)
    np.testing.assert_allclose(two - one, one - none, atol=1e-7)
    self.assertTrue(np.all((one - none)[:, GIVEN:] != 0))
    np.testing.assert_array_equal(one[:, :GIVEN], 0)

  def test_the_critic_s_loss_is_the_sum_of_both_parts(self):
    loss, metrics = run(dmd2.critic_loss, critic_gan_weight=3.)
    np.testing.assert_allclose(
        loss, metrics['denoising_loss'] + 3 * metrics['gan_loss'], rtol=1e-6)

  def test_a_critic_that_knows_the_samples_denoises_without_error(self):
    _, metrics = run(dmd2.critic_loss, np.full_like(FAKE, 0.8))
    # As in dmd_test: roundings of values near 4, divided by σ ≥ 0.02.
    self.assertLess(metrics['denoising_loss'], (4 * 2**-23 / 0.02) ** 2)

  def test_velocity_and_logits_are_of_one_pass(self):
    for loss, clips in ((dmd2.generator_loss, len(FAKE)),
                        (dmd2.critic_loss, 2 * len(FAKE))):
      calls = []
      run(loss, calls=calls)
      self.assertEqual(calls, [clips])


if __name__ == '__main__':
  absltest.main()

"""Adversarial losses at logits and on networks that are known."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from tests.distill import gaussians
from worldsim_jax.distill import divergences
from worldsim_jax.distill import gan
from worldsim_jax.distill import matching
from worldsim_jax.models.conditioning import Conditioning

B, F, H, W, C = 2, 3, 2, 2, 3
GIVEN = 1
KEY = jax.random.key(0)


def draw(*shape, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=shape))


REAL, FAKE = draw(B, F, H, W, C, seed=1), draw(B, F, H, W, C, seed=2)
FAKE[:, :GIVEN] = REAL[:, :GIVEN]
CONDITIONING = Conditioning(actions=draw(B, F, 1, seed=3))
WEIGHTS = draw(F * H * W * C, 8, seed=4) / 6, draw(8, seed=5)


def linear(x, unused_timesteps, unused_conditioning):
  return x, x.reshape(len(x), -1) @ WEIGHTS[0] @ WEIGHTS[1]


def curved(x, unused_timesteps, unused_conditioning):
  return x, jnp.tanh(x.reshape(len(x), -1) @ WEIGHTS[0]) @ WEIGHTS[1]


def sample(fake=FAKE):
  return matching.Sample(fake, REAL, CONDITIONING, GIVEN)


def run(loss, network=linear, fake=FAKE, **changes):
  return loss({'discriminator': network}, sample(fake), KEY,
              gaussians.config(**changes))


class FormsTest(parameterized.TestCase):

  @parameterized.parameters(
      ('softplus', np.log(1 + np.exp(-2)) + np.log(1 + np.exp(0.5)),
       np.log(1 + np.exp(-0.5))),
      ('relativistic', np.log(1 + np.exp(-1.5)), np.log(1 + np.exp(1.5))),
  )
  def test_losses_at_logits_of_2_and_one_half(self, name, critic, generator):
    form, real, fake = gan.ADVERSARIAL[name], np.ones(3) * 2, np.ones(3) / 2
    np.testing.assert_allclose(form.critic(real, fake), critic, rtol=1e-6)
    np.testing.assert_allclose(form.generator(real, fake), generator, rtol=1e-6)

  @parameterized.parameters(*gan.ADVERSARIAL)
  def test_the_two_sides_pull_the_fake_logit_in_opposite_directions(self, name):
    real, fake = draw(5), draw(5, seed=1)
    critic, generator = (
        jax.grad(loss, argnums=1)(real, fake)
        for loss in gan.ADVERSARIAL[name][:2])
    self.assertTrue(np.all(critic > 0))
    self.assertTrue(np.all(generator < 0))

  def test_relativistic_losses_see_differences_alone(self):
    form, real, fake = gan.ADVERSARIAL['relativistic'], draw(5), draw(5, seed=1)
    for loss in form[:2]:
      np.testing.assert_allclose(
          loss(real + 3, fake + 3), loss(real, fake), rtol=1e-5)

  @parameterized.parameters(
      (gan.critic_loss, dict(adversarial='hinge'), 'adversarial'),
      (gan.generator_loss, dict(adversarial='hinge'), 'adversarial'),
      (gan.critic_loss, dict(penalty='spectral'), 'penalty'),
  )
  def test_an_unknown_name_is_told_with_its_key(self, loss, changes, key):
    with self.assertRaisesRegex(ValueError, f'config.*{key}'):
      run(loss, **changes)


class StepsTest(parameterized.TestCase):

  def seen(self, loss, **changes):
    """What the discriminator is called with: noisy x, timesteps."""
    calls = []

    def spy(x, timesteps, conditioning):
      self.assertLen(conditioning.actions, len(x))
      calls.append((np.asarray(x), np.asarray(timesteps)))
      return linear(x, timesteps, conditioning)

    run(loss, spy, **dict(penalty_weight=0.) | changes)
    (call,) = calls  # One pass.
    return call

  def noises(self, loss, order):
    """The noise of both halves of the pass, whose data was in this order."""
    x, timesteps = self.seen(loss)
    np.testing.assert_array_equal(*np.split(timesteps, 2))
    np.testing.assert_array_equal(timesteps[:, :GIVEN], 0)
    np.testing.assert_array_equal(
        x[:, :GIVEN], np.concatenate(order)[:, :GIVEN])
    sigma = timesteps[:B, GIVEN:, None, None, None] / 1000
    return [(part - (1 - sigma) * clean[:, GIVEN:]) / sigma
            for part, clean in zip(np.split(x[:, GIVEN:], 2), order)]

  def test_data_and_samples_share_noise_where_the_critic_compares_them(self):
    real, fake = self.noises(gan.critic_loss, (REAL, FAKE))
    np.testing.assert_allclose(real, fake, atol=1e-4)  # Divided by σ ≥ 0.02.

  def test_they_have_noise_of_their_own_where_the_student_is_trained(self):
    fake, real = self.noises(gan.generator_loss, (FAKE, REAL))
    self.assertTrue(np.all(abs(real - fake).mean(axis=(1, 2, 3, 4)) > 0.5))

  def test_data_is_not_looked_at_where_the_loss_does_not(self):
    x, _ = self.seen(gan.generator_loss, adversarial='softplus')
    self.assertLen(x, B)

  @parameterized.parameters(*gan.ADVERSARIAL)
  def test_only_generated_frames_of_the_student_have_a_gradient(self, name):
    of = lambda loss: jax.jit(jax.grad(
        lambda fake: run(loss, curved, fake, adversarial=name)[0]))(FAKE)
    np.testing.assert_array_equal(of(gan.critic_loss), 0)
    found = of(gan.generator_loss)
    np.testing.assert_array_equal(found[:, :GIVEN], 0)
    self.assertTrue(np.all(found[:, GIVEN:] != 0))

  def test_the_sides_are_weighted_and_the_penalty_is_relative(self):
    loss = lambda side, **changes: float(run(side, curved, **changes)[0])
    np.testing.assert_allclose(
        loss(gan.generator_loss, generator_gan_weight=3.),
        3 * loss(gan.generator_loss, generator_gan_weight=1.), rtol=1e-6)
    _, metrics = run(gan.critic_loss, curved, penalty_weight=4.)
    np.testing.assert_allclose(
        loss(gan.critic_loss, critic_gan_weight=3., penalty_weight=4.),
        3 * (metrics['gan_loss'] + 2 * (metrics['r1'] + metrics['r2'])),
        rtol=1e-6)


class PenaltiesTest(parameterized.TestCase):

  def penalty(self, name, network, x, sigma=0.01, rng=KEY):
    logits_of = lambda x: network(x, None, None)[1]
    scored = np.arange(F) >= GIVEN
    return gan.PENALTIES[name](logits_of, x, logits_of(x), scored, rng, sigma)

  def test_the_exact_one_of_a_linear_network_is_the_square_of_its_weights(self):
    w = (WEIGHTS[0] @ WEIGHTS[1]).reshape(F, H, W, C)[GIVEN:]
    np.testing.assert_allclose(
        self.penalty('exact', linear, REAL), np.sum(w**2), rtol=1e-5)

  @parameterized.parameters(0.1, 0.01)
  def test_the_finite_one_is_of_first_order_in_sigma(self, sigma):
    """|((D(x + ς e) - D(x)) / ς) - ∇D · e| ≤ ς / 2 max |eᵀ D'' e|."""
    found = self.penalty('finite', curved, REAL, sigma)
    e = np.array(jax.random.normal(KEY, (REAL.size,))).reshape(REAL.shape)
    e[:, :GIVEN] = 0
    inner, outer = (WEIGHTS[0].astype(np.float64), WEIGHTS[1])
    flat = lambda x: x.reshape(B, -1).astype(np.float64)
    hidden = np.tanh(flat(REAL) @ inner)
    slope = ((1 - hidden**2) * (flat(e) @ inner)) @ outer
    # |tanh''| ≤ 4 / (3 √3); logits of 1 are known to 2^-22, divided by ς.
    second = 4 / 27**0.5 * ((flat(e) @ inner)**2) @ abs(outer)
    off = sigma / 2 * second + 8 * 2**-22 / sigma
    np.testing.assert_array_less(
        abs(found - slope**2), 2 * abs(slope) * off + off**2)
    self.assertLess(np.min(off / abs(slope)), 20 * sigma)  # Not vacuous.

  def test_the_finite_one_s_mean_is_the_exact_one(self):
    count = 4096
    x = np.repeat(REAL[:1], count, axis=0)
    each = jax.jit(lambda x: self.penalty('finite', curved, x))(x)
    exact = self.penalty('exact', curved, REAL[:1])
    # (∇D·e)² has a variance of 2 ‖∇D‖⁴. The bias is of the order of ς² = 1e-4.
    self.assertAlmostEqual(
        float(np.mean(each) / exact[0]), 1, delta=4 * (2 / count)**0.5)

  @parameterized.parameters('exact', 'finite')
  def test_what_is_given_is_not_penalised(self, name):
    def given_alone(x, *unused):
      return x, jnp.sum(x[:, :GIVEN]**2, axis=(1, 2, 3, 4))

    np.testing.assert_array_equal(self.penalty(name, given_alone, REAL), 0)


class DiracTest(absltest.TestCase):
  """Mescheder et al. 2018: data at 0, a student at θ, D(x) = ψ x."""

  @functools.cache
  def distance(self, name, **changes):
    """|(θ, ψ)| over 400 steps of 0.1, of both sides at once, from (0.1, 0)."""
    divergence = divergences.DIVERGENCES[name]
    clean = gaussians.config(
        min_sigma=0., max_sigma=0., generator_gan_weight=1.,
        critic_gan_weight=1., **changes)

    def of(loss, theta, psi, rng):
      video = jnp.full((64, 1, 1, 1, 1), theta)
      judge = lambda x, *unused: (x, psi * x[:, 0, 0, 0, 0])
      return loss({'discriminator': judge}, matching.Sample(
          video, jnp.zeros_like(video), Conditioning(), 0), rng, clean)[0]

    def step(state, rng):
      theta, psi = state
      g = jax.grad(of, argnums=1)(divergence.generator_loss, theta, psi, rng)
      d = jax.grad(of, argnums=2)(divergence.critic_loss, theta, psi, rng)
      state = theta - 0.1 * g, psi - 0.1 * d
      return state, jnp.hypot(*state)

    _, found = jax.jit(lambda start: jax.lax.scan(
        step, start, jax.random.split(KEY, 400)))((0.1, 0.))
    return np.asarray(found)

  def test_without_penalties_the_two_circle_for_ever(self):
    # Near 0 the flow is a rotation, of which steps of h = 0.1 make a spiral
    # that grows by (1 + h² / 4)^½ each: 1.65 in all, less what softplus bends.
    found = self.distance('r3gan', penalty_weight=0.)
    self.assertTrue(np.all(found > 0.099))
    self.assertBetween(found[-1] / 0.1, 1.5, 1.65)

  def test_with_exact_penalties_r3gan_converges(self):
    # γ = ½: ψ' = -θ/2 - ψ, θ' = ψ/2 near 0, which decays as e^(-t/2); t = 40.
    self.assertLess(self.distance('r3gan', penalty_weight=0.5)[-1], 1e-6)

  def test_with_finite_differences_self_forcing_s_converges(self):
    self.assertLess(self.distance('gan', penalty_weight=0.5)[-1], 1e-3)


if __name__ == '__main__':
  absltest.main()

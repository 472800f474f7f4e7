"""Adversarial losses on a discriminator of noised samples.

D gives a logit per sample, from the features of the critic's backbone, of data
x_σ and of the student's samples x̂_σ alike. Non-saturating (DMD2) or
relativistic (R3GAN, Self Forcing), with r = D(x_σ), f = D(x̂_σ), s = softplus:

  softplus      L_D = s(-r) + s(f)             L_G = s(-f)
  relativistic  L_D = s(-(r - f))              L_G = s(-(f - r))         (1)

r and f are of one context and one σ; relativistic losses compare within such a
pair. D's step gives both the same noise ε, so that noise tells them apart by
nothing; G's step draws an own one for each (Self Forcing's code).

The zero-centred penalties R1 (of data) and R2 (of samples) make (1) converge,

  R = E ‖∇_x D(x_σ)‖²             a sum over all of a sample's generated frames,
  critic = w_D (L_D + γ/2 (R1 + R2)),            generator = w_G L_G.    (2)

'exact' differentiates D, and then the derivative: backpropagation through
backpropagation, which flash kernels lack. 'finite' costs one more forward pass
(Lin et al. 2025, APT): for e ~ N(0, I), to first order in ς,

  ((D(x_σ + ς e) - D(x_σ)) / ς)² = (∇D · e)²,    whose mean over e is R. (3)

Logits of rounded tokens differ by their rounding too, and 1/ς magnifies it:
with bfloat16, ς = 0.01 measures little but noise.

Upstream's weights in these terms: gan_g_weight is w_G, gan_d_weight w_D,
r1_weight γ w_D.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import noise
from worldsim_jax.distill import matching

# Self Forcing published no configuration of its GAN; these are its code's
# defaults, except γ, which is 0 there: without penalties (1) need not converge.
SELF_FORCING = dict(
    adversarial='relativistic', generator_gan_weight=1e-2,
    critic_gan_weight=1e-2, penalty='finite', penalty_weight=1.,
    penalty_sigma=0.01)
# Huang et al. 2024, arXiv 2501.05441. Its γ was found anew for every data set,
# 0.05 (CIFAR-10) to 150 (FFHQ at 256); 1 is that of ImageNet at 64.
R3GAN = SELF_FORCING | dict(
    generator_gan_weight=1., critic_gan_weight=1., penalty='exact')


class Adversarial(NamedTuple):
  """A row of eq. (1), as functions of logits (real_B, fake_B) -> loss."""
  critic: ...
  generator: ...
  is_paired: bool


def _mean_softplus(x_B):
  return jnp.mean(jax.nn.softplus(x_B))


ADVERSARIAL = {
    'softplus': Adversarial(
        lambda real, fake: _mean_softplus(-real) + _mean_softplus(fake),
        lambda real, fake: _mean_softplus(-fake), is_paired=False),
    'relativistic': Adversarial(
        lambda real, fake: _mean_softplus(fake - real),
        lambda real, fake: _mean_softplus(real - fake), is_paired=True),
}


def generator_loss(networks, sample: matching.Sample, rng, config,
                   published=SELF_FORCING):
  """The student's side of (2); see `matching` for the arguments.

  Args:
    networks: 'discriminator'.
    config: shift, min_sigma, max_sigma; adversarial, generator_gan_weight.
    published: of what the config leaves out.
  """
  rng_sigma, rng_fake, rng_real = jax.random.split(rng, 3)
  levels = matching.noise_levels(rng_sigma, len(sample.video_BFHWC), config)
  x, _, sigma_BF = matching.noised(
      rng_fake, sample, sample.video_BFHWC, levels)
  loss, metrics, _ = fooling(
      networks, sample, rng_real, x, sigma_BF, config, published)
  return loss, {'loss': loss} | metrics


def critic_loss(networks, sample: matching.Sample, rng, config,
                published=SELF_FORCING):
  """The discriminator's side of (2).

  Args:
    networks: 'discriminator'.
    config: shift, min_sigma, max_sigma; adversarial, critic_gan_weight,
      penalty, penalty_weight, penalty_sigma.
    (others: as above.)
  """
  rng_noise, rng_penalty = jax.random.split(rng)
  pair = noised_pair(rng_noise, sample, config)
  loss, metrics, _ = telling_apart(
      networks, sample, rng_penalty, pair, config, published)
  return loss, {'loss': loss} | metrics


class Pair(NamedTuple):
  """Data and samples, with the same noise.

  Attributes:
    real_BFHWC, fake_BFHWC: noised, without gradient.
    target_BFHWC: the velocity of the fake one.
    sigma_BF: of both.
  """
  real_BFHWC: jax.Array
  fake_BFHWC: jax.Array
  target_BFHWC: jax.Array
  sigma_BF: jax.Array


def noised_pair(rng, sample: matching.Sample, config) -> Pair:
  """What a discriminator's step is about."""
  rng_sigma, rng_eps = jax.random.split(rng)
  made = jax.lax.stop_gradient(sample.video_BFHWC)
  levels = matching.noise_levels(rng_sigma, len(made), config)
  fake, target, sigma_BF = matching.noised(rng_eps, sample, made, levels)
  real, _, _ = matching.noised(rng_eps, sample, sample.real_BFHWC, levels)
  return Pair(real, fake, target, sigma_BF)


def fooling(networks, sample, rng, x_BFHWC, sigma_BF, config, published):
  """w_G L_G of noised samples x, and the velocity that the pass gave for them.

  Returns:
    (loss, metrics, v_BFHWC).
  """
  form = _form(config, published)
  seen, batch = x_BFHWC, len(x_BFHWC)
  if form.is_paired:  # The data at the same levels, with noise of its own.
    level_B = sigma_BF.max(axis=1)
    real, _, _ = matching.noised(rng, sample, sample.real_BFHWC, level_B)
    seen = jnp.concatenate([x_BFHWC, real])
  v, logits = judge(networks, sample, seen, sigma_BF)
  loss = form.generator(logits[batch:], logits[:batch])
  weight = matching.setting(config, 'generator_gan_weight', published)
  return weight * loss, {'gan_loss': loss}, v[:batch]


def telling_apart(networks, sample, rng, pair: Pair, config, published):
  """w_D (L_D + γ/2 (R1 + R2)), and the velocity of the fake one.

  Returns:
    (loss, metrics, v_BFHWC).
  """
  own = lambda name: matching.setting(config, name, published)
  both = jnp.concatenate([pair.real_BFHWC, pair.fake_BFHWC])
  logits_of = lambda x: judge(networks, sample, x, pair.sigma_BF)[1]
  v, logits = judge(networks, sample, both, pair.sigma_BF)
  real, fake = jnp.split(logits, 2)
  adversarial = loss = _form(config, published).critic(real, fake)
  metrics = {'gan_loss': adversarial, 'real_logit': jnp.mean(real),
             'fake_logit': jnp.mean(fake)}
  penalty = matching.choice(PENALTIES, 'penalty', own('penalty'))
  gamma, sigma = own('penalty_weight'), own('penalty_sigma')
  if gamma:
    squares = penalty(
        logits_of, both, logits, sample.generated_F, rng, sigma)
    r1, r2 = squares.reshape(2, -1).mean(axis=1)
    loss += gamma / 2 * (r1 + r2)
    metrics |= {'r1': r1, 'r2': r2}
  return (own('critic_gan_weight') * loss, metrics, v[len(pair.fake_BFHWC):])


def judge(networks, sample, x_BFHWC, sigma_BF):
  """One pass over noised clips, n of each element of the batch.

  Returns:
    (v, logits) of all n·B.
  """
  copies = len(x_BFHWC) // len(sigma_BF)
  repeat = lambda x: jnp.concatenate([x] * copies)
  return networks['discriminator'](
      x_BFHWC, repeat(flow.timesteps(sigma_BF)),
      jax.tree.map(repeat, sample.conditioning))


def exact(logits_of, x_BFHWC, unused_logits_B, scored_F, *unused):
  """‖∇_x D‖² of each sample over the frames of scored_F, [B]."""
  # Samples do not see each other: the gradient of the sum has all of theirs.
  gradient = jax.grad(lambda x: jnp.sum(logits_of(x)))(x_BFHWC)
  return jnp.sum(jnp.where(_frames(scored_F), gradient, 0.)**2,
                 axis=(1, 2, 3, 4))


def finite(logits_of, x_BFHWC, logits_B, scored_F, rng, sigma: float):
  """Eq. (3) of each sample, [B]; e is 0 outside of the frames of scored_F."""
  e = noise.normal(rng, x_BFHWC.shape, x_BFHWC.dtype) * _frames(scored_F)
  return ((logits_of(x_BFHWC + sigma * e) - logits_B) / sigma)**2


PENALTIES = {'exact': exact, 'finite': finite}


def _frames(scored_F):
  return scored_F[:, None, None, None]


def _form(config, published) -> Adversarial:
  return matching.choice(ADVERSARIAL, 'adversarial', matching.setting(
      config, 'adversarial', published))

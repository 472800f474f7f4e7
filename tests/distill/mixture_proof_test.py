"""A student of four steps against its teacher, on a 2-D mixture of Gaussians.

Nothing is known in closed form here: the teacher is a small network trained on
the mixture, the critic another that runs after the student. Both are what the
losses see of a video of one frame, [B, 1, 1, 1, 2].
"""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.distill import gaussians
from worldsim_jax.diffusion import flow
from worldsim_jax.diffusion import objective
from worldsim_jax.diffusion import samplers
from worldsim_jax.distill import divergences
from worldsim_jax.models.transformer import sinusoid

CENTRES = np.float32([[-1.2, -0.8], [1.0, -1.0], [1.2, 1.0], [-0.6, 1.2]])
WEIGHTS = np.float32([0.4, 0.3, 0.2, 0.1])
SPREAD = 0.2
WIDTH, EMBEDDING = 64, 32
SIGMAS = flow.few_step_sigmas((1000, 750, 500, 250), 1.)
BATCH, NUM = 512, 1024
TEACHER_STEPS, STUDENT_STEPS, PAIRS = 3000, 3000, 30
CONFIG = gaussians.config()
# Thousands of steps: unlike other tests (conftest.py) it is worth the time.
OPTIMISED = {'xla_backend_optimization_level': 3,
             'xla_cpu_use_fusion_emitters': True}


def data(rng, size):
  rng_centre, rng_spread = jax.random.split(rng)
  which = jax.random.choice(rng_centre, len(WEIGHTS), (size,), p=WEIGHTS)
  x = jnp.asarray(CENTRES)[which] + SPREAD * jax.random.normal(
      rng_spread, (size, 2))
  return x[:, None, None, None]


def init(rng):
  sizes = [2 + EMBEDDING, WIDTH, WIDTH, WIDTH, 2]
  return [
      {'w': jax.random.normal(key, (a, b)) * (2 / a) ** 0.5, 'b': jnp.zeros(b)}
      for key, a, b in zip(jax.random.split(rng, 4), sizes, sizes[1:])]


def velocity(params, x, timesteps, unused_conditioning=None):
  h = jnp.concatenate(
      [x[:, 0, 0, 0], sinusoid(timesteps, EMBEDDING)[:, 0]], axis=-1)
  for layer in params[:-1]:
    h = jax.nn.silu(h @ layer['w'] + layer['b'])
  return (h @ params[-1]['w'] + params[-1]['b'])[:, None, None, None]


def optimised(optimizer, loss, params, state, rng):
  gradient = jax.grad(loss)(params, rng)
  update, state = optimizer.update(gradient, state)
  return optax.apply_updates(params, update), state


def train_teacher(rng, steps):
  optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

  def loss(params, rng):
    rng_data, rng_sigma, rng_eps = jax.random.split(rng, 3)
    sigma = flow.uniform_sigmas(rng_sigma, (BATCH, 1))
    x, target = objective.noised(rng_eps, data(rng_data, BATCH), sigma)
    v = velocity(params, x, flow.timesteps(sigma))
    return objective.regression(v, target, sigma, np.ones(1), 'none')[0]

  def step(carry, rng):
    return optimised(optimizer, loss, *carry, rng), None

  params = init(rng)
  (params, _), _ = jax.lax.scan(
      step, (params, optimizer.init(params)), jax.random.split(rng, steps))
  return params


def few_steps(params, rng, size):
  """The prediction at the last step, of the student's own noisy samples."""
  rng_start, rng_steps = jax.random.split(rng)

  def predict(x, sigma):
    level = jnp.full((size, 1), sigma)
    return flow.x0_from_velocity(
        x, velocity(params, x, flow.timesteps(level)), level)

  x = jax.random.normal(rng_start, (size, 1, 1, 1, 2))
  for k, sigma in enumerate(SIGMAS[:-1]):
    x0 = jax.lax.stop_gradient(predict(x, sigma))
    x = samplers.renoise(jax.random.fold_in(rng_steps, k), x0, SIGMAS[k + 1])
  return predict(x, SIGMAS[-1])


def distil(teacher, rng, steps, every=5):
  """The student's average, after `steps` of its own, `every` of the critic.

  All of its steps are run, without gradient but in the last. With a random exit
  step, the critic knows a mixture of what the exits give, and it is the mixture
  that comes to be like the teacher: a student of this size, whose one-step
  samples cannot be, then has others that are too sharp.
  """
  divergence = divergences.DIVERGENCES['dmd']
  optimizers = [
      optax.adam(optax.cosine_decay_schedule(rate, num_steps), b1=0., b2=0.99)
      for rate, num_steps in ((2e-4, steps), (2e-3, steps * every))]

  def loss_of(part, student, critic, rng):
    rng_rollout, rng_loss = jax.random.split(rng)
    video = few_steps(student, rng_rollout, BATCH)
    networks = {
        'teacher': lambda *args: velocity(teacher, *args),
        'critic': lambda *args: velocity(critic, *args)}
    return part(networks, gaussians.sample(video), rng_loss, CONFIG)[0]

  def step(carry, rng):
    student, critic, average = carry
    def critic_step(critic, rng):
      return optimised(optimizers[1], lambda p, rng: loss_of(
          divergence.critic_loss, student[0], p, rng), *critic, rng), None

    critic, _ = jax.lax.scan(critic_step, critic, jax.random.split(rng, every))
    student = optimised(optimizers[0], lambda p, rng: loss_of(
        divergence.generator_loss, p, critic[0], rng), *student,
        jax.random.fold_in(rng, every))
    average = jax.tree.map(
        lambda a, p: 0.99 * a + 0.01 * p, average, student[0])
    return (student, critic, average), None

  start = lambda optimizer: (teacher, optimizer.init(teacher))
  carry = (*map(start, optimizers), teacher)
  (_, _, average), _ = jax.lax.scan(step, carry, jax.random.split(rng, steps))
  return average


def many_steps(params, rng, size):
  noise = jax.random.normal(rng, (size, 1, 1, 1, 2))
  return samplers.euler(lambda x, t: velocity(params, x, t), noise,
                        flow.sampling_sigmas(100, 1.))


def mmd(a, b):
  """Unbiased squared maximum mean discrepancy, kernels of three widths."""
  a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)

  def kernel(x, y):
    square = jnp.sum((x[:, None] - y[None])**2, axis=-1)
    return sum(jnp.exp(-square / (2 * w**2)) for w in (0.1, 0.3, 1.0))

  own = lambda x: (jnp.sum(kernel(x, x)) - 3 * len(x)) / (
      len(x) * (len(x) - 1))
  return own(a) + own(b) - 2 * jnp.mean(kernel(a, b))


class MixtureTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_student_of_four_steps_makes_what_its_teacher_makes(self):
    teacher = jax.jit(
        train_teacher, static_argnums=1, compiler_options=OPTIMISED)(
            jax.random.key(0), TEACHER_STEPS)
    student = jax.jit(distil, static_argnums=2, compiler_options=OPTIMISED)(
        teacher, jax.random.key(3), STUDENT_STEPS)
    many = jax.jit(many_steps, static_argnums=2)
    few = jax.jit(few_steps, static_argnums=2)
    distance = jax.jit(mmd)

    def distances(sampler, params, seed):
      return [float(distance(
          sampler(params, jax.random.key(seed + i), NUM),
          many(teacher, jax.random.key(seed + PAIRS + i), NUM)))
              for i in range(PAIRS)]

    floor = distances(many, teacher, 100)
    before, after = distances(few, teacher, 200), distances(few, student, 300)
    # As far as the teacher's own samples are, in 29 pairs of 30.
    self.assertLess(np.mean(after), np.quantile(floor, 0.97))
    self.assertGreater(np.mean(before), 10 * np.max(floor))
    # And the teacher's are the data's.
    data_too = [float(distance(
        data(jax.random.key(i), NUM), many(teacher, jax.random.key(i), NUM)))
                for i in range(PAIRS)]
    self.assertLess(np.mean(data_too), np.quantile(floor, 0.97))


if __name__ == '__main__':
  absltest.main()

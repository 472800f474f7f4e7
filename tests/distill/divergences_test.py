"""The table says what a stage has to bring."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from tests.distill import dmd2_test
from tests.distill import gan_test
from worldsim_jax.distill import divergences

DIVERGENCES = divergences.DIVERGENCES
ALL_READ = {'shift', 'min_sigma', 'max_sigma'}
VALUES = dict(shift=1., min_sigma=0.02, max_sigma=0.98, guidance_scale=1.,
              critic_weight='none')


class Config:
  """A stage that says only what every stage says, and who asked for what."""

  def __init__(self):
    self.asked = set()

  def __getattr__(self, name):
    self.asked.add(name)
    if name in VALUES:
      return VALUES[name]
    raise AttributeError(name)


class DivergencesTest(parameterized.TestCase):

  @parameterized.parameters(*DIVERGENCES)
  def test_needs_no_more_networks_and_keys_than_it_says(self, name):
    divergence = DIVERGENCES[name]
    networks = {role: fn for role, fn in dmd2_test.networks().items()
                if role in divergence.networks}
    keys = set(ALL_READ) | set(divergence.published)
    if divergence.needs_teacher:
      keys |= {'guidance_scale', 'critic_weight'}
    asked = set()
    for loss in (divergence.generator_loss, divergence.critic_loss):
      config = Config()
      value, metrics = jax.jit(
          lambda rng, loss=loss, config=config: loss(
              networks, gan_test.sample(), rng, config))(jax.random.key(0))
      self.assertTrue(np.isfinite(value))
      self.assertEqual(metrics['loss'], value)
      asked |= config.asked
    self.assertEqual(asked, keys)

  def test_who_needs_what(self):
    needs = lambda field: {
        name for name, x in DIVERGENCES.items() if getattr(x, field)}
    self.assertEqual(needs('needs_teacher'), {'dmd', 'dmd2', 'sid'})
    self.assertEqual(needs('needs_discriminator'), {'dmd2', 'gan', 'r3gan'})
    self.assertEqual(needs('through_teacher'), {'sid'})


if __name__ == '__main__':
  absltest.main()

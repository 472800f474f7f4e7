"""Every way to make a student is a stage, which trains what it should."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import pytest

from configs import stages as stage_configs
from configs import students
from tests.train import stages_test
from worldsim_jax.models import discriminator
from worldsim_jax.train import stages
from worldsim_jax.train import validation

SMALL = dict(num_steps=6, batch_size=2, clip_frames=4)
CAUSAL = dict(teacher='teacher_forcing', start_from='teacher_forcing')
TEACHER, STARTED = {'teacher': 1}, {'teacher': 1, 'teacher_forcing': 2}

# Name, its config, the networks (by seed) that it starts from, a metric.
REGRESSIONS = (
    ('diffusion_forcing',
     stage_configs.diffusion_forcing(start_from='teacher', weight='bsmntw'),
     TEACHER, 'loss'),
    ('ode', students.ode_regression(start_from='teacher', ode_steps=4),
     TEACHER, 'loss'),
    ('causal_ode', students.ode_regression(ode_steps=4, **CAUSAL), STARTED,
     'loss'),
    ('consistency', students.consistency(ode_steps=4, **CAUSAL), STARTED,
     'loss'))
DISTILLATIONS = (
    ('teacher_forced', students.teacher_forced(),
     'teacher_forced/dmd_gradient_rms'),
    ('causvid', students.diffusion_forced(clean_level=True),
     'causvid/dmd_gradient_rms'),
    ('sid', students.self_forcing(divergence='sid'),
     'sid/score_difference_rms'),
    ('dmd2', students.self_forcing(divergence='dmd2'), 'critic/gan_loss'),
    ('r3gan', students.self_forcing(divergence='r3gan', teacher=''),
     'critic/r1'))


def run(name, stage_config, trained, num_steps=1):
  """As stages_test.run, of a stage that is put into its config."""
  config = stages_test.config()
  config[name] = stage_config.copy_and_resolve_references()
  config[name].update(SMALL)
  config.student.window = 3
  for network in (config[name], config[name].get('critic')):
    if network:
      network.optimizer.warmup_steps = 1
  config.stages = ('tokenizer', *trained, name)
  config.evaluate.teacher = 'teacher'
  validation.check(config)
  stage = stages.PARADIGMS[config[name].paradigm](name, stages.Inputs(
      config, lambda stage: None, None))
  batch = stages_test.batch_of('teacher_forcing')
  batch = {key: x[:SMALL['batch_size']] for key, x in batch.items()}
  trained = {n: stages_test.network(seed) for n, seed in trained.items()}
  return stage, *stages_test.run(stage, num_steps, trained, batch)


@pytest.mark.slow
class StudentStagesTest(stages_test.FastCompilation):

  @parameterized.named_parameters(*REGRESSIONS)
  def test_regressions_train_one_network(self, config, trained, metric):
    stage, (before, after), (metrics,) = run('own', config, trained)
    self.assertEqual(set(after), {'own'})
    self.assertTrue(stages_test.is_equal(
        before['own'], stages_test.network(trained[config.start_from])))
    self.assertFalse(stages_test.is_equal(before, after))
    self.assertFinite([after, metrics])
    self.assertIn(metric, metrics)
    self.assertEmpty(stage.frozen({}) if 'teacher' not in config else {})

  @parameterized.named_parameters(*DISTILLATIONS)
  def test_distillations_train_student_and_critic(self, config, metric):
    config.update(dict(start_from='teacher_forcing', generator_every=1))
    name = metric.partition('/')[0]
    name = 'own' if name == 'critic' else name
    stage, (before, after), (metrics,) = run(name, config, STARTED)
    self.assertEqual(set(after), {name, 'critic'})
    for network in after:
      self.assertFalse(
          stages_test.is_equal(before[network], after[network]), network)
    self.assertFinite([after, metrics])
    self.assertIn(metric, metrics)
    has_teacher = bool(config.teacher)
    trained = {'teacher': stages_test.network(1)}
    self.assertEqual(bool(stage.frozen(trained)), has_teacher)
    # A discriminator is a critic with heads, both of which learn.
    has_heads = discriminator.DISCRIMINATOR in after['critic']
    self.assertEqual(has_heads, config.divergence in ('dmd2', 'r3gan'))
    if has_heads:
      heads = [p['critic'][discriminator.DISCRIMINATOR]
               for p in (before, after)]
      moved = jax.tree.map(
          lambda a, b: not stages_test.is_equal(a, b), *heads)
      self.assertTrue(any(jax.tree.leaves(moved)))


if __name__ == '__main__':
  absltest.main()

"""What a student's stages cannot be is said before anything is compiled."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import pytest

from configs import students
from tests.train import validation_test
from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.parallel import layout
from worldsim_jax.train import validation


def smoke(divergence='dmd', **changes):
  """The smoke config with a divergence's own keys, and changes."""
  config = validation_test.smoke()
  own = students.self_forcing(
      divergence=divergence, start_from='teacher_forcing')
  own.update(dict(num_steps=6, batch_size=8, clip_frames=4))
  for network in own, own.critic:
    network.optimizer.warmup_steps = 1
  config.self_forcing = own
  with config.ignore_type():
    config.update_from_flattened_dict(changes)
  return config


# Name, divergence, changes, what the message must hold.
WRONG = (
    ('unknown_divergence', 'dmd', {'self_forcing.divergence': 'kl'},
     "config.self_forcing.divergence='kl' is not one of ('dmd', 'dmd2', "),
    ('unknown_score_weight', 'dmd', {'self_forcing.score_weight': 'x'},
     "config.self_forcing.score_weight='x' is not one of ('normalised', "),
    ('unknown_adversarial', 'gan', {'self_forcing.adversarial': 'hinge'},
     "config.self_forcing.adversarial='hinge' is not one of ('softplus', "),
    ('unknown_penalty', 'gan', {'self_forcing.penalty': 'r3'},
     "config.self_forcing.penalty='r3' is not one of ('exact', 'finite')"),
    ('unknown_exit_steps', 'dmd', {'self_forcing.exit_steps': 'none'},
     "config.self_forcing.exit_steps='none' is not one of ('shared', "),
    ('sid_without_teacher', 'sid', {'self_forcing.teacher': ''},
     "config.self_forcing.teacher='' is not a model among the stages before"),
    ('guidance_without_null', 'dmd', {'teacher.guidance_dropout': 0.},
     'config.self_forcing.guidance_scale=1.5 needs a teacher that knows no '
     'condition, but config.teacher.guidance_dropout=0 never shows it one'),
    ('guidance_by_nothing', 'dmd', {'data.actions': False},
     'config.self_forcing.guidance_scale=1.5 guides by text or actions, and '
     'there are neither'),
    ('gradient_of_part_of_a_chunk', 'dmd',
     {'student.chunk': 2, 'self_forcing.gradient_frames': 1},
     'config.self_forcing.gradient_frames=1 must be a multiple of '
     'config.student.chunk=2'),
    ('unknown_matrix', 'dmd', {'evaluate.matrix': 'ladder'},
     "sampling matrix 'ladder' is not one of ('full_sequence', "),
    ('gradient_of_more_than_there_is', 'dmd',
     {'self_forcing.gradient_frames': 3},
     'at most the 2 new frames of a clip'),
    ('heads_on_layers_that_are_not', 'dmd2',
     {'self_forcing.critic.discriminator': {'layers': (5,)}},
     "layers=(5,) of a discriminator must be some of the critic's "
     'num_layers=2'),
    ('heads_of_unknown_fields', 'gan',
     {'self_forcing.critic.discriminator': {'depth': 3}},
     "'depth' is no field of a discriminator"),
)


class StudentChecksTest(parameterized.TestCase):

  @parameterized.named_parameters(*WRONG)
  def test_what_cannot_be_is_one_line(self, divergence, changes, said):
    self.assertRefused(smoke(divergence, **changes), said)

  @parameterized.parameters('dmd', 'dmd2', 'sid', 'gan', 'r3gan')
  @pytest.mark.slow
  def test_every_divergence_could_run(self, divergence):
    validation.check(smoke(divergence))

  @parameterized.parameters('gan', 'r3gan')
  def test_data_needs_no_teacher(self, divergence):
    validation.check(smoke(divergence, **{
        'self_forcing.teacher': '', 'teacher.guidance_dropout': 0.}))

  def test_sid_needs_a_teacher_with_a_derivative(self):
    with mock.patch.object(build, 'velocity_fn', _without_derivative(
        build.velocity_fn)):
      validation.check(smoke('dmd'))
      self.assertRefused(
          smoke('sid'),
          "config.self_forcing.divergence='sid' passes the gradient through "
          "config.self_forcing.teacher='teacher', which has none (")

  def test_a_flash_kernel_has_no_second_derivative(self):
    exact = {'self_forcing.penalty': 'exact'}
    with mock.patch.object(layout, 'platform', return_value='tpu'):
      self.assertRefused(
          smoke('gan', **exact),
          "config.self_forcing.penalty='exact' differentiates a gradient")
      validation.check(smoke('gan', **exact | {'model.attention': 'xla'}))

  def assertRefused(self, config, said):
    with self.assertRaises(UserError) as caught:
      validation.check(config)
    self.assertIn(said, str(caught.exception))
    self.assertLen(str(caught.exception).splitlines(), 1)


def _without_derivative(make):
  """Networks that end in a primitive without a rule, as kernels may."""
  def velocity_fn(model):
    def fn(*args):
      v = make(model)(*args)
      return jax.pure_callback(lambda v: v, v, v)

    return fn

  return velocity_fn


if __name__ == '__main__':
  absltest.main()

"""Every config is a document that can be run."""

import importlib
import pathlib
import re

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from configs import base
from configs import stages
from configs import students
from worldsim_jax.data import splits
from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.train import run
from worldsim_jax.train import students as students_of
from worldsim_jax.train import validation

FOLDER = pathlib.Path(base.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob('*.py')
               if path.stem not in ('__init__', 'arguments', 'base', 'stages',
                                    'students', 'wan'))


def module(name):
  return importlib.import_module(f'configs.{name}')


def arguments(name):
  """The variants that get_config documents: `arg` is '' or 'tiny'."""
  return re.findall(r"'([\w,]*)'", module(name).get_config.__doc__)


VARIANTS = [(f'{name}_{argument}', name, argument)
            for name in NAMES for argument in arguments(name)]


class ConfigsTest(parameterized.TestCase):

  def test_configs_and_their_variants_were_found(self):
    self.assertContainsSubset(['quickstart', 'doom'], NAMES)
    self.assertContainsSubset(
        [('quickstart', 'smoke'), ('doom', 'tiny')],
        [(name, argument) for _, name, argument in VARIANTS])

  @parameterized.named_parameters(*VARIANTS)
  @pytest.mark.slow
  def test_it_builds_and_could_run(self, name, argument):
    config = module(name).get_config(argument)
    validation.check(config)
    if config.vae.kind == 'wan':  # The user names latents that it made.
      with self.assertRaisesRegex(UserError, 'config.data.latents'):
        validation.check_run(config)
      config.data.latents = '/their/latents'
    if config.text.encoder == 'umt5':  # And the folder of the text encoder.
      with self.assertRaisesRegex(UserError, 'config.text.path'):
        validation.check_run(config)
    else:
      validation.check_run(config)

  @parameterized.named_parameters(*VARIANTS)
  def test_it_has_the_keys_of_the_base_and_no_others(self, name, argument):
    keys = lambda config: set(run.flatten(config.to_dict()))
    config, expected = module(name).get_config(argument), base.get_config()
    for stage in config.stages:
      found, kind = config[stage], {}
      if 'divergence' in found:
        kind = {'divergence': found.divergence}
      make = getattr(stages, found.paradigm, None) or getattr(
          students, found.paradigm)
      expected[stage] = make(**kind)
      if found.get('critic'):
        found.critic.discriminator = {}
      if 'model' in config[stage]:
        self.assertContainsSubset(
            config[stage].model.keys(), expected.model.keys())
        config[stage].model = {}
      if config[stage].get('moc'):
        self.assertCountEqual(config[stage].moc.keys(), stages.mixture().keys())
        config[stage].moc = {}
    if config.student.recall:
      self.assertCountEqual(
          config.student.recall.keys(), stages.recall().keys())
      config.student.recall = {}
    if config.vae.kind != expected.vae.kind:
      self.assertContainsSubset(
          config.vae.keys(), build.tokenizer_fields(config))
      config.vae = expected.vae
    if 'kind' in config.model:  # Another network has fields of its own.
      build.denoiser(config)  # It raises for what is none of them.
      config.model = expected.model
    self.assertEqual(keys(config), keys(expected))

  @parameterized.named_parameters(*VARIANTS)
  def test_no_test_map_is_trained_on(self, name, argument):
    data = module(name).get_config(argument).data
    for split, maps in ('train', data.train_maps), ('test', data.test_maps):
      self.assertEmpty([m for m in maps if splits.split_of(m) != split])

  @parameterized.parameters(*NAMES)
  def test_its_docstring_gives_the_command_and_what_it_needs(self, name):
    text = module(name).__doc__
    command = re.search(r'^Command:  (.*(?:\\\n.*)*)', text, re.MULTILINE)
    self.assertIsNotNone(command, text)
    self.assertIn('python -m worldsim_jax.main', command[1])
    self.assertIn(f'--config=configs/{name}.py', command[1])
    self.assertIn('--workdir=', command[1])
    self.assertRegex(text, r'(?m)^Machine:  .*')

  @parameterized.parameters(*NAMES)
  def test_its_docstring_names_every_variant(self, name):
    words = {w for argument in arguments(name) for w in argument.split(',')}
    for word in words - {''}:
      self.assertRegex(module(name).__doc__, f'[:,]{word}')

  @parameterized.parameters(*NAMES)
  def test_an_unknown_variant_is_named_with_those_there_are(self, name):
    known = [arg for arg in arguments(name) if arg and ',' not in arg]
    for argument in ['huge'] + ['tiny,huge'] * ('wan_vae' in known):
      with self.assertRaisesRegex(ValueError, "'huge' is not one of: ") as e:
        module(name).get_config(argument)
      self.assertContainsSubset(known, re.findall(r'\w+', str(e.exception)))

  @parameterized.parameters(*NAMES)
  def test_two_calls_share_nothing(self, name):
    one, other = (module(name).get_config() for _ in range(2))
    one.model.dim += 1
    self.assertNotEqual(one.model.dim, other.model.dim)

  def test_one_student_has_one_divergence_and_one_start(self):
    for both in 'gan,sid', 'consistency,ode':
      one, other = both.split(',')
      with self.assertRaisesRegex(
          ValueError, f"arguments '{one}' and '{other}' cannot both be"):
        module('self_forcing').get_config(both)

  def test_causvid_has_the_numbers_of_its_released_config(self):
    config = module('causvid').get_config()
    stage, critic = config.causvid, config.causvid.critic
    # 'denoising_step_list: [1000, 757, 522, 0]', not warped again.
    np.testing.assert_allclose(
        1000 * students_of.levels('causvid', config), [1000, 757, 522, 0],
        atol=0.5)
    self.assertEqual((stage.guidance_scale, stage.generator_every), (4.5, 5))
    self.assertEqual((stage.batch_size, stage.clip_frames), (64, 21))
    self.assertIsNone(stage.ema)
    self.assertEqual(config.student.chunk, 3)
    for network in stage, critic, config.ode_regression:
      found = network.optimizer
      self.assertEqual((found.learning_rate, found.b1, found.b2,
                        found.schedule), (2e-6, 0.9, 0.999, 'constant'))

  def test_sid_has_the_numbers_of_its_released_config(self):
    config = module('self_forcing').get_config('sid')
    stage = config.self_forcing
    self.assertEqual((stage.teacher, stage.sid_alpha), ('base', 1.))
    for network in stage, stage.critic:
      self.assertEqual((network.optimizer.learning_rate,
                        network.optimizer.weight_decay), (2e-6, 0.))

  def test_self_forcing_has_the_numbers_of_its_released_config(self):
    config = module('self_forcing').get_config()
    stage = config.self_forcing
    self.assertEqual(stage.generator_every, 5)  # So 120 updates in 600 steps.
    self.assertEqual(stage.num_steps // stage.generator_every, 120)
    # Upstream counts steps: its average begins at the 200th, of all updates.
    self.assertEqual(stage.ema_start * stage.generator_every, 200)
    self.assertEqual(stage.guidance_scale, 3. + 1)  # Its form is the extra one.
    self.assertEqual((stage.batch_size, stage.clip_frames), (64, 21))
    self.assertEqual((stage.ema, stage.shift), (0.99, 5.))
    self.assertEqual((stage.min_sigma, stage.max_sigma), (0.02, 0.98))
    self.assertEqual(stage.critic_weight, 'none')
    for network, rate in ((stage, 2e-6), (stage.critic, 4e-7)):
      found = network.optimizer
      self.assertEqual(
          (found.learning_rate, found.schedule, found.warmup_steps, found.b1,
           found.b2, found.weight_decay, found.clip_norm),
          (rate, 'constant', 0, 0., 0.999, 0.01, 10.))
    self.assertEqual(tuple(config.student.timesteps), (1000, 750, 500, 250))
    self.assertEqual((config.student.shift, config.student.chunk), (5., 3))


if __name__ == '__main__':
  absltest.main()

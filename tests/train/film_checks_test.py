"""What films of several shots cannot be is said before anything compiles."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import pytest

from configs import moc_minute
from configs import stages
from tests.train import validation_test
from worldsim_jax.errors import UserError
from worldsim_jax.train import fit
from worldsim_jax.train import validation

LAST = 'moc_1280'
# Name, changes, what the message must hold.
WRONG = (
    ('no_chunks', {f'{LAST}.moc.top_k': 0},
     f'top_k=0 must be at least 1 (config.{LAST}.moc.top_k)'),
    ('negative_chunk', {f'{LAST}.moc.chunk': -1},
     f'config.{LAST}.moc.chunk=-1 must be at least 1, or 0'),
    ('negative_window', {f'{LAST}.moc.window': -1},
     f'window=-1 must be at least 0 (config.{LAST}.moc.window)'),
    ('drops_more_than_all', {f'{LAST}.moc.drop_off': 1.5},
     'drop_off=1.5 must be in 0..1'),
    ('adds_more_than_it_can', {f'{LAST}.moc.drop_in': 3.},
     'drop_in=3.0 must be at most 2, as many as are ever added to a query '
     f'(config.{LAST}.moc.drop_in)'),
    ('unknown_implementation', {f'{LAST}.moc.implementation': 'cuda'},
     "implementation='cuda' is not one of ('auto', "),
    ('kernels_where_none_can_run', {f'{LAST}.moc.implementation': 'pallas'},
     "implementation='pallas' needs a TPU or an NVIDIA GPU, this is a cpu"),
    ('one_shot', {f'{LAST}.shots': 1, f'{LAST}.clip_frames': 17},
     f'config.{LAST}.moc chooses chunks of earlier shots, but '
     f'config.{LAST}.shots=1'),
    ('fewer_shots_than_clips_have', {f'{LAST}.shots': 3},
     f'config.{LAST}.shots=3 cannot be: clips of 136 latent frames have 8'),
    ('clips_longer_than_films', {f'{LAST}.clip_frames': 137},
     f'config.{LAST}.clip_frames=137 is more than the 136 latent frames of a '
     'film'),
    ('texts_of_shots_without_text', {'text.per_shot': True},
     'config.text.per_shot=True needs text (config.text.dim)'),
)
RECALL = (
    ('nothing', {'top_k': 0}, 'top_k=0 must be at least 1 '
     '(config.student.recall.top_k)'),
    ('fewer_than_chosen', {'most': 2}, 'most=2 must be at least top_k=3'),
    ('too_few_slots', {'slots': 4}, '4 slots hold nothing to recall beside the '
     '1 + 3 frames that are always read (config.student.recall.slots, '),
    ('no_slots', {'slots': 0}, '0 slots hold nothing to recall beside the 1 + '
     '3 frames that are always read (config.student.recall.slots, '),
    ('kernels', {'implementation': 'pallas'},
     "implementation='pallas' needs a TPU"),
)


class FilmChecksTest(parameterized.TestCase):

  def test_the_tiny_config_is_right(self):
    validation.check(moc_minute.get_config('tiny'))

  @parameterized.named_parameters(*WRONG)
  def test_it_is_named(self, changes, message):
    config = moc_minute.get_config('tiny')
    config.update_from_flattened_dict(changes)
    with self.assertRaises(UserError) as raised:
      validation.check(config)
    self.assertIn(message, str(raised.exception))

  @parameterized.named_parameters(*RECALL)
  def test_what_cannot_be_recalled_is_named(self, changes, message):
    config = validation_test.smoke()
    config.student.recall = stages.recall(slots=32)
    config.self_forcing.clip_frames = 6
    validation.check(config)
    config.student.recall.update(changes)
    with self.assertRaises(UserError) as raised:
      validation.check(config)
    self.assertIn(message, str(raised.exception))

  @parameterized.parameters((4, 1, 2), (2, 2, 1))
  @pytest.mark.slow
  def test_a_mesh_must_share_the_heads_of_who_recalls_from_a_cache(
      self, context, tensor, heads):
    if len(jax.devices()) < 8:
      self.skipTest('needs eight devices')
    config = validation_test.smoke()
    config.student.recall = stages.recall(slots=32)
    config.self_forcing.clip_frames = 6
    config.mesh.context = 2
    validation.check_run(config)
    config.mesh.update(dict(context=context, tensor=tensor))
    with self.assertRaisesRegex(
        UserError, f'config.mesh.context={context} must divide the {heads} '
        r'heads of a device, for config.self_forcing recalls from a cache '
        r'\(config.model.num_heads=2, '):
      validation.check_run(config)
    config.stages = ('tokenizer', 'teacher', 'teacher_forcing')
    validation.check_mesh(config)  # Who reads whole clips gathers all keys.
    with self.assertRaisesRegex(UserError, 'for a stream recalls from a cache'):
      fit.fit(config, 'cpu:8', ('stream',))
    self.assertTrue(fit.fit(config, 'cpu:8', ('decode',)))  # Pixels only.

  def test_self_forcing_must_make_more_than_is_always_read(self):
    config = validation_test.smoke()
    config.student.recall = stages.recall()
    with self.assertRaisesRegex(
        UserError, 'self_forcing.clip_frames=4 leaves nothing to recall'):
      validation.check(config)


if __name__ == '__main__':
  absltest.main()

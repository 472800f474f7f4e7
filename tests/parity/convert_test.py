"""Worlds between PyTorch's programs and us: the same numbers on both sides."""

import pathlib

import pytest

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')
transformers = pytest.importorskip('transformers')

# pylint: disable=wrong-import-position
from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from tests.convert import releases
from worldsim_jax.convert import files as weight_files
from worldsim_jax.convert import into_world
from worldsim_jax.convert import out_of_world
from worldsim_jax.models import umt5_text
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.train import assemble


def inputs():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return (normal(2, 3, 4, 6, 16), np.float32([3., 700.]), normal(2, 5, 8),
          normal(1, 2, 2, 2, 16))


def first(x):
  """Channels first, as PyTorch has them."""
  return torch.from_numpy(np.moveaxis(x, -1, 1))


class ConvertParityTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def assertParity(self, found, expected, tolerance=1e-5):
    expected = expected.float().numpy()
    error = np.abs(found - expected).max() / np.abs(expected).max()
    self.assertLess(error, tolerance)  # Roundings of a few layers in fp32.

  def assertRuns(self, pipeline, world):
    """Whether diffusers' models compute what ours do."""
    x, t, text, latents = inputs()
    with torch.no_grad():
      theirs = pipeline.transformer.float()(
          first(x), torch.from_numpy(t), torch.from_numpy(text)).sample
      vae = pipeline.vae
      scale, shift = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (
          vae.config.latents_std, vae.config.latents_mean))
      pixels = vae.decode(first(latents) * scale + shift).sample
    ours = world.model.clone(dtype='float32').apply(
        {'params': world.params}, x, np.tile(t[:, None], (1, 3)),
        Conditioning(text=text))
    self.assertParity(np.moveaxis(ours, -1, 1), theirs)
    decoded, _ = jax.jit(lambda z: world.vae.apply(
        world.vae_variables, z, method='decode'))(latents)
    self.assertParity(np.moveaxis(2 * decoded - 1, -1, 1), pixels, 2e-5)

  def test_diffusers_runs_the_pipeline_that_we_write(self):
    into_world.convert(
        [str(releases.diffusers(self.root / 'given'))], self.root / 'world')
    out_of_world.convert(self.root / 'world', self.root / 'out', 'diffusers')
    pipeline = diffusers.WanPipeline.from_pretrained(self.root / 'out')
    self.assertIsInstance(
        pipeline.scheduler, diffusers.UniPCMultistepScheduler)
    world = assemble.load(self.root / 'world')
    self.assertRuns(pipeline, world)
    # The words of a prompt, too.
    ids = pipeline.tokenizer('a stone room', return_tensors='pt').input_ids
    encoder = umt5_text.UMT5TextEncoder(16, world.config.text.path)
    ours, _ = encoder.tokens(['a stone room'])
    np.testing.assert_array_equal(ids[0], ours[0, :ids.shape[1]])
    with torch.no_grad():
      hidden = pipeline.text_encoder.float()(ids).last_hidden_state
    self.assertParity(encoder(['a stone room'])[:, :ids.shape[1]], hidden)

  def test_we_run_the_pipeline_that_diffusers_writes(self):
    torch.manual_seed(0)
    pipeline = diffusers.WanPipeline(
        tokenizer=None, scheduler=diffusers.UniPCMultistepScheduler(),
        text_encoder=None,
        transformer=diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, text_dim=8,
            freq_dim=16, ffn_dim=20, num_layers=2, rope_max_seq_len=32),
        vae=diffusers.AutoencoderKLWan(
            base_dim=6, latents_mean=[.1] * 16, latents_std=[2.] * 16))
    pipeline.save_pretrained(self.root / 'given', max_shard_size='20kB')
    self.assertTrue(
        list((self.root / 'given/transformer').glob('*.index.json')))
    into_world.convert([str(self.root / 'given')], self.root / 'world')
    self.assertRuns(pipeline, assemble.load(self.root / 'world'))

  def test_pytorch_reads_the_file_of_self_forcing_that_we_write(self):
    given = releases.self_forcing(self.root / 'self_forcing.pt')
    into_world.convert([str(given)], self.root / 'world')
    out_of_world.convert(
        self.root / 'world', self.root / 'out.pt', 'self_forcing')
    state = torch.load(self.root / 'out.pt', weights_only=True)
    self.assertCountEqual(state, ['generator', 'generator_ema'])
    expected = releases.transformer(seed=2)
    for network in state.values():
      self.assertLen(network, len(expected))
      for name, x in expected.items():
        np.testing.assert_array_equal(network[f'model.{name}'], x)

  @parameterized.parameters('wan', 'self_forcing')
  def test_what_pytorch_saves_comes_back_bit_by_bit(self, format_):
    """A checkpoint of PyTorch itself, of one network in bfloat16."""
    state = {name: torch.from_numpy(x).bfloat16()
             for name, x in releases.transformer().items()}
    given = self.root / 'model.pt'
    torch.save({'generator': {f'model.{name}': x for name, x in state.items()},
                'step': 600}, given)
    into_world.convert([str(given)], self.root / 'world')
    out = self.root / ('out.pt' if format_ == 'self_forcing' else 'out')
    out_of_world.convert(self.root / 'world', out, format_)
    weights = weight_files.open_weights(out)
    if format_ == 'self_forcing':
      weights = weights.group('generator')
    for name, x in state.items():
      name = f'model.{name}' if format_ == 'self_forcing' else name
      np.testing.assert_array_equal(
          weights[name].read().view(np.int16), x.view(torch.int16))


if __name__ == '__main__':
  absltest.main()

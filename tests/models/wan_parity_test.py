"""The transformer against PyTorch's, on the same random weights.

`wan.npz` holds weights, inputs and what diffusers' WanTransformer3DModel makes
of them in fp32. It was written by `python tests/models/wan_parity_test.py
record`; where torch and diffusers are installed (`pip install -e '.[parity]'`)
the tests make it anew and compare.
"""

import pathlib
import sys

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from worldsim_jax.attention import context as contexts
from worldsim_jax.convert import mapping
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.models.transformer import VideoTransformer

GOLDEN = pathlib.Path(__file__).with_name('wan.npz')
B, F, H, W, C = 1, 2, 4, 6, 4  # Batch, frames, height, width, channels.
HEADS, HEAD_DIM, LAYERS, FFN, TEXT = 2, 8, 2, 24, 6
TOKENS_PER_FRAME = H // 2 * (W // 2)

# In each the timesteps are [B, F]; the first is one level for all frames.
# Small timesteps have small angles in the time embedding.
CASES = {
    'video': np.float32([[7, 7]]),
    'frames': np.float32([[3, 8]]),
    'noisy_frames': np.float32([[300, 800]]),
}


def pytorch():
  """The model of diffusers, from random weights: (model, golden without v)."""
  torch = pytest.importorskip('torch')
  diffusers = pytest.importorskip('diffusers')
  rng = np.random.default_rng(0)
  model = diffusers.WanTransformer3DModel(
      num_attention_heads=HEADS,
      attention_head_dim=HEAD_DIM,
      in_channels=C,
      out_channels=C,
      text_dim=TEXT,
      ffn_dim=FFN,
      num_layers=LAYERS,
  ).eval()
  draw = lambda *shape: rng.normal(size=shape).astype(np.float16)
  golden = {'x': draw(B, F, H, W, C), 'text': draw(B, 5, TEXT)}
  for name, x in model.state_dict().items():
    golden[f'weights/{name}'] = np.float16(0.25) * draw(*x.shape)
  model.load_state_dict(
      {
          name: torch.from_numpy(np.float32(x))
          for name, x in weights_of(golden).items()
      }
  )
  return model, golden


def weights_of(golden):
  """float16 holds them exactly, at half the size."""
  prefix = 'weights/'
  return {
      name.removeprefix(prefix): np.float32(golden[name])
      for name in golden
      if name.startswith(prefix)
  }


def run_pytorch(model, x, text, timesteps):
  """Velocity [B, F, H, W, C]; timesteps [B], or [B, tokens]."""
  torch = pytest.importorskip('torch')
  x, text, timesteps = (
      torch.from_numpy(np.float32(y)) for y in (x, text, timesteps)
  )
  with torch.no_grad():
    v = model(x.permute(0, 4, 1, 2, 3), timesteps, text).sample
  return v.permute(0, 2, 3, 4, 1).numpy()


def run_case(model, golden, case):
  timesteps = CASES[case]
  if case == 'video':
    timesteps = timesteps[:, 0]
  else:
    timesteps = np.repeat(timesteps, TOKENS_PER_FRAME, axis=1)
  return run_pytorch(model, golden['x'], golden['text'], timesteps)


def record():
  model, golden = pytorch()
  for case in CASES:
    golden[f'v/{case}'] = run_case(model, golden, case)
  # PyTorch has no masks: a first frame that reads itself alone is a video.
  golden['v/alone'] = run_pytorch(
      model, golden['x'][:, :1], golden['text'], CASES['video'][:, 0]
  )
  np.savez_compressed(GOLDEN, **golden)


class WanParityTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.golden = dict(np.load(GOLDEN))
    model = VideoTransformer(
        dim=HEADS * HEAD_DIM,
        ffn_dim=FFN,
        num_heads=HEADS,
        num_layers=LAYERS,
        latent_channels=C,
        text_dim=TEXT,
    )
    params = mapping.read_arrays(wan_dit_keys, weights_of(cls.golden))[1]
    x, text = (np.float32(cls.golden[name]) for name in ('x', 'text'))
    cls.ours = staticmethod(
        jax.jit(
            lambda timesteps, context: model.apply(
                {'params': params},
                x,
                timesteps,
                Conditioning(text=text),
                context,
            )
        )
    )

  def assertParity(self, found, expected, tolerance=5e-6):
    np.testing.assert_allclose(
        found, expected, atol=tolerance * abs(expected).max()
    )

  # Roundings of two layers. At large timesteps also the frequencies of the time
  # embedding: diffusers has them in fp32, wrong by up to 6e-7, times 800.
  @parameterized.parameters(
      ('video', 5e-6), ('frames', 5e-6), ('noisy_frames', 1e-4)
  )
  def test_the_velocity_is_that_of_pytorch(self, case, tolerance):
    everything = contexts.block_causal(F, F)
    found = self.ours(CASES[case], everything)
    self.assertParity(found, self.golden[f'v/{case}'], tolerance)

  def test_a_masked_frame_is_as_if_it_were_alone(self):
    found = self.ours(CASES['video'], contexts.block_causal(F, 1))
    self.assertParity(found[:, :1], self.golden['v/alone'])

  def test_pytorch_still_says_what_was_recorded(self):
    model, golden = pytorch()
    for name, x in golden.items():
      np.testing.assert_array_equal(x, self.golden[name])
    for case in CASES:
      self.assertParity(run_case(model, golden, case), self.golden[f'v/{case}'])


if __name__ == '__main__':
  if sys.argv[1:] == ['record']:
    record()
  else:
    absltest.main()

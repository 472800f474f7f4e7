"""All names of the published sizes, from diffusers' class without memory."""

import pytest

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from worldsim_jax.convert import mapping
from worldsim_jax.convert import wan_dit_keys

_14B = dict(num_attention_heads=40, ffn_dim=13824, num_layers=40)
_PICTURE = dict(in_channels=36, image_dim=1280, added_kv_proj_dim=5120)
MODELS = {
    '1.3B T2V': dict(num_attention_heads=12, ffn_dim=8960, num_layers=30),
    '14B T2V': _14B,
    '14B I2V': _14B | _PICTURE,
    '14B FLF2V': _14B | _PICTURE | dict(pos_embed_seq_len=514),
    'A14B I2V': _14B | dict(in_channels=36),  # Wan 2.2, without CLIP.
    '5B TI2V': dict(num_attention_heads=24, ffn_dim=14336, num_layers=30,
                    in_channels=48, out_channels=48),
}


def their_shapes(config):
  with torch.device('meta'):
    model = diffusers.WanTransformer3DModel(**{'out_channels': 16} | config)
  return {name: jax.ShapeDtypeStruct(tuple(x.shape), np.float32)
          for name, x in model.state_dict().items()}


class WanDitKeysParityTest(parameterized.TestCase):

  @parameterized.parameters(*MODELS)
  def test_every_tensor_of_a_published_size_has_one_place(self, name):
    theirs = their_shapes(MODELS[name])
    model, params = mapping.read(wan_dit_keys, theirs)
    self.assertEqual(model.num_heads, MODELS[name]['num_attention_heads'])
    places = wan_dit_keys.places(params, 'diffusers')
    self.assertEqual(set(places), set(theirs))
    self.assertLen(set(places.values()), len(theirs))

  def test_there_and_back_gives_the_same_bits(self):
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=12, ffn_dim=20, num_layers=2,
        text_dim=5)
    theirs = {name: x.numpy() for name, x in model.state_dict().items()}
    tree = mapping.read_arrays(wan_dit_keys, theirs)[1]
    back = mapping.write_arrays(wan_dit_keys, tree, 'diffusers')
    self.assertEqual(list(sorted(back)), list(sorted(theirs)))
    for name, x in theirs.items():
      np.testing.assert_array_equal(back[name], x, name)


if __name__ == '__main__':
  absltest.main()

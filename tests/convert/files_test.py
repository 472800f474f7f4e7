"""Files and folders of weights are recognised, whoever wrote them."""

import json
import pathlib
import subprocess
import sys

from absl.testing import absltest
import numpy as np
import pytest

from tests.storage import bucket
from worldsim_jax.convert import files
from worldsim_jax.convert.safetensors_file import write_safetensors
from worldsim_jax.convert.torch_file import write_torch
from worldsim_jax.errors import UserError

W = {'w': np.arange(6, dtype=np.float32), 'x': np.ones(3)}


class FilesTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir())

  def assertIsW(self, path):
    weights = files.open_weights(path)
    self.assertEqual(set(weights), set(W))
    for name, array in W.items():
      np.testing.assert_array_equal(weights[name].read(), array)
    return weights

  def assertRefused(self, pattern, path):
    with self.assertRaisesRegex(UserError, pattern) as raised:
      files.open_weights(path)
    self.assertNotIn('\n', str(raised.exception))
    self.assertIn(str(path), str(raised.exception))

  def test_a_file_is_known_by_its_content(self):
    for suffix in ('.pt', '.pth', '.ckpt', '.bin', '.safetensors', ''):
      write_torch(self.folder / f'torch{suffix}', W)
      self.assertIsW(self.folder / f'torch{suffix}')
    write_safetensors(self.folder / 'w.safetensors', W)
    self.assertIsW(str(self.folder / 'w.safetensors'))

  def test_a_component_of_diffusers_is_read_with_its_config(self):
    component = self.folder / 'transformer'
    write_safetensors(component / 'diffusion_pytorch_model.safetensors', W)
    (component / 'config.json').write_text('{"num_layers": 30}')
    self.assertEqual(self.assertIsW(component).config, {'num_layers': 30})
    (self.folder / 'model_index.json').write_text('{}')
    self.assertRefused('whole pipeline; name one of its folders', self.folder)
    (component / 'config.json').write_text('{')
    with self.assertRaisesRegex(UserError, 'config.json is no JSON'):
      files.open_weights(component)

  def test_shards_are_read_through_their_index(self):
    write_safetensors(self.folder / 'w.safetensors', W, shard_bytes=24)
    self.assertIsNone(self.assertIsW(self.folder).config)
    index = self.folder / 'w.safetensors.index.json'
    self.assertIsW(index)
    index.unlink()
    self.assertIsW(self.folder)
    (self.folder / 'w-00002-of-00002.safetensors').unlink()
    self.assertRefused('neither w-00002-of-00002.safetensors nor', self.folder)

  def test_of_a_folder_of_wan_the_transformer_is_meant(self):
    write_safetensors(self.folder / 'diffusion_pytorch_model.safetensors', W)
    write_torch(self.folder / 'Wan2.1_VAE.pth', {'v': np.ones(1)})
    self.assertIsW(self.folder)

  def test_a_folder_with_one_torch_file_is_that_file(self):
    write_torch(self.folder / 'model.pt', W)
    self.assertIsW(self.folder)
    write_torch(self.folder / 'other.pt', W)
    self.assertRefused('2 sets of weights.*model.pt, other.pt', self.folder)

  def test_several_indices_must_be_chosen_from(self):
    for name in ('w.safetensors', 'w.fp16.safetensors'):
      write_safetensors(self.folder / name, W, shard_bytes=24)
    self.assertRefused('2 sets of weights', self.folder)
    self.assertIsW(self.folder / 'w.fp16.safetensors.index.json')

  @pytest.mark.slow
  def test_a_bucket_is_read_as_a_folder_is(self):
    write_torch(self.folder / 'w.pt', W)
    write_safetensors(self.folder / 'w.safetensors', W, shard_bytes=24)
    code = ('from worldsim_jax.convert.files import open_weights\n'
            'for name in "w.pt", "":\n'
            '  weights = open_weights(f"gs://bucket/{name}")\n'
            '  print(sum(x.read().sum() for x in weights.values()))\n')
    with bucket.serve() as (remote, environment):
      for path in self.folder.iterdir():
        remote.put(path.name, path.read_bytes())
      done = subprocess.run(
          [sys.executable, '-c', code], text=True, capture_output=True,
          check=True, timeout=300,
          env=environment | {'PYTHONPATH': ':'.join(sys.path)})
    self.assertEqual(done.stdout, '18.0\n18.0\n')

  def test_what_is_not_there_is_said(self):
    self.assertRefused('is not there', self.folder / 'absent.pt')
    (self.folder / 'vae').mkdir()
    self.assertRefused(r'no weights .*; it has vae', self.folder)
    self.assertRefused(r'no weights \(.*\)$', self.folder / 'vae')
    (self.folder / 'x.safetensors').write_text(json.dumps(3))
    self.assertRefused('no whole safetensors', self.folder / 'x.safetensors')
    (self.folder / 'x.pt').write_text('')
    self.assertRefused('no file of torch.save', self.folder / 'x.pt')


if __name__ == '__main__':
  absltest.main()

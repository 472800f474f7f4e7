"""VBench's layouts, read back as its loaders do (build_full_info_json)."""

import json
import os
import pathlib
import re

from absl.testing import absltest
import numpy as np
from PIL import Image

from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import adapters
from worldsim_jax.evaluate import vbench


def _clip(name, caption, shade, **fields):
  rgb = np.full((4, 48, 64, 3), shade, np.uint8)
  return adapters.Clip(name=name, caption=caption, rgb=rgb, **fields)


def _prompt_of(path):
  """How VBench finds the prompt, or the image, of a file."""
  return re.sub(r'-\d+$', '', pathlib.Path(path).stem)


class VBenchTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = os.path.join(self.create_tempdir().full_path, 'vbench')
    self.videos = os.path.join(self.folder, 'videos')

  def _shade(self, film):
    rgb = video_files.read(os.path.join(self.videos, film))
    self.assertEqual(rgb.shape[0], 4)
    return rgb.mean()

  def test_custom_input_pairs_films_prompts_and_images(self):
    clips = [
        # Names that end in digits must survive what the loader takes off.
        _clip('walk-1', 'a/room', 60, first_frame=np.zeros((48, 64, 3), 'u1')),
        _clip('walk-2', 'a/room', 120),
    ]
    vbench.write_custom(self.folder, clips, 8.75)
    with open(os.path.join(self.folder, 'prompts.json')) as f:
      prompts = json.load(f)
    images = {
        pathlib.Path(name).stem: os.path.join(self.folder, 'images', name)
        for name in os.listdir(os.path.join(self.folder, 'images'))
    }
    films = os.listdir(self.videos)
    self.assertLen(films, 2)
    for film in films:
      self.assertEqual(prompts[film], 'a/room')
      clip = clips[1 if 'walk-2' in film else 0]
      # Colours go through YUV: a grey level or two.
      self.assertAlmostEqual(self._shade(film), clip.rgb.mean(), delta=2)
      picture = np.asarray(Image.open(images[_prompt_of(film)]))
      np.testing.assert_array_equal(picture, clip.given)

  def test_the_standard_mode_finds_every_sample_of_every_prompt(self):
    clips = [
        _clip('a', 'a stone room-2, lit.', 40),
        _clip('b', 'a brick room', 90),
        _clip('c', 'a stone room-2, lit.', 140),
    ]
    vbench.write_standard(self.folder, clips, 8.75, scale=2)
    with open(os.path.join(self.folder, 'full_info.json')) as f:
      info = json.load(f)
    # Any file that is listed first gives the suffix of all.
    films = os.listdir(self.videos)
    self.assertEqual({pathlib.Path(film).suffix for film in films}, {'.mp4'})
    shades = {}
    for entry in info:
      self.assertEqual(entry['dimension'], list(vbench.DIMENSIONS))
      prompt = entry['prompt_en']
      looked_for = [f'{prompt}-{k}.mp4' for k in range(5)]
      shades[prompt] = [self._shade(f) for f in looked_for if f in films]
      for film in looked_for:
        self.assertEqual(_prompt_of(film), prompt)
    expected = {'a stone room-2, lit.': [40, 140], 'a brick room': [90]}
    self.assertEqual(shades.keys(), expected.keys())
    for prompt, values in expected.items():
      np.testing.assert_allclose(shades[prompt], values, atol=2)
    self.assertLen(films, 3)

  def test_captions_that_are_no_file_names_need_the_other_mode(self):
    for caption in ('a/b', 'x' * 300, '.hidden', 'two\nlines'):
      with self.assertRaisesRegex(UserError, 'clip a: .* use write_custom'):
        vbench.write_standard(self.folder, [_clip('a', caption, 9)], 8.75)
    self.assertFalse(os.path.exists(self.folder))

  def test_a_sixth_sample_and_unknown_dimensions_are_refused(self):
    clips = [_clip(f'c{k}', 'a room', 9) for k in range(6)]
    with self.assertRaisesRegex(UserError, "6 films of 'a room'"):
      vbench.write_standard(self.folder, clips, 8.75)
    with self.assertRaisesRegex(UserError, 'dimensions color'):
      vbench.write_standard(self.folder, clips[:1], 8.75, ['color'])


if __name__ == '__main__':
  absltest.main()

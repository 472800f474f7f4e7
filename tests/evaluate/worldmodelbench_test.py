"""WorldModelBench's layout, read back as its evaluation.py does."""

import json
import os
import pathlib

from absl.testing import absltest
import numpy as np
from PIL import Image

from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import adapters
from worldsim_jax.evaluate import worldmodelbench


def _clip(name, shade, instruction='The player turns left.'):
  return adapters.Clip(
      name=name,
      caption=f'a room of shade {shade}',
      rgb=np.full((4, 48, 64, 3), shade, np.uint8),
      instruction=instruction,
  )


class WorldModelBenchTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = os.path.join(self.create_tempdir().full_path, 'wmb')

  def test_every_entry_finds_its_film(self):
    clips = [_clip('first', 50), _clip('second', 150)]
    worldmodelbench.write(self.folder, clips, 17.5, scale=2)
    with open(os.path.join(self.folder, 'worldmodelbench.json')) as f:
      entries = json.load(f)
    self.assertLen(entries, 2)
    for clip, entry in zip(clips, entries):
      # evaluation.py: Path(v_i["first_frame"]).stem, then video_dir/<it>.mp4.
      stem = pathlib.Path(entry['first_frame']).stem
      film = os.path.join(self.folder, 'videos', f'{stem}.mp4')
      rgb = video_files.read(film)
      self.assertEqual(rgb.shape, (4, 96, 128, 3))
      self.assertAlmostEqual(rgb.mean(), clip.rgb.mean(), delta=2)
      picture = Image.open(os.path.join(self.folder, entry['first_frame']))
      self.assertEqual(picture.format, 'JPEG')
      self.assertAlmostEqual(np.asarray(picture).mean(), rgb.mean(), delta=3)
      self.assertEqual(entry['text_first_frame'], clip.caption)
      self.assertEqual(entry['text_instruction'], clip.instruction)
      self.assertEqual(
          set(entry),
          {'domain', 'subdomain', 'text_first_frame', 'text_instruction'}
          | {'first_frame'},
      )

  def test_a_clip_without_an_instruction_is_named(self):
    with self.assertRaisesRegex(UserError, 'clip b: it has no instruction'):
      worldmodelbench.write(
          self.folder, [_clip('a', 9), _clip('b', 9, instruction='')], 17.5
      )
    self.assertFalse(os.path.exists(self.folder))


if __name__ == '__main__':
  absltest.main()

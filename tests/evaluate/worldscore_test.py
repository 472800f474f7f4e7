"""WorldScore's layout, read back as its evaluator does."""

import json
import os
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import adapters
from worldsim_jax.evaluate import worldscore

CAMERA = camera_lib.Camera(48, 64, 32.0, 32.0, 32.0, 24.0)


def _path(frames, forward=0.0, left=0.0, turn=0.0):
  """From (500, -200), looking north; totals over the path."""
  pose = np.zeros((frames, 4))
  share = np.linspace(0, 1, frames)
  pose[:, 0] = 500 - left * share
  pose[:, 1] = -200 + forward * share
  pose[:, 2], pose[:, 3] = 41, 90 + turn * share
  return camera_lib.camera_to_world(pose)


def _clip(name, frames=5, **fields):
  rng = np.random.default_rng(len(name))
  rgb = rng.integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)
  fields = (
      dict(
          motions=_path(frames, forward=80, turn=30),
          objects=('torch', 'barrel'),
      )
      | fields
  )
  return adapters.Clip(name=name, caption='a stone room', rgb=rgb, **fields)


def _camera_errors(estimated, cameras, scale):
  """As CameraErrorMetric does, of a SLAM's camera-to-world motions [T, 4, 4].

  It flips x of the world, then, on the inverse, z of the camera.
  """
  flipped = np.diag([-1.0, 1, 1, 1]) @ estimated
  flipped = np.linalg.inv(np.diag([1.0, 1, -1, 1]) @ np.linalg.inv(flipped))
  cosine = np.einsum('tij,tij->t', flipped[:, :3, :3], cameras[:, :3, :3])
  degrees = np.degrees(np.arccos(np.clip((cosine - 1) / 2, -1, 1)))
  truth, guess = cameras[:, :3, 3] / scale, flipped[:, :3, 3]
  fit = np.sum(truth * guess) / max(np.sum(guess * guess), 1e-12)
  return degrees.max(), np.linalg.norm(truth - fit * guess, axis=-1).max()


class LayoutTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = os.path.join(self.create_tempdir().full_path, 'films')

  def _instances(self):
    """Evaluator._evaluate's walk: static/style/scene/category/instance."""
    static = pathlib.Path(self.folder) / 'worldscore_output' / 'static'
    return {path.name: path for path in static.glob('*/*/*/*')}

  def test_every_instance_is_complete(self):
    clips = [_clip('000'), _clip('001')]
    worldscore.write(self.folder, clips, 8.75, camera=CAMERA, scale=4)
    found = self._instances()
    self.assertEqual(set(found), {'000', '001'})
    for clip in clips:
      folder = found[clip.name]
      self.assertEqual(folder.parts[-4:-1], ('stylized', 'indoor', 'game'))
      # data_exists and process_batch.
      there = set(os.listdir(folder))
      needed = {'frames', 'image_data.json', 'camera_data.json'}
      self.assertContainsSubset(needed | {'input_image.png'}, there)
      about = json.loads((folder / 'image_data.json').read_text())
      cameras = json.loads((folder / 'camera_data.json').read_text())
      frames = sorted(str(path) for path in (folder / 'frames').iterdir())
      self.assertLen(frames, about['total_frames'])
      self.assertLen(cameras['cameras_interp'], about['total_frames'])
      self.assertLen(about['prompt_list'], about['num_scenes'] + 1)
      self.assertLen(about['anchor_frame_idx'], about['num_scenes'] + 1)
      self.assertEqual(about['anchor_frame_idx'], [0, 4])
      for line in about['content_list']:
        self.assertEqual(line.split(', ')[1:], ['torch', 'barrel'])
      for t, path in enumerate(frames):
        picture = np.asarray(Image.open(path))[::4, ::4]
        np.testing.assert_array_equal(picture, clip.rgb[t])
      film = video_files.read(str(folder / 'videos' / 'output.mp4'))
      self.assertEqual(film.shape, (5, 192, 256, 3))
    config = (pathlib.Path(self.folder) / 'worldsim_jax.yaml').read_text()
    self.assertIn('resolution: [256, 192]', config)
    self.assertIn('runs_root: ${oc.env:MODEL_PATH}/films', config)

  def test_frames_beyond_a_thousand_stay_in_order(self):
    clip = adapters.Clip(
        name='long',
        caption='a room',
        rgb=np.arange(1001).astype('u1')[:, None, None, None]
        * np.ones((1, 2, 2, 3), 'u1'),
        motions=_path(1001, turn=90),
        objects=('lamp',),
    )
    worldscore.write(self.folder, [clip], 8.75, camera=CAMERA)
    frames = self._instances()['long'] / 'frames'
    shades = [
        np.asarray(Image.open(path)).mean() for path in sorted(frames.iterdir())
    ]
    np.testing.assert_array_equal(shades, np.arange(1001) % 256)

  def test_what_is_missing_is_named_and_nothing_is_written(self):
    good = _clip('good')
    for clip, message in (
        (_clip('bad', motions=None), 'clip bad: motions are None'),
        (_clip('bad', motions=_path(4)), r'motions are \(4, 4, 4\)'),
        (_clip('bad', objects=()), 'clip bad: objects are'),
        (_clip('bad', objects=('a, b',)), 'without commas'),
        (_clip('bad', frames=6), r'\(6, 48, 64, 3\), that of good'),
    ):
      with self.assertRaisesRegex(UserError, message):
        worldscore.write(self.folder, [good, clip], 8.75, camera=CAMERA)
    with self.assertRaisesRegex(UserError, "no 'cave'"):
      worldscore.write(self.folder, [good], 9, camera=CAMERA, scene='cave')
    with self.assertRaisesRegex(UserError, "category 'a/b'"):
      worldscore.write(self.folder, [good], 9, camera=CAMERA, category='a/b')
    self.assertFalse(os.path.exists(self.folder))


class CameraDataTest(parameterized.TestCase):

  def test_the_true_path_has_no_error_and_others_have(self):
    motions = _path(9, forward=80, left=30, turn=50)
    data = worldscore.camera_data(motions, 32)
    cameras = np.array(data['cameras_interp'])
    # A SLAM knows neither the world's axes nor its scale.
    estimated = camera_lib.relative(motions, motions[0])
    estimated[:, :3, 3] *= 0.01
    degrees, far = _camera_errors(estimated, cameras, data['scale'])
    # The arc cosine near 1.
    self.assertLess(degrees, 1e-5)
    self.assertLess(far, 1e-9)
    for wrong in (
        _path(9, forward=80, left=-30, turn=50),
        _path(9, forward=80, left=30, turn=-50),
    ):
      other = camera_lib.relative(wrong, wrong[0])
      degrees, far = _camera_errors(other, cameras, data['scale'])
      self.assertGreater(max(degrees / 15, far / 0.5), 1)

  def test_the_first_camera_is_theirs_at_rest(self):
    data = worldscore.camera_data(_path(4, forward=60), 32)
    at_rest = np.diag([-1.0, 1, -1, 1])
    np.testing.assert_allclose(data['cameras_interp'][0], at_rest, atol=1e-12)
    # Their push_in: a camera whose place is (0, 0, 1) times the scale.
    last = np.array(data['cameras'][-1])
    np.testing.assert_allclose(
        last[:3, 3] / data['scale'], [0, 0, 1], atol=1e-9
    )
    # Their pan_left turns the world by +30 degrees about y, before eq. (1).
    turned = worldscore.camera_data(_path(4, turn=30), 32)['cameras'][-1]
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    pan_left = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    expected = np.linalg.inv(np.diag([-1.0, 1, -1]) @ pan_left)
    np.testing.assert_allclose(np.array(turned)[:3, :3], expected, atol=1e-12)

  @parameterized.parameters(
      (dict(forward=90, left=10), 'push_in'),
      (dict(forward=-90), 'pull_out'),
      (dict(left=50, forward=20), 'move_left'),
      (dict(left=-50), 'move_right'),
      (dict(turn=40, forward=20), 'pan_left'),
      (dict(turn=-40), 'pan_right'),
      (dict(), 'fixed'),
  )
  def test_paths_have_worldscore_s_names(self, path, name):
    self.assertEqual(worldscore.camera_way(_path(5, **path)), name)

  def test_standing_still_has_a_scale(self):
    self.assertEqual(worldscore.camera_data(_path(3), 32)['scale'], 1)


if __name__ == '__main__':
  absltest.main()

"""Films as WorldScore reads them (Duan et al. 2025, "WorldScore").

Read from haoyi-duan/WorldScore 344983c: world_generators/README.md (output
format), worldscore/benchmark/helpers/evaluator.py (process_batch, data_exists,
calculate_metrics), camera_generator.py, metrics/third_party/
camera_error_metrics.py and object_detection_metrics.py, utils/utils.py. Ours
are worlds in which only the camera moves, its "static" half:

  <folder>/worldscore_output/static/<style>/<scene>/<category>/<name>/
    frames/000.png ...    sorted as strings, as many as cameras
    videos/output.mp4     for people
    input_image.png       the first frame
    image_data.json       prompts, objects, frames, and the way of the camera
    camera_data.json      motions, see below
  <folder>/<model>.yaml   to be copied to its config/model_configs

  MODEL_PATH=<folder's parent> python worldscore/run_evaluate.py \\
    --model_name=<model>

after <model> was added to its utils/modeltype.py, as 'threedgen', the type of
which only the static half is evaluated.

Cameras are Blender's in a mirrored world: with C the motion from a frame's
camera to the first's, in OpenCV's axes as in data/camera.py,

  M = diag(-1, 1, 1, 1) C diag(1, 1, -1, 1)                              (1)

(derived from both of its files: its camera at rest is diag(-1, 1, -1, 1), and
its SLAM's results are multiplied by these two matrices). Its errors of places
are in units of `scale`, in its own data the length of a push; here the greatest
distance from the first camera.

Its SLAM believes in a focal length of 500 pixels and a centre of (256, 256),
whatever the film: a view of 90 degrees is not that. Its camera control and 3-D
consistency of our films are therefore not exact, however good the film.
"""

from collections.abc import Sequence
import os

import numpy as np

from worldsim_jax.data import camera as camera_lib
from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import adapters

STYLES = ('photorealistic', 'stylized')
SCENES = ('indoor', 'outdoor')
_STILL = 1.0  # map units and degrees: less is no way at all
# A turn counts as much as a step of this many map units per degree.
_UNITS_PER_DEGREE = 4.0


def write(
    folder: str,
    clips: Sequence[adapters.Clip],
    frames_per_second: float,
    *,
    camera: camera_lib.Camera,
    model: str = 'worldsim_jax',
    style: str = 'stylized',
    scene: str = 'indoor',
    category: str = 'game',
    scale: int = 1,
):
  """Writes clips; each needs motions and the objects of its caption.

  Args:
    folder: local; must not be there yet.
    clips: what is to be judged, of one size and length.
    frames_per_second: of the films.
    camera: of the films.
    model: the name under which it will be registered.
    style: one of `STYLES`.
    scene: one of `SCENES`.
    category: a folder's name.
    scale: pixels are repeated; its networks were trained on larger pictures.

  Raises:
    UserError: that names the clip, for what cannot be written.
  """
  adapters.check(clips)
  adapters.check_name('model', model)
  adapters.check_name('category', category)
  for value, known in ((style, STYLES), (scene, SCENES)):
    if value not in known:
      raise UserError(f'WorldScore has no {value!r}: use {", ".join(known)}')
  for clip in clips:
    _check(clip, clips[0])
  with adapters.staged(folder) as root:
    base = os.path.basename(os.path.abspath(folder))
    with open(os.path.join(root, f'{model}.yaml'), 'w') as f:
      f.write(
          _config(clips[0].rgb.shape, frames_per_second, model, base, scale)
      )
    parent = os.path.join(
        root, 'worldscore_output', 'static', style, scene, category
    )
    where = dict(visual_style=style, scene_type=scene, category=category)
    for clip in clips:
      _write_clip(
          os.path.join(parent, clip.name), clip, frames_per_second, scale
      )
      adapters.write_json(
          os.path.join(parent, clip.name, 'image_data.json'),
          image_data(clip, **where),
      )
      adapters.write_json(
          os.path.join(parent, clip.name, 'camera_data.json'),
          camera_data(clip.motions, camera.fx * scale),
      )


def image_data(clip, visual_style, scene_type, category) -> dict:
  """What WorldScore asks of a clip; one scene, seen at its start and end."""
  length = len(clip.rgb)
  # The first part of such a line is the scene's name and is not looked for.
  content = ', '.join([scene_type, *clip.objects])
  return {
      'visual_movement': 'static',
      'visual_style': visual_style,
      'scene_type': scene_type,
      'image': f'images/{category}/{clip.name}.png',
      'style': visual_style,
      'camera_path': [camera_way(clip.motions)],
      'prompt_list': [clip.caption] * 2,
      'content_list': [content] * 2,
      'num_scenes': 1,
      'total_frames': length,
      'anchor_frame_idx': [0, length - 1],
  }


def camera_data(motions, focal_length: float) -> dict:
  """Equation (1) of motions [T, 4, 4]."""
  motions = np.asarray(motions, np.float64)
  seen = camera_lib.relative(motions, motions[0])
  cameras = np.diag([-1.0, 1, 1, 1]) @ seen @ np.diag([1.0, 1, -1, 1])
  reach = np.linalg.norm(seen[:, :3, 3], axis=-1).max()
  return {
      'focal_length': float(focal_length),
      'scale': float(reach) if reach > _STILL else 1.0,
      'cameras': cameras[[0, -1]].tolist(),
      'cameras_interp': cameras.tolist(),
  }


def camera_way(motions) -> str:
  """The nearest of WorldScore's camera paths, from the last camera's place."""
  last = camera_lib.relative(np.asarray(motions, np.float64), motions[0])[-1]
  right, ahead = last[0, 3], last[2, 3]
  turn = np.degrees(np.arctan2(last[0, 2], last[2, 2]))  # to the right
  ways = {
      'move_right': right,
      'move_left': -right,
      'push_in': ahead,
      'pull_out': -ahead,
      'pan_right': turn * _UNITS_PER_DEGREE,
      'pan_left': -turn * _UNITS_PER_DEGREE,
  }
  way = max(ways, key=ways.get)
  return way if ways[way] > _STILL else 'fixed'


def _write_clip(folder, clip, frames_per_second, scale):
  for part in ('frames', 'videos'):
    os.makedirs(os.path.join(folder, part))
  # Theirs have three digits and sort wrongly from the thousandth frame on.
  digits = max(3, len(str(len(clip.rgb) - 1)))
  for t, frame in enumerate(clip.rgb):
    path = os.path.join(folder, 'frames', f'{t:0{digits}d}.png')
    adapters.write_picture(path, frame, scale)
  adapters.write_picture(
      os.path.join(folder, 'input_image.png'), clip.given, scale
  )
  video_files.write_mp4(
      os.path.join(folder, 'videos', 'output.mp4'),
      clip.rgb,
      frames_per_second,
      scale=scale,
  )


def _config(shape, frames_per_second, model, base, scale):
  length, height, width, _ = shape
  return (
      f'model: {model}\n\n'
      f'runs_root: ${{oc.env:MODEL_PATH}}/{base}\n\n'
      f'resolution: [{width * scale}, {height * scale}]\n'
      'generate_type: i2v\n\n'
      f'frames: {length}\nfps: {frames_per_second:g}\n'
  )


def _check(clip, first):
  if clip.rgb.shape != first.rgb.shape:
    raise UserError(
        f'clip {clip.name}: film is {clip.rgb.shape}, that of {first.name} '
        f'{first.rgb.shape}; WorldScore has one size and length per model'
    )
  shape = np.shape(clip.motions) if clip.motions is not None else None
  if shape != (len(clip.rgb), 4, 4):
    raise UserError(
        f'clip {clip.name}: motions are {shape}, need {(len(clip.rgb), 4, 4)}: '
        'camera control is scored against them'
    )
  if not clip.objects or any(',' in name for name in clip.objects):
    raise UserError(
        f'clip {clip.name}: objects are {clip.objects}; WorldScore looks for '
        'those that a caption names, without commas'
    )

"""Films as VBench reads them (Huang et al. 2024, "VBench").

Read from Vchitect/VBench 45e79ec: vbench/__init__.py (build_full_info_json),
vbench/utils.py (get_prompt_from_filename), evaluate.py, evaluate_i2v.py,
vbench2_beta_i2v/. Two of its modes are served:

  custom_input     <folder>/videos/<name>-0.mp4
                   <folder>/prompts.json     {"<name>-0.mp4": caption, ...}
                   <folder>/images/<name>.png     the first frame of <name>
  vbench_standard  <folder>/videos/<caption>-<k>.mp4    k = 0 ... 4
                   <folder>/full_info.json   [{"prompt_en": caption,
                                               "dimension": [...]}, ...]

  python evaluate.py --mode=custom_input --videos_path=<folder>/videos \\
    --prompt_file=<folder>/prompts.json --dimension <...>
  python evaluate_i2v.py --mode=custom_input --videos_path=<folder>/videos \\
    --custom_image_folder=<folder>/images --ratio 4-3 --dimension i2v_subject
  python evaluate.py --videos_path=<folder>/videos \\
    --full_json_dir=<folder>/full_info.json --dimension <...>

Its loaders take off a last "-<digits>" of a file's name to find its prompt and
image, so that every film gets one, and the standard mode takes the suffix of
all films from whichever file is listed first: nothing else may lie in videos/.
In the standard mode the prompt is the file's name, and an image belongs to a
prompt; captions that are no file names, or first frames, need custom_input.
"""

from collections.abc import Sequence
import os

from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import adapters

# Those that need neither VBench's own prompts nor labels of their parts.
DIMENSIONS = (
    'subject_consistency',
    'background_consistency',
    'temporal_flickering',
    'motion_smoothness',
    'dynamic_degree',
    'aesthetic_quality',
    'imaging_quality',
    'overall_consistency',
)
SAMPLES = 5  # per prompt that the standard mode looks for
_QUALITY = 10  # crf, which its instructions for sampling use
_LONGEST = 240  # bytes of a file's name; most file systems take 255


def write_custom(
    folder: str,
    clips: Sequence[adapters.Clip],
    frames_per_second: float,
    scale: int = 1,
):
  """Writes clips for `--mode=custom_input`.

  Args:
    folder: local; must not be there yet.
    clips: of any captions; the first frames are written for VBench-I2V.
    frames_per_second: of the films.
    scale: pixels are repeated; the judges were trained on larger pictures.

  Raises:
    UserError: that names the clip, for what cannot be written.
  """
  adapters.check(clips)
  with adapters.staged(folder) as root:
    for part in ('videos', 'images'):
      os.mkdir(os.path.join(root, part))
    prompts = {}
    for clip in clips:
      film = f'{clip.name}-0.mp4'
      prompts[film] = clip.caption
      _write_film(root, film, clip, frames_per_second, scale)
      picture = os.path.join(root, 'images', f'{clip.name}.png')
      adapters.write_picture(picture, clip.given, scale)
    adapters.write_json(os.path.join(root, 'prompts.json'), prompts)


def write_standard(
    folder: str,
    clips: Sequence[adapters.Clip],
    frames_per_second: float,
    dimensions: Sequence[str] = DIMENSIONS,
    scale: int = 1,
):
  """Writes clips for `--mode=vbench_standard`, see `write_custom`.

  Clips of one caption are its samples, in their order, five at most.
  """
  adapters.check(clips)
  unknown = sorted(set(dimensions) - set(DIMENSIONS))
  if unknown or not dimensions:
    raise UserError(
        f'VBench dimensions {", ".join(unknown) or "(none)"}: choose from '
        f'{", ".join(DIMENSIONS)}'
    )
  films = {}
  for clip in clips:
    _check_prompt(clip)
    films.setdefault(clip.caption, []).append(clip)
  for caption, samples in films.items():
    if len(samples) > SAMPLES:
      raise UserError(
          f'{len(samples)} films of {caption!r}: VBench looks for {SAMPLES}'
      )
  with adapters.staged(folder) as root:
    os.mkdir(os.path.join(root, 'videos'))
    for caption, samples in films.items():
      for k, clip in enumerate(samples):
        film = f'{caption}-{k}.mp4'
        _write_film(root, film, clip, frames_per_second, scale)
    adapters.write_json(
        os.path.join(root, 'full_info.json'),
        [
            {'prompt_en': caption, 'dimension': list(dimensions)}
            for caption in films
        ],
    )


def _write_film(root, name, clip, frames_per_second, scale):
  video_files.write_mp4(
      os.path.join(root, 'videos', name),
      clip.rgb,
      frames_per_second,
      scale=scale,
      quality=_QUALITY,
  )


def _check_prompt(clip):
  caption = clip.caption
  size = len(f'{caption}-0.mp4'.encode())
  bad = '/' in caption or '\0' in caption or caption.startswith('.')
  if bad or '\n' in caption or size > _LONGEST:
    raise UserError(
        f'clip {clip.name}: the caption {caption[:40]!r}... ({size} bytes) '
        f'cannot be a file name of {_LONGEST}, which the standard mode needs; '
        'use write_custom'
    )

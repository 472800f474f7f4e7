"""Films as WorldModelBench reads them (Li et al. 2025, "WorldModelBench").

Read from WorldModelBench-Team/WorldModelBench 00b7aa1: README.md, evaluation.py
(WorldModelEvaluator._load_video, main), worldmodelbench.json. It looks for
<video_dir>/<stem of first_frame>.mp4 for each entry of ./worldmodelbench.json:

  <folder>/worldmodelbench.json   [{"domain", "subdomain", "text_first_frame",
                                    "text_instruction", "first_frame"}, ...]
  <folder>/images/<name>.jpg      the first frame
  <folder>/videos/<name>.mp4

  cd <folder> && python <WorldModelBench>/evaluation.py --video_dir=videos \\
    --judge=<weights> --model_name=<any>

The benchmark's own 350 entries are other pictures and texts: its leaderboard
has no place for ours, but its judge answers the same questions of them. Films
that are missing are passed over in silence and would shift its means by kind of
question, so none may be.
"""

from collections.abc import Sequence
import os

from worldsim_jax.data import video_files
from worldsim_jax.errors import UserError
from worldsim_jax.evaluate import adapters

DOMAIN = 'video games'  # one of its seven
SUBDOMAIN = 'First-person walk'
_QUALITY = 10  # x264's crf


def write(
    folder: str,
    clips: Sequence[adapters.Clip],
    frames_per_second: float,
    scale: int = 1,
):
  """Writes clips; each needs an instruction, see `adapters.in_words`.

  Args:
    folder: local; must not be there yet.
    clips: what is to be judged.
    frames_per_second: of the films.
    scale: pixels are repeated; the judge was trained on larger pictures.

  Raises:
    UserError: that names the clip, for what cannot be written.
  """
  adapters.check(clips)
  for clip in clips:
    if not clip.instruction.strip():
      raise UserError(
          f'clip {clip.name}: it has no instruction, which the judge is asked '
          'about; adapters.in_words makes one of actions'
      )
  with adapters.staged(folder) as root:
    for part in ('videos', 'images'):
      os.mkdir(os.path.join(root, part))
    entries = []
    for clip in clips:
      picture = f'images/{clip.name}.jpg'
      adapters.write_picture(os.path.join(root, picture), clip.given, scale)
      video_files.write_mp4(
          os.path.join(root, 'videos', f'{clip.name}.mp4'),
          clip.rgb,
          frames_per_second,
          scale=scale,
          quality=_QUALITY,
      )
      entries.append(
          {
              'domain': DOMAIN,
              'subdomain': SUBDOMAIN,
              'text_first_frame': clip.caption,
              'text_instruction': clip.instruction,
              'first_frame': picture,
          }
      )
    adapters.write_json(os.path.join(root, 'worldmodelbench.json'), entries)

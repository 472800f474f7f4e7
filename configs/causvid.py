"""CausVid on Wan 1.3B: asymmetric distillation by diffusion forcing.

Yin et al. 2025, arXiv 2412.07772, with the values of its code's Wan version:
3 steps, 1000, 757 and 522, and clean chunks among them, shift 8, chunks of 3.
The student first learns to end where the bidirectional teacher's ODE does (50
steps of Euler, guidance 6; 3,000 steps), then is distilled by DMD on single
passes over true clips, each chunk at one of the levels, under the causal mask:
it never sees what it makes itself. Guidance 4.5 is 3.5 in the code's form.

Weights:  :published takes Wan's own; see configs/wan_1_3b.py
Command:  python -m worldsim_jax.main --config=configs/causvid.py:published \
            --workdir=gs://bucket/causvid --config.data.latents=LATENTS \
            --config.text.path=weights/wan_1_3b/text_encoder
Machine:  slices that it fits are in README; time, quality: not yet measured.
Laptop:   --config=configs/causvid.py:tiny
"""

from configs import students
from configs import wan
from ml_collections import ConfigDict


def get_config(arg: str = '') -> ConfigDict:
  """The config; `arg` is '', 'tiny' or 'published'."""
  config = wan.wan(wan.MODEL_1_3B)
  config.stages = ('tokenizer', 'teacher', 'ode_regression', 'causvid')
  # Warped by the shift, what is left of these are 1000, 757 and 522.
  config.student.update(dict(timesteps=(1000, 280, 120), shift=8.))
  config.teacher.shift = 8.
  common = dict(batch_size=64, clip_frames=21, clean_level=True, shift=8.)
  config.ode_regression = students.ode_regression(
      start_from='teacher', num_steps=3000, ode_steps=50, guidance_scale=6.,
      **common)
  config.causvid = students.diffusion_forced(
      start_from='ode_regression', num_steps=6000, guidance_scale=4.5,
      **common)
  for network in (config.ode_regression, config.causvid,
                  config.causvid.critic):
    network.optimizer.update(dict(
        learning_rate=2e-6, schedule='constant', warmup_steps=0, b1=0.9,
        b2=0.999, clip_norm=10.))
  return wan.vary(config, arg, teacher='weights/wan_1_3b')

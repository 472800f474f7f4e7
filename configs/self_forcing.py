"""Self Forcing: a Wan 14B teacher, a 1.3B student and a 1.3B critic.

The published recipe (Huang et al. 2025, arXiv 2506.08009, and its released
code): 480x832, 21 latent frames, chunks of 3, four steps, 64 clips a step, the
critic in every step and the student in every fifth, an average from the 200th
update. Published cost: 600 steps in under 2 h on 64 H100. Here the student
continues 3 given frames. Captions are embedded by umT5, of the folder
config.text.path.

By:       :dmd (also the default), :sid (teacher: 1.3B), :gan (data, no teacher;
          no values were published: the code's, with R1 and R2), :framewise
From:     teacher forcing, or :ode, of the bidirectional teacher, as published;
          :causal_ode or :consistency, of the causal one (Causal Forcing)
Weights:  :published takes Wan's own tokenizer, base and teacher; see
          configs/wan_1_3b.py for how they get into weights/
Command:  python -m worldsim_jax.main \
            --config=configs/self_forcing.py:ode,published \
            --workdir=gs://bucket/self_forcing --config.data.latents=LATENTS \
            --config.text.path=weights/wan_1_3b/text_encoder
Machine:  slices that it fits are in README; time, quality: not yet measured.
Laptop:   --config=configs/self_forcing.py:tiny, also after a comma (sid,tiny)
"""

from configs import arguments
from configs import students
from configs import wan
from ml_collections import ConfigDict

BY = ('dmd', 'sid', 'gan')


def get_config(arg: str = '') -> ConfigDict:
  """`arg`: '', 'tiny', 'published', 'ode,published', 'dmd', 'sid', 'gan',
  'framewise', 'sid,tiny', 'gan,tiny', 'framewise,tiny', 'ode,tiny',
  'causal_ode,tiny' or 'consistency,tiny'."""
  known = (*BY, 'framewise', *students.INITIALISATIONS)
  variants = arguments.words(arg, *known, 'tiny', 'wan_vae', 'published')
  config = wan.wan(wan.MODEL_1_3B)
  config.base = config.teacher.copy_and_resolve_references()
  config.teacher_forcing.start_from = 'base'
  by = arguments.one_of(variants, BY, 'dmd')
  config.self_forcing = distilled(by)
  of_14b = ('teacher',) if by == 'dmd' else ()
  config.stages = (
      'tokenizer', 'base', *of_14b, 'teacher_forcing', 'self_forcing')
  config.evaluate.teacher = 'teacher' if of_14b else 'base'
  if 'framewise' in variants:
    config.student.chunk = 1
  start = arguments.one_of(variants, students.INITIALISATIONS, '')
  if start:
    students.initialise(config, start)
  # Parameters over all of 64 chips, XLA gathers by all-reduce: twice the bytes.
  config.mesh.data = 1 if 'tiny' in variants else 2
  if of_14b:
    config.teacher.model = (dict(dim=48, ffn_dim=96) if 'tiny' in variants
                            else wan.MODEL_14B)
  of_14b = dict.fromkeys(of_14b, 'weights/wan_14b')
  return wan.vary(config, arg, known, base='weights/wan_1_3b', **of_14b)


def distilled(by: str) -> ConfigDict:
  """The stage by its divergence."""
  stage = students.self_forcing(
      divergence=by, start_from='teacher_forcing', num_steps=600,
      teacher={'dmd': 'teacher', 'sid': 'base', 'gan': ''}[by], batch_size=64,
      clip_frames=21, guidance_scale=4., frozen_dtype='bfloat16', ema=0.99,
      ema_start=40)
  stage.critic.start_from = 'base'
  critic_rate = 2e-6 if by == 'sid' else 4e-7
  for network, rate in (stage, 2e-6), (stage.critic, critic_rate):
    network.optimizer.update(dict(
        learning_rate=rate, warmup_steps=0, b2=0.999, clip_norm=10.,
        weight_decay=0. if by == 'sid' else 0.01))
  return stage

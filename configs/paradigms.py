"""The same small student by nine ways: what the table of paradigms trains.

On the quickstart's world. One tokenizer and one bidirectional teacher; from
there a causal start by teacher forcing and one by diffusion forcing, and from
the starts, each for about the same time (see `NUM_STEPS`):

  tf, df            the start goes on: many-step models, the baselines
  tf_dmd, df_dmd    distilled on single passes, with a true past
  causvid           the same as df_dmd, but started by the teacher's ODE, and
                    with clean chunks
  sf_dmd, sf_sid, sf_gan
                    distilled on their own rollouts: Self Forcing
  sf_long           the same as sf_dmd, on the last 4 frames of rollouts of 12

All are streamed by the same rollout in four steps. Clips have 6 frames, 2 of
them given; what comes later no student but sf_long has been trained on.

Command:  python -m worldsim_jax.main --config=configs/paradigms.py \
            --workdir=runs/paradigms/seed-0 (one seed, without the table)
Table:    python -m benchmarks.run paradigms (three seeds); --quick: of :tiny
Machine:  2 CPU cores; time: not yet measured
"""

from configs import arguments
from configs import quickstart
from configs import stages
from configs import students
from ml_collections import ConfigDict

# About 170 s each on two CPU cores, from what a step takes there (0.36 s of tf,
# 0.50 of sf_dmd, 1.4 of sf_gan: benchmarks.run train_step); ode_start 100.
NUM_STEPS = dict(
    tf_start=470, df_start=900, ode_start=65, tf=470, df=900, tf_dmd=350,
    df_dmd=400, causvid=460, sf_dmd=340, sf_sid=315, sf_gan=122, sf_long=190)
TEACHER_STEPS = 2000  # 430 s: a bad one is what its students become


def get_config(arg: str = '') -> ConfigDict:
  """The config; `arg` is '' or 'tiny'."""
  is_tiny = arguments.words(arg, 'tiny')
  config = quickstart.get_config()
  config.tf_start = stages.teacher_forcing(start_from='teacher')
  config.df_start = stages.diffusion_forcing(start_from='teacher')
  config.ode_start = students.ode_regression(
      start_from='df_start', ode_steps=16)
  config.tf = stages.teacher_forcing(start_from='tf_start')
  config.df = stages.diffusion_forcing(start_from='df_start')
  config.tf_dmd = students.teacher_forced(start_from='tf_start')
  config.df_dmd = students.diffusion_forced(start_from='df_start')
  config.causvid = students.diffusion_forced(
      start_from='ode_start', clean_level=True)
  for by in 'dmd', 'sid', 'gan':
    config[f'sf_{by}'] = students.self_forcing(
        divergence=by, start_from='tf_start')
  config.sf_long = students.self_forcing(
      start_from='tf_start', gradient_frames=4)
  config.stages = ('tokenizer', 'teacher', *NUM_STEPS)
  config.teacher.num_steps = TEACHER_STEPS
  for name, num_steps in NUM_STEPS.items():
    stage = config[name]
    stage.update(dict(num_steps=num_steps, batch_size=8))
    stage.optimizer.update(dict(learning_rate=2e-3, warmup_steps=20))
    if 'critic' in stage:
      stage.ema = 0.9
      # At 2e-5 a student hardly moves in so few steps, at 4e-4 it is worse.
      stage.optimizer.update(dict(learning_rate=1e-4, warmup_steps=1))
      stage.critic.optimizer.update(dict(learning_rate=5e-4, warmup_steps=1))
  config.ode_start.optimizer.learning_rate = 5e-4
  config.sf_long.clip_frames = 14
  config.evaluate.update(dict(
      num_clips=32, horizon=32, teacher_steps=50, teacher_window=6))
  if is_tiny:
    quickstart.smoke(config)
    config.sf_long.update(dict(clip_frames=8, gradient_frames=2))
    config.evaluate.teacher_steps = 4
  return config

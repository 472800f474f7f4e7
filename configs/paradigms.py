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

All are streamed by the same rollout in four steps. Clips have 6 frames, 2 of
them given; what comes later a student has never been trained on.

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

# About 200 s each on two CPU cores, from what a step takes there (0.37 s of tf,
# 0.50 of sf_dmd, 1.4 of sf_gan: benchmarks.run train_step); starts 150.
NUM_STEPS = dict(
    tf_start=400, df_start=800, ode_start=90, tf=540, df=1000, tf_dmd=420,
    df_dmd=480, causvid=480, sf_dmd=400, sf_sid=370, sf_gan=145)


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
  config.stages = ('tokenizer', 'teacher', *NUM_STEPS)
  for name, num_steps in NUM_STEPS.items():
    stage = config[name]
    stage.update(dict(num_steps=num_steps, batch_size=8))
    stage.optimizer.update(dict(learning_rate=2e-3, warmup_steps=20))
    if 'critic' in stage:
      stage.ema = 0.9
      stage.optimizer.update(dict(learning_rate=2e-5, warmup_steps=1))
      stage.critic.optimizer.update(dict(learning_rate=1e-4, warmup_steps=1))
  config.ode_start.optimizer.learning_rate = 5e-4
  config.evaluate.update(dict(
      num_clips=32, horizon=32, teacher_steps=50, teacher_window=6))
  if is_tiny:
    quickstart.smoke(config)
    config.evaluate.teacher_steps = 4
  return config

"""The keys of a student's config, with neutral values, by paradigm."""

from configs import stages
from ml_collections import ConfigDict
from worldsim_jax.distill import divergences

INITIALISATIONS = ('ode', 'causal_ode', 'consistency')

def ode_regression(**own) -> ConfigDict:
  """A student that is to end where its teacher's ODE does."""
  return initialisation('ode_regression', **own)


def consistency(**own) -> ConfigDict:
  """A student that agrees with itself a step of its teacher's ODE later."""
  return initialisation('consistency', **dict(ema=0.99) | own)


def initialisation(paradigm: str, **own) -> ConfigDict:
  """A student that is made ready for distillation by its teacher's ODE."""
  return stages.stage(paradigm, **dict(
      teacher='teacher', ode_steps=48, guidance_scale=1.5, shift=5.,
      frozen_dtype='float32', clean_level=False) | own)


def self_forcing(**own) -> ConfigDict:
  """A student that is distilled on its own rollouts."""
  return distillation('self_forcing', **dict(
      exit_steps='shared',  # or 'per_chunk'
      gradient_frames=0,  # the last of a long rollout; 0: all new ones
      ) | own)


def teacher_forced(**own) -> ConfigDict:
  """A student that is distilled on single passes with a clean past."""
  return distillation('teacher_forced', **own)


def diffusion_forced(**own) -> ConfigDict:
  """A student that is distilled on single passes with a noisy past."""
  return distillation('diffusion_forced', **own)


def distillation(paradigm: str, divergence: str = 'dmd', **own) -> ConfigDict:
  """A student that is matched to a distribution, by what distill/ has."""
  made = stages.stage(paradigm, divergence=divergence, **dict(
      clean_level=False,  # whether some chunks are clean (CausVid)
      teacher='teacher', generator_every=5, critic_warmup=0,  # steps
      frozen_dtype='float32', guidance_scale=1.5, shift=5., min_sigma=0.02,
      max_sigma=0.98, critic_weight='none',
      **divergences.DIVERGENCES[divergence].published,
      critic=stages.network(
          start_from='',  # '': from the teacher
          discriminator={}),  # fields of models.discriminator.Heads
      monitor=dict(  # on test clips, see train/monitor.py; every=0: never
          every=0, num_clips=16, clip_frames=12, max_contrast=0.)) | own)
  for pace in (made, made.critic):
    pace.optimizer.update(dict(b1=0., schedule='constant'))
  return made


def initialise(config: ConfigDict, word: str):
  """Puts a stage of INITIALISATIONS before self_forcing, which starts from it.

  The config ends in teacher_forcing and self_forcing; `base` is before them.
  """
  causal = dict(teacher='teacher_forcing', start_from='teacher_forcing')
  common = dict(batch_size=64, clip_frames=21, num_steps=3000)
  if word == 'consistency':
    made = consistency(guidance_scale=4., **common | causal)
  else:
    own = causal if word == 'causal_ode' else dict(
        teacher='base', start_from='base')
    made = ode_regression(guidance_scale=6., **common | own)
  made.optimizer.update(dict(learning_rate=2e-6, b2=0.999, warmup_steps=0))
  name = made.paradigm
  before = config.stages[:-1] if word != 'ode' else config.stages[:-2]
  config[name], config.stages = made, (*before, name, 'self_forcing')
  config.self_forcing.start_from = name

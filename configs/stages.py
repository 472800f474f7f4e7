"""The keys of a stage's config, with neutral values, by kind of stage."""

from ml_collections import ConfigDict


def tokenizer(**own) -> ConfigDict:
  return stage('tokenizer', power=2., edge_weight=0., latent_noise=0.05, **own)


def denoiser(paradigm: str, **own) -> ConfigDict:
  """A network that is trained by regression on real clips."""
  return stage(paradigm, **dict(
      shift=5., weight='none', guidance_dropout=0.1,
      model={},  # what differs from config.model
      weights='',  # a world, to start from (train/pretrained.py)
      ) | own)


def initialisation(paradigm: str, **own) -> ConfigDict:
  """A student that is made ready for distillation by its teacher's ODE."""
  return stage(paradigm, **dict(
      teacher='teacher', ode_steps=48, guidance_scale=1.5, shift=5.,
      frozen_dtype='float32') | own)


def self_forcing(**own) -> ConfigDict:
  """A student that is distilled on its own rollouts."""
  return distillation('self_forcing', **dict(
      exit_steps='shared',  # or 'per_chunk'
      gradient_frames=0,  # the last of a long rollout; 0: all new ones
      ) | own)


def distillation(paradigm: str, **own) -> ConfigDict:
  """A student that is matched to a teacher's distribution."""
  made = stage(paradigm, **dict(
      teacher='teacher', generator_every=5, critic_warmup=0,  # steps
      frozen_dtype='float32', guidance_scale=1.5, shift=5., min_sigma=0.02,
      max_sigma=0.98, critic_weight='none',
      divergence='dmd',  # a key of distill.divergences.DIVERGENCES
      score_weight='normalised',  # of dmd
      alpha=1.,  # of sid
      critic=network(start_from=''),  # '': from the teacher
      monitor=dict(  # on test clips, see train/monitor.py; every=0: never
          every=0, num_clips=16, clip_frames=12, max_contrast=0.)) | own)
  for pace in (made, made.critic):
    pace.optimizer.update(dict(b1=0., schedule='constant'))
  return made


def stage(paradigm: str, **own) -> ConfigDict:
  """What every stage has, then its paradigm's own keys."""
  common = dict(paradigm=paradigm, start_from='', num_steps=1000,
                batch_size=16, accumulate=1, clip_frames=6,
                offload=())  # to host memory: 'opt_state', 'ema'
  return ConfigDict(common | network().to_dict() | own)


def network(**own) -> ConfigDict:
  """How a network is updated."""
  return ConfigDict(own | dict(ema=None, ema_start=0, optimizer=dict(
      learning_rate=1e-3, warmup_steps=20, schedule='cosine', b1=0.9, b2=0.99,
      weight_decay=0.01, clip_norm=1., frozen=())))

"""The keys of a stage's config, with neutral values, by paradigm.

Those of stages that make a student of another network are in students.py.
"""

from ml_collections import ConfigDict


def tokenizer(**own) -> ConfigDict:
  return stage('tokenizer', power=2., edge_weight=0., latent_noise=0.05, **own)


def full_sequence(**own) -> ConfigDict:
  """A bidirectional network."""
  return denoiser('full_sequence', **dict(
      max_context_frames=4,
      shots=1,  # that a clip may have
      moc={},  # see `mixture`; all frames read each other without
      ) | own)


def mixture(**own) -> ConfigDict:
  """A Mixture of Contexts: what frames read of other shots."""
  return ConfigDict(dict(
      chunk=0,  # tokens; 0 for a latent frame
      top_k=3, window=0, drop_off=0., drop_in=0., implementation='auto') | own)


def recall(**own) -> ConfigDict:
  """A Mixture of Contexts over a cache: what a stream reads of a long past."""
  return ConfigDict(dict(
      top_k=3,  # latent frames that a token of a head recalls
      most=12,  # that a head does
      slots=512,  # that are kept, the always read ones included
      implementation='auto') | own)


def teacher_forcing(**own) -> ConfigDict:
  """A causal network with a clean past."""
  return denoiser('teacher_forcing', **dict(context_frames=1) | own)


def diffusion_forcing(**own) -> ConfigDict:
  """A causal network with a noisy past."""
  return denoiser('diffusion_forcing', **dict(
      context_frames=1,
      past='all',  # or 'student': what a stream will read of it
      ) | own)


def denoiser(paradigm: str, **own) -> ConfigDict:
  """A network that is trained by regression on real clips."""
  return stage(paradigm, **dict(
      shift=5., weight='none', guidance_dropout=0.1,
      model={},  # what differs from config.model
      weights='',  # a world, to start from (train/pretrained.py)
      ) | own)


def stage(paradigm: str, **own) -> ConfigDict:
  """What every stage has, then its paradigm's own keys."""
  common = dict(paradigm=paradigm, start_from='', num_steps=1000,
                batch_size=16, accumulate=1, clip_frames=6,
                offload=())  # to host memory: 'opt_state', 'ema'
  return ConfigDict(common | network().to_dict() | own)


def network(**own) -> ConfigDict:
  """How a network is updated."""
  return ConfigDict(dict(ema=None, ema_start=0, optimizer=dict(
      learning_rate=1e-3, warmup_steps=20, schedule='cosine', b1=0.9, b2=0.99,
      weight_decay=0.01, clip_norm=1., frozen=())) | own)

"""What the configs of Wan 2.1's models share; not a run of its own."""

from configs import arguments
from configs import base
from configs import quickstart
from ml_collections import ConfigDict

MODEL_1_3B = dict(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30)
MODEL_14B = dict(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)


def wan(model) -> ConfigDict:
  """Wan with a model of these sizes."""
  config = base.get_config()
  config.stages = ('tokenizer', 'teacher', 'teacher_forcing')
  config.data.update(dict(
      height=480, width=832, actions=False, frames_per_second=16.,
      num_frames=81))
  config.vae.update(dict(time_strides=(2, 2, 1), dtype='bfloat16'))
  config.model.update(model | dict(
      image=False, parameterization='velocity', dtype='bfloat16',
      remat='full'))
  config.text.update(dict(encoder='umt5', dim=4096, length=512))
  config.student.update(dict(
      chunk=3, context_frames=3, window=21, sink=0, weights_dtype='bfloat16'))
  config.tokenizer.update(dict(batch_size=64, clip_frames=9))
  for name in ('teacher', 'teacher_forcing'):
    config[name].update(dict(batch_size=64, clip_frames=21))
    config[name].optimizer.update(dict(learning_rate=1e-5, b2=0.999))
  config.teacher_forcing.context_frames = 3
  config.evaluate.update(dict(horizon=72, teacher_steps=50, teacher_window=21))
  config.mesh.update(dict(data=1, fsdp=-1))
  return config


def vary(config: ConfigDict, arg: str, known=(), **weights) -> ConfigDict:
  """Variants of what has its stages: of these sizes, and words of its own.

  Args:
    config: changed, and returned.
    arg: of get_config.
    known: its own words, which it has dealt with.
    **weights: where `published` has those of a stage.
  """
  variants = arguments.words(arg, *known, 'tiny', 'wan_vae', 'published')
  if 'tiny' in variants:
    tiny(config)
  if variants & {'wan_vae', 'published'}:
    small = dict(base=8, num_res_blocks=1) if 'tiny' in variants else {}
    wan_vae(config, **small)
  if 'published' in variants:
    for name, path in weights.items():
      config[name].update(dict(weights=path, num_steps=0))
  return config


def wan_vae(config: ConfigDict, **sizes):
  """Wan's own tokenizer, which is not trained."""
  config.vae = ConfigDict(dict(kind='wan', dtype=config.vae.dtype) | sizes)
  config.stages = config.stages[1:]


def tiny(config: ConfigDict):
  """The same on the embedded world, at laptop size; minutes."""
  quickstart.smoke(config)
  config.data.update(dict(height=48, width=64, actions=True, num_frames=60))
  config.vae.update(dict(decoder_widths=(8, 8, 8, 8), encoder_widths=(8, 8, 8),
                         time_strides=(2, 2, 1), patch=1, dtype='float32'))
  config.text.update(dict(encoder='null', dim=0, length=0))
  config.student.update(dict(window=6, sink=0))
  config.tokenizer.clip_frames = 5
  for name in config.stages[1:]:
    config[name].clip_frames = 9
  config.evaluate.update(dict(horizon=24, teacher_window=9))

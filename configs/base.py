"""Every key of a config, with neutral values; the other configs are deltas.

Not a run of its own. Sizes are in pixels; latent frames where a transformer
sees them, pixel frames in `data` and `evaluate`.
"""

from ml_collections import ConfigDict

from configs import stages
from configs import students


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.seed = 0
  config.stages = ('tokenizer', 'teacher', 'teacher_forcing', 'self_forcing')
  config.data = ConfigDict(dict(
      dir='',  # of record sets; '' is data/ in the workdir (or its local copy)
      records='',  # a folder of records to use instead of rendering
      latents='',  # of a latent set, with its tokenizer: no stage trains one
      height=48, width=64, tics_per_frame=4, frames_per_second=8.75, shots=1,
      actions=True, policy='random_walk', shot_captions=False, monsters=False,
      train_maps=(), test_maps=(), generated_train_maps=64, test_episodes=8,
      generated_test_maps=16, train_episodes=12, num_frames=40, num_workers=2))
  config.vae = ConfigDict(dict(  # of TinyVAE; or dict(kind='wan'), see WanVAE
      kind='taehv', latent_channels=16, encoder_widths=(64, 64, 64),
      decoder_widths=(256, 128, 64, 64), blocks_per_stage=3,
      time_strides=(1, 1, 1), patch=1, pad='start', shortcut=False,
      dtype='float32'))
  config.model = ConfigDict(dict(  # of models.transformer.VideoTransformer
      dim=256, ffn_dim=1024, num_heads=4, num_layers=4, patch=(2, 2),
      freq_dim=256, image=True, image_halo=1, coordinates=False,
      steered=False, compass=0., parameterization='residual',
      residual_std=0.7, gate_init=0., dtype='float32', policy='mixed',
      remat='none', unroll=1, attention='auto'))
  config.text = ConfigDict(dict(  # path: the folder of a umt5
      encoder='null', dim=0, length=0, path='', per_shot=False))
  config.student = ConfigDict(dict(
      chunk=1, context_frames=2, timesteps=(1000, 750, 500, 250), shift=5.,
      window=4, sink=2, relative_positions=True, context_sigma=0.,
      step='renoise',  # or 'euler', for students that are not distilled
      recall={},  # of a longer past, see `stages.recall`
      weights_dtype='float32'))  # of the network that streams
  config.tokenizer = stages.tokenizer()
  config.teacher = stages.full_sequence()
  config.teacher_forcing = stages.teacher_forcing(start_from='teacher')
  config.self_forcing = students.self_forcing(start_from='teacher_forcing')
  config.evaluate = ConfigDict(dict(
      teacher='teacher', num_clips=128, horizon=32, min_motion=4.,
      teacher_steps=16, teacher_sampler='euler', teacher_window=6,
      guidance_scale=1., film_clips=4, subject='student', sections=(), seed=0,
      walks=8, walk_frames=525, walk_policy='tour', walk_maps=(), exports=(),
      matrix='',  # of schedules.DELAYS; '' streams
      matrix_delay=1.))
  config.mesh = ConfigDict(dict(  # of devices, see parallel/layout.py
      slice=1, data=-1, fsdp=1, context=1, tensor=1))
  config.loop = ConfigDict(dict(
      log_every=10, save_every=100, max_to_keep=2, keep_every=0))  # 0: none
  return config

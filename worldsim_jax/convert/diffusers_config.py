"""The configuration files that diffusers and transformers want beside weights.

As their versions 0.35 and 4.50 have them, and later ones still do.
"""

from worldsim_jax.models.transformer import VideoTransformer
from worldsim_jax.models.umt5 import UMT5Encoder
from worldsim_jax.models.wan_vae import WanVAE

PIPELINE = {
    '_class_name': 'WanPipeline',
    'scheduler': ['diffusers', 'UniPCMultistepScheduler'],
    'text_encoder': ['transformers', 'UMT5EncoderModel'],
    'tokenizer': ['transformers', 'T5TokenizerFast'],
    'transformer': ['diffusers', 'WanTransformer3DModel'],
    'vae': ['diffusers', 'AutoencoderKLWan'],
}
TOKENIZER = {
    'tokenizer_class': 'T5Tokenizer', 'model_max_length': 512,
    'pad_token': '<pad>', 'eos_token': '</s>', 'unk_token': '<unk>',
    'extra_ids': 300}


def scheduler(shift: float) -> dict:
  """Flow matching with UniPC; `shift` moves its grid towards noise."""
  return {'_class_name': 'UniPCMultistepScheduler', 'flow_shift': shift,
          'prediction_type': 'flow_prediction', 'use_flow_sigmas': True,
          'num_train_timesteps': 1000}


def transformer(model: VideoTransformer) -> dict:
  """Of WanTransformer3DModel."""
  return {
      '_class_name': 'WanTransformer3DModel',
      'patch_size': [1, *model.patch], 'num_attention_heads': model.num_heads,
      'attention_head_dim': model.dim // model.num_heads,
      'in_channels': model.latent_channels + model.concatenated_channels,
      'out_channels': model.latent_channels, 'text_dim': model.text_dim,
      'freq_dim': model.freq_dim, 'ffn_dim': model.ffn_dim,
      'num_layers': model.num_layers, 'cross_attn_norm': True,
      'qk_norm': 'rms_norm_across_heads', 'eps': 1e-6,
      'image_dim': model.clip_dim or None,
      'added_kv_proj_dim': model.dim if model.clip_dim else None,
      'rope_max_seq_len': 1024,
      'pos_embed_seq_len': model.clip_positions or None}


def wan_model(model: VideoTransformer) -> dict:
  """Of Wan's own class, which reads it from the folder of its release."""
  kind = 't2v'
  if model.concatenated_channels:
    kind = 'flf2v' if model.clip_positions else 'i2v'
  return {
      '_class_name': 'WanModel', 'model_type': kind, 'dim': model.dim,
      'ffn_dim': model.ffn_dim, 'num_heads': model.num_heads,
      'num_layers': model.num_layers, 'freq_dim': model.freq_dim,
      'in_dim': model.latent_channels + model.concatenated_channels,
      'out_dim': model.latent_channels, 'text_len': 512, 'eps': 1e-6}


def tokenizer(vae: WanVAE) -> dict:
  """Of AutoencoderKLWan."""
  return {
      '_class_name': 'AutoencoderKLWan', 'base_dim': vae.base,
      'z_dim': vae.latent_channels, 'dim_mult': list(vae.multipliers),
      'num_res_blocks': vae.num_res_blocks, 'attn_scales': [],
      # Sic.
      'temperal_downsample': list(vae.temporal_downsample), 'dropout': 0.,
      'latents_mean': list(vae.latent_mean),
      'latents_std': list(vae.latent_std)}


def text_encoder(encoder: UMT5Encoder, dtype: str) -> dict:
  """Of UMT5EncoderModel."""
  return {
      'architectures': ['UMT5EncoderModel'], 'model_type': 'umt5',
      'd_model': encoder.dim, 'd_ff': encoder.ffn_dim,
      'd_kv': encoder.head_dim, 'num_heads': encoder.num_heads,
      'num_layers': encoder.num_layers, 'vocab_size': encoder.vocab,
      'relative_attention_num_buckets': encoder.num_buckets,
      'relative_attention_max_distance': encoder.max_distance,
      'feed_forward_proj': 'gated-gelu', 'dense_act_fn': 'gelu_new',
      'is_gated_act': True, 'layer_norm_epsilon': 1e-6, 'dropout_rate': 0.,
      'is_encoder_decoder': False, 'pad_token_id': 0, 'eos_token_id': 1,
      'torch_dtype': dtype}

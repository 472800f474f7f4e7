"""Published weights as they are released, at sizes of a test."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from tests.models import tiny_tokenizer
from worldsim_jax.convert import mapping
from worldsim_jax.convert import safetensors_file
from worldsim_jax.convert import taehv_keys
from worldsim_jax.convert import torch_file
from worldsim_jax.convert import umt5_keys
from worldsim_jax.convert import wan_dit_keys
from worldsim_jax.convert import wan_vae_keys
from worldsim_jax.models.tiny_vae import TinyVAE
from worldsim_jax.models.transformer import VideoTransformer
from worldsim_jax.models.umt5 import UMT5Encoder
from worldsim_jax.models.wan_vae import WanVAE

TRANSFORMER = VideoTransformer(
    dim=128, ffn_dim=24, num_heads=1, num_layers=2, text_dim=8, freq_dim=16)
TOKENIZER = WanVAE(base=4)
TINY_TOKENIZER = TinyVAE(
    encoder_widths=(4, 4, 4), decoder_widths=(8, 4, 4, 4), blocks_per_stage=1,
    pad='end')
TEXT_ENCODER = UMT5Encoder(
    vocab=312, dim=8, ffn_dim=12, num_heads=2, head_dim=4, num_layers=2)
SAFETENSORS = 'diffusion_pytorch_model.safetensors'


def random_params(keys, module, dtype=np.float32, seed: int = 0):
  """Every number is another; of a size at which signals go through."""
  size = {taehv_keys: 2}.get(keys, 8)
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: (rng.normal(size=x.shape) / size).astype(dtype),
      keys.shapes(module))


def transformer(format_: str = 'wan', dtype=np.float32, seed: int = 0):
  """Tensors by name."""
  return mapping.write_arrays(
      wan_dit_keys, random_params(wan_dit_keys, TRANSFORMER, dtype, seed),
      format_)


def tokenizer(format_: str = 'original'):
  return mapping.write_arrays(
      wan_vae_keys, random_params(wan_vae_keys, TOKENIZER), format_)


def tiny_tokenizer_tensors():
  """In half precision, as upstream has them."""
  return mapping.write_arrays(taehv_keys, random_params(
      taehv_keys, TINY_TOKENIZER, np.float16), 'taehv')


def text_encoder(format_: str = 'original'):
  return mapping.write_arrays(umt5_keys, random_params(
      umt5_keys, TEXT_ENCODER, jnp.bfloat16), format_)


def self_forcing(path):
  """A file of Self Forcing: three networks, in the wrappings of FSDP."""
  wrapped = {
      'generator': 'model.', 'critic': 'model.',
      'generator_ema': 'model._fsdp_wrapped_module.'}
  torch_file.write_torch(path, {
      name: {f'{front}{key}': x
             for key, x in transformer(seed=seed).items()}
      for seed, (name, front) in enumerate(wrapped.items())})
  return path


def wan(folder: pathlib.Path, tiny: bool = False):
  """A folder as Wan-AI/Wan2.1-T2V-1.3B."""
  folder.mkdir()
  safetensors_file.write_safetensors(
      folder / SAFETENSORS, transformer(dtype=jnp.bfloat16))
  if tiny:
    torch_file.write_torch(folder / 'taew2_1.pth', tiny_tokenizer_tensors())
  else:
    torch_file.write_torch(folder / 'Wan2.1_VAE.pth', tokenizer())
  torch_file.write_torch(
      folder / 'models_t5_umt5-xxl-enc-bf16.pth', text_encoder())
  tiny_tokenizer.write(folder / 'google/umt5-xxl')
  return folder


def diffusers(folder: pathlib.Path):
  """A folder as Wan-AI/Wan2.1-T2V-1.3B-Diffusers, its transformer sharded."""
  for name, file, tensors, config in (
      ('transformer', SAFETENSORS, transformer('diffusers'),
       {'attention_head_dim': 64}),
      ('vae', SAFETENSORS, tokenizer('diffusers'),
       {'latents_mean': [0.] * 16, 'latents_std': [2.] * 16}),
      ('text_encoder', 'model.safetensors', text_encoder('transformers'), {})):
    (folder / name).mkdir(parents=True)
    safetensors_file.write_safetensors(
        folder / name / file, tensors,
        shard_bytes=200_000 if name == 'transformer' else None)
    (folder / name / 'config.json').write_text(json.dumps(config))
  tiny_tokenizer.write(folder / 'tokenizer')
  (folder / 'model_index.json').write_text('{}')
  return folder

"""The Wan 2.1 transformer in plain PyTorch, to time ours against.

Written as a PyTorch user would: fused attention and norms, rotary tables made
once. It covers what both sides compute in `torch_dit`: noisy latents, per-frame
timesteps and text; no cache and no streams of ours. Parameter names are those
of our tree, so that one set of weights runs on both.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

EPSILON = 1e-6


class Attention(nn.Module):
  """Self-attention with rotary angles, cross-attention without."""

  def __init__(self, dim: int, num_heads: int):
    super().__init__()
    self.num_heads = num_heads
    self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
    self.norm_q, self.norm_k = (
        nn.RMSNorm(dim, eps=EPSILON) for _ in range(2))

  def forward(self, x_BTC, source_BSC, rotary=None):
    heads = lambda x: x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
    q = heads(self.norm_q(self.q(x_BTC)))
    k = heads(self.norm_k(self.k(source_BSC)))
    if rotary is not None:
      q, k = rotate(q, *rotary), rotate(k, *rotary)
    out = F.scaled_dot_product_attention(q, k, heads(self.v(source_BSC)))
    return self.o(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
  """Self-attention, cross-attention, feed-forward."""

  def __init__(self, dim: int, ffn_dim: int, num_heads: int):
    super().__init__()
    self.modulation = nn.Parameter(torch.zeros(6, dim))
    self.self_attn = Attention(dim, num_heads)
    self.cross_attn = Attention(dim, num_heads)
    self.norm3 = nn.LayerNorm(dim, eps=EPSILON)
    self.ffn_0, self.ffn_2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)

  def forward(self, x_BTC, e_BF6C, text_BLC, rotary):
    frames = e_BF6C.shape[1]
    shift1, scale1, gate1, shift2, scale2, gate2 = (
        self.modulation + e_BF6C).unsqueeze(3).unbind(2)
    hidden = modulated_norm(x_BTC, shift1, scale1)
    update = self.self_attn(hidden, hidden, rotary)
    x_BTC = x_BTC + per_frame(update, frames).mul(gate1).flatten(1, 2)
    x_BTC = x_BTC + self.cross_attn(self.norm3(x_BTC), text_BLC)
    hidden = modulated_norm(x_BTC, shift2, scale2)
    update = self.ffn_2(F.gelu(self.ffn_0(hidden), approximate='tanh'))
    return x_BTC + per_frame(update, frames).mul(gate2).flatten(1, 2)


class WanTransformer(nn.Module):
  """Velocity of latents [B, F, H, W, C] at timesteps [B, F] given text."""

  def __init__(self, model, num_frames: int, size: tuple[int, int]):
    """For one shape of video, with the sizes of a VideoTransformer."""
    super().__init__()
    dim, features = model.dim, np.prod(model.patch) * model.latent_channels
    self.patch, self.freq_dim = model.patch, model.freq_dim
    self.patch_embedding = nn.Linear(features, dim)
    self.text_embedding_0 = nn.Linear(model.text_dim, dim)
    self.text_embedding_2 = nn.Linear(dim, dim)
    self.time_embedding_0 = nn.Linear(model.freq_dim, dim)
    self.time_embedding_2 = nn.Linear(dim, dim)
    self.time_projection_1 = nn.Linear(dim, 6 * dim)
    self.blocks = nn.ModuleList(
        Block(dim, model.ffn_dim, model.num_heads)
        for _ in range(model.num_layers))
    self.head_modulation = nn.Parameter(torch.zeros(2, dim))
    self.head = nn.Linear(dim, features)
    grid = tuple(n // p for n, p in zip(size, model.patch))
    angles_TD = rotary_angles(num_frames, grid, dim // model.num_heads)
    self.register_buffer('cos', angles_TD.cos())
    self.register_buffer('sin', angles_TD.sin())

  def forward(self, x_BFHWC, timesteps_BF, text_BLC):
    frames, height, width = x_BFHWC.shape[1:4]
    e_BFC = self.time_embedding_2(F.silu(
        self.time_embedding_0(sinusoid(timesteps_BF, self.freq_dim))))
    e_BF6C = self.time_projection_1(F.silu(e_BFC)).unflatten(-1, (6, -1))
    text = self.text_embedding_2(
        F.gelu(self.text_embedding_0(text_BLC), approximate='tanh'))
    x = self.patch_embedding(patchify(x_BFHWC, self.patch))
    for block in self.blocks:
      x = block(x, e_BF6C, text, (self.cos, self.sin))
    shift, scale = (self.head_modulation + e_BFC[:, :, None]
                    ).unsqueeze(3).unbind(2)
    x = self.head(modulated_norm(x, shift, scale))
    return unpatchify(x, (frames, height, width), self.patch)

  def load(self, params):
    """Takes the weights of our parameter tree, layers stacked as scanned."""
    state = self.state_dict()
    for name in state.keys() - {'cos', 'sin'}:
      path = name.split('.')
      layer = int(path.pop(1)) if path[0] == 'blocks' else None
      state[name] = torch.tensor(_leaf(params, path, layer))
    self.load_state_dict(state)


def _leaf(params, path, layer):
  *modules, last = path
  for module in modules:
    params = params[module]
  flax_name = last
  if last == 'weight' and 'weight' not in params:
    flax_name = 'kernel' if 'kernel' in params else 'scale'
  value = np.asarray(params[flax_name])
  value = value if layer is None else value[layer]
  return value.T if flax_name == 'kernel' else value


def modulated_norm(x_BTC, shift_BF1C, scale_BF1C):
  normed = F.layer_norm(x_BTC, x_BTC.shape[-1:], eps=EPSILON)
  frames = shift_BF1C.shape[1]
  return (per_frame(normed, frames) * (1 + scale_BF1C) + shift_BF1C
          ).flatten(1, 2)


def per_frame(x_BTC, frames: int):
  return x_BTC.unflatten(1, (frames, -1))


def sinusoid(timesteps_BF, size: int):
  half = torch.arange(size // 2, device=timesteps_BF.device)
  angle = timesteps_BF[..., None] * 10_000. ** (-half / (size // 2))
  return torch.cat([angle.cos(), angle.sin()], -1)


def rotary_angles(frames: int, grid: tuple[int, int], head_dim: int):
  """[T, D/2]; a third of the channels each for height and width."""
  third = head_dim // 2 // 3
  channels = (head_dim // 2 - 2 * third, third, third)
  axes = torch.meshgrid(
      *(torch.arange(n) for n in (frames, *grid)), indexing='ij')
  return torch.cat([
      position.flatten()[:, None] * 10_000. ** (-torch.arange(n) / n)
      for position, n in zip(axes, channels)], -1)


def rotate(x_BHTD, cos_TD, sin_TD):
  real, imaginary = x_BHTD.unflatten(-1, (-1, 2)).unbind(-1)
  return torch.stack([real * cos_TD - imaginary * sin_TD,
                      real * sin_TD + imaginary * cos_TD], -1).flatten(-2)


def patchify(x_BFHWC, patch):
  """[B, F, H, W, C] -> [B, F N, p q C]."""
  p, q = patch
  x = x_BFHWC.unflatten(3, (-1, q)).unflatten(2, (-1, p))
  return x.transpose(3, 4).flatten(4).flatten(1, 3)


def unpatchify(x_BTC, size, patch):
  """The inverse of `patchify`."""
  (frames, height, width), (p, q) = size, patch
  x = x_BTC.unflatten(1, (frames, height // p, width // q))
  x = x.unflatten(-1, (p, q, -1)).transpose(3, 4)
  return x.flatten(4, 5).flatten(2, 3)

"""Attention: contexts, rotary positions, the KV cache, one entry point.

The shape legend of the whole project:

  B batch              F frames of this call      G key frames (cached + own)
  H heads              N tokens per frame         S slots of a KV cache, frames
  D channels per head  T = F * N query tokens     L layers
  C channels           A action components        P pixel frames

Latents and images are channels last: [B, F, H, W, C], where H and W are height
and width (no array has heads and height at once). Between attention calls
tokens keep their frame axis, [B, F, N, C], so that per-frame modulation
broadcasts; heads of them, at the entry point, are [B, F, N, H, D].
"""

"""Attention on a TPU by JAX's splash kernel, which never stores the logits.

32,760 tokens (21 latent frames of 480p) have 2 GiB of bf16 logits per head; the
kernel keeps a block of them in VMEM and accumulates the softmax (Dao et al.
2022). Layout: [H, T, D] per sample, blocks of at most 512 x 512, and for the
backward pass the same. Sequences are padded to whole blocks; keys that are
padding, or that the caller masks, get another segment than the queries.

The reference is `attend`'s 'xla'. Nothing is differentiated but q, k and v.
"""

import jax
from jax.experimental.pallas.ops.tpu import splash_attention
import jax.numpy as jnp
import numpy as np

kernels = splash_attention.splash_attention_kernel
masks = splash_attention.splash_attention_mask
RESIDUALS = 'attention_output'  # For remat: what the backward pass needs.
LANES = 128  # Blocks are multiples of it.
BLOCKS = (512, 384, 256, LANES)
WASTE = 0.04  # of a sequence, that padding may cost to get a larger block


def attend(q_BTHD, k_BSHD, v_BSHD, key_mask_BS=None, interpret: bool = False):
  """softmax(q kᵀ / √D) v over all pairs of tokens.

  Args:
    q_BTHD, k_BSHD, v_BSHD: float32 or bfloat16.
    key_mask_BS: bool, False for keys that nobody may read; or None.
    interpret: whether to run the kernel's program step by step, anywhere.

  Returns:
    [B, T, H, D] in the dtype of q. A sample without any key gives a mean.
  """
  (batch, tokens, heads, dim), keys = q_BTHD.shape, k_BSHD.shape[1]
  q_block, key_block = block_size(tokens), block_size(keys)
  q, k, v = (
      _padded(x.swapaxes(1, 2), block) for x, block in (
          (q_BTHD * dim ** -0.5, q_block), (k_BSHD, key_block),
          (v_BSHD, key_block)))
  segments = None
  if key_mask_BS is not None or k.shape[2] != keys:
    if key_mask_BS is None:
      key_mask_BS = jnp.ones((batch, keys), bool)
    readable = jnp.pad(key_mask_BS, ((0, 0), (0, k.shape[2] - keys)))
    segments = kernels.SegmentIds(
        q=jnp.ones((batch, q.shape[2]), jnp.int32),
        kv=readable.astype(jnp.int32))
  run = kernels.make_splash_mha(
      masks.MultiHeadMask([masks.FullMask((q.shape[2], k.shape[2]))] * heads),
      block_sizes=_block_sizes(q_block, key_block), head_shards=1,
      q_seq_shards=1, interpret=interpret,
      residual_checkpoint_name=RESIDUALS)
  out = jax.vmap(run)(q, k, v, segments)
  return out[:, :, :tokens].swapaxes(1, 2)


def block_size(tokens: int) -> int:
  """The largest block that pads a sequence little more than it must."""
  least = -(-tokens // LANES) * LANES
  for block in BLOCKS:
    if -(-tokens // block) * block <= max(least, tokens * (1 + WASTE)):
      return block
  return LANES


def _padded(x_BHTD, block: int):
  missing = -x_BHTD.shape[2] % block
  return jnp.pad(x_BHTD, ((0, 0), (0, 0), (0, missing), (0, 0)))


def _block_sizes(q: int, kv: int) -> kernels.BlockSizes:
  return kernels.BlockSizes(
      block_q=q, block_kv=kv, block_kv_compute=kv,
      block_q_dkv=q, block_kv_dkv=kv, block_kv_dkv_compute=kv,
      block_q_dq=q, block_kv_dq=kv)


def fits(q_BTHD, k_BSHD) -> bool:
  """Whether 'auto' should take the kernel: enough work, and a head it can."""
  long_enough = min(q_BTHD.shape[1], k_BSHD.shape[1]) >= LANES
  dtype = np.dtype(q_BTHD.dtype)
  return (long_enough and q_BTHD.shape[-1] % LANES == 0
          and dtype in (jnp.bfloat16, jnp.float32))

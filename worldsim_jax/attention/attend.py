"""The one attention entry of the project.

  out = softmax(q kᵀ / √D + bias + mask) v

Queries and keys come as frames of tokens, [B, F, N, H, D], because masks are
held at frame level and because that is how a sequence is split over devices:
each holds some tokens of every frame (see `attention/sequence.py`).

`implementation`:
  'xla'    written out in jnp; runs everywhere; softmax in float32; the only
           one that takes a bias
  'cudnn'  flash attention through jax.nn.dot_product_attention, NVIDIA GPUs,
           bf16/fp16
  'splash' JAX's kernel for TPUs, see attention/splash.py; without a mask, or
           with one that is the same for all queries
  'auto'   'splash' or 'cudnn' on devices and for shapes that they are made
           for, else 'xla'
An explicit choice that cannot run raises, it never falls back.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import sequence
from worldsim_jax.attention import splash
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.parallel import layout

# From so many logits of a head on, a CPU attends head by head: batched products
# took 1.2 to 2 times as long there, with gradients 1 to 1.5 times (jax 0.10).
_LARGE_HEAD = 2**17
IMPLEMENTATIONS = ('auto', 'xla', 'cudnn', 'splash')


def attend(q_BFNHD, k_BGMHD, v_BGMHD, mask_FG=None,
           implementation: str = 'auto', *, key_mask_BM=None, bias_HNM=None,
           mixture: moc.Mixture | None = None):
  """Attention of the tokens of F frames over those of G key frames.

  Args:
    q_BFNHD: queries, already roped.
    k_BGMHD: keys, likewise: G frames of M tokens (a text is one frame).
    v_BGMHD: values.
    mask_FG: bool, True where a query frame may read a key frame; None for all.
      Of a NumPy mask only the pairs that it allows are computed; an array of
      the program (slots of a cache) is applied to all pairs, and may be [1, G]
      where all query frames read the same.
    implementation: see the module docstring.
    key_mask_BM: bool, for G = 1: False for keys that nobody may read, such as
      the padding of a text; instead of mask_FG.
    bias_HNM: for F = G = 1: what is added to the logits of all samples, such as
      relative positions in a text; not with mask_FG.
    mixture: instead of all masks: each token reads its anchors and the chunks
      that it chooses (attention/moc); the implementation is the mixture's own.
      Queries and keys are of the same frames, unless the choice was made.

  Returns:
    [B, F, N, H, D] in the dtype of q.
  """
  chex.assert_rank([q_BFNHD, k_BGMHD], 5)
  chex.assert_equal_shape([k_BGMHD, v_BGMHD])
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
        f'attention implementation={implementation!r} is not one of '
        f'{IMPLEMENTATIONS} (config.model.attention).')
  if mask_FG is not None and key_mask_BM is not None:
    raise ValueError('attend takes mask_FG or key_mask_BM, not both.')
  if bias_HNM is not None:
    _check_bias(bias_HNM, q_BFNHD, k_BGMHD, mask_FG, implementation)
    implementation = 'xla'
  if mixture is not None:
    _check_mixture(q_BFNHD, k_BGMHD, mixture, mask_FG, key_mask_BM, bias_HNM)
  local = functools.partial(
      _attend_mixture if mixture is not None else
      _attend_allowed if isinstance(mask_FG, np.ndarray) else _attend_frames,
      implementation=implementation)
  return sequence.attend(
      local, q_BFNHD, k_BGMHD, v_BGMHD,
      sequence.Selected(mask_FG, key_mask_BM, bias_HNM, mixture),
      implementation)


def _check_mixture(q_BFNHD, k_BGMHD, mixture, *masks):
  if any(mask is not None for mask in masks):
    raise ValueError('attend takes a mixture without masks and bias.')
  if mixture.selection_BHKT is None and q_BFNHD.shape != k_BGMHD.shape:
    raise ValueError(
        f'queries {q_BFNHD.shape} and keys {k_BGMHD.shape} of a mixture must '
        'be of the same frames.')


def _check_bias(bias_HNM, q_BFNHD, k_BGMHD, mask_FG, implementation):
  (_, frames, tokens, heads, _), keys = q_BFNHD.shape, k_BGMHD.shape[1:3]
  chex.assert_shape(bias_HNM, (heads, tokens, keys[1]))
  if mask_FG is not None or frames != 1 or keys[0] != 1:
    raise ValueError('attend takes a bias between the tokens of one frame, '
                     'without mask_FG.')
  if implementation not in ('auto', 'xla'):
    raise ValueError(f'attention implementation={implementation!r} takes no '
                     "bias; 'xla' does (config.model.attention).")


def _attend_mixture(q_BFNHD, k_BFNHD, v_BFNHD, selected, implementation):
  """Attention of tokens one after the other, frame by frame."""
  del implementation
  flat = lambda x: x.reshape(x.shape[0], -1, *x.shape[3:])
  out = moc.attend(*map(flat, (q_BFNHD, k_BFNHD, v_BFNHD)), selected.mixture)
  return out.reshape(q_BFNHD.shape)


def _attend_allowed(q_BFNHD, k_BGMHD, v_BGMHD, selected, implementation):
  """Attention of each group of frames that read the same frames, one by one."""
  groups = {}  # frames that are read -> frames that read them
  for frame, row in enumerate(selected.mask_FG):
    groups.setdefault(tuple(np.flatnonzero(row)), []).append(frame)
  unmasked = selected._replace(mask_FG=None)
  out = [_attend_frames(_frames(q_BFNHD, readers), _frames(k_BGMHD, read),
                        _frames(v_BGMHD, read), unmasked, implementation)
         for read, readers in groups.items()]
  order = np.argsort(np.concatenate(list(groups.values())))
  return _frames(jnp.concatenate(out, axis=1), order)


def _frames(x_BFNHD, indices):
  """x[:, indices] by slices: the gradient of a gather is slow on CPU."""
  indices = np.asarray(indices)
  if np.array_equal(indices, np.arange(x_BFNHD.shape[1])):
    return x_BFNHD
  breaks = np.flatnonzero(np.diff(indices) != 1) + 1
  runs = [x_BFNHD[:, run[0]:run[-1] + 1]
          for run in np.split(indices, breaks)]
  return jnp.concatenate(runs, axis=1)


def _attend_frames(q_BFNHD, k_BGMHD, v_BGMHD, selected, implementation):
  """All pairs of tokens, by the implementation that was chosen."""
  mask_FG, key_mask_BM, bias_HNM, _ = selected
  q, k, v = (x.reshape(x.shape[0], -1, *x.shape[3:])
             for x in (q_BFNHD, k_BGMHD, v_BGMHD))  # [B, T, H, D]
  if mask_FG is not None and len(mask_FG) == 1:  # The same keys for all.
    key_mask_BM, mask_FG = jnp.broadcast_to(
        jnp.repeat(mask_FG, k_BGMHD.shape[2], axis=1), k.shape[:2]), None
  is_masked = mask_FG is not None or key_mask_BM is not None
  platform = layout.platform()
  if implementation == 'auto':
    implementation = 'xla'
    if platform == 'gpu' and _cudnn_fits(q, is_masked):
      implementation = 'cudnn'
    if platform == 'tpu' and splash.fits(q, k) and mask_FG is None:
      implementation = 'splash'
  for name, needed in (('cudnn', 'gpu'), ('splash', 'tpu')):
    if implementation == name and platform != needed:
      raise ValueError(
          f'attention implementation={name!r} needs a {needed.upper()}, this '
          f'is a {platform} (config.model.attention).')
  if implementation == 'splash':
    if mask_FG is not None:
      raise ValueError("attention implementation='splash' takes no mask that "
                       'differs between query frames (config.model.attention).')
    out = splash.attend(q, k, v, key_mask_BM)
  elif implementation == 'cudnn':
    mask = None if mask_FG is None else _token_mask(mask_FG, q, k)
    if key_mask_BM is not None:
      mask = key_mask_BM[:, None, None, :]
    out = jax.nn.dot_product_attention(
        q, k, v, mask=mask, implementation='cudnn')
  else:
    out = _attend_xla(q, k, v, mask_FG, key_mask_BM, bias_HNM)
  return out.reshape(q_BFNHD.shape)


def _attend_xla(q_BTHD, k_BSHD, v_BSHD, mask_FG, key_mask_BS,
                bias_HTS=None):
  # Heads in front: on CPU the product of [B, T, H, D] operands runs at a tenth
  # of the speed of [B, H, T, D] ones.
  q, k, v = (x.swapaxes(1, 2) for x in (q_BTHD, k_BSHD, v_BSHD))
  is_plain = mask_FG is None and key_mask_BS is None and bias_HTS is None
  is_large = q.shape[2] * k.shape[2] >= _LARGE_HEAD
  if layout.platform() == 'cpu' and is_plain and is_large:
    each = tuple(x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
    out = jax.lax.map(lambda qkv: _attend_heads(*qkv), each).reshape(q.shape)
  else:
    out = _attend_heads(q, k, v, mask_FG, key_mask_BS, bias_HTS)
  return out.swapaxes(1, 2)


def _attend_heads(q, k, v, mask_FG=None, key_mask_BS=None, bias_HTS=None):
  """Of q [B, H, T, D], k and v [B, H, S, D]; B and H are absent for one."""
  scale = q.shape[-1] ** -0.5
  logits = jnp.einsum('...td,...sd->...ts', q * scale, k,
                      preferred_element_type=jnp.float32)
  if bias_HTS is not None:
    logits += bias_HTS
  if mask_FG is not None:
    logits = _mask_frames(logits, mask_FG)
  if key_mask_BS is not None:
    logits = jnp.where(key_mask_BS[:, None, None, :], logits, sequence.MASKED)
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.einsum('...ts,...sd->...td', weights, v)


def _mask_frames(logits_BHTS, mask_FG):
  """Applies the mask by broadcasting over the tokens of each frame pair."""
  frames, key_frames = mask_FG.shape
  batch, heads, tokens, keys = logits_BHTS.shape
  by_frame = logits_BHTS.reshape(
      batch, heads, frames, tokens // frames, key_frames, keys // key_frames)
  masked = jnp.where(mask_FG[:, None, :, None], by_frame, sequence.MASKED)
  return masked.reshape(logits_BHTS.shape)


def _token_mask(mask_FG, q_BTHD, k_BSHD):
  frames, key_frames = mask_FG.shape
  rows = jnp.repeat(mask_FG, q_BTHD.shape[1] // frames, axis=0)
  return jnp.repeat(rows, k_BSHD.shape[1] // key_frames, axis=1)[None, None]


def _cudnn_fits(q_BTHD, is_masked: bool) -> bool:
  return (not is_masked and q_BTHD.dtype in (jnp.bfloat16, jnp.float16)
          and q_BTHD.shape[-1] % 8 == 0 and q_BTHD.shape[-1] <= 128)

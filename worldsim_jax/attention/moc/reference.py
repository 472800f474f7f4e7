"""Mixture of Contexts by its definition: a mask over all pairs, in float32.

For tests and for reading; memory grows with tokens × tokens × heads.
"""

import jax
import jax.numpy as jnp

from worldsim_jax.attention.moc import chunks as chunks_lib


def attend(q_BTHD, k_BTHD, v_BTHD, table: chunks_lib.ChunkTable,
           rules: chunks_lib.Rules, selection_BHKT):
  """softmax(q kᵀ / √D) v over the anchors and the chosen chunks.

  Args:
    q_BTHD, k_BTHD, v_BTHD: of any dtype.
    table: of the sequence.
    rules: who reads what always.
    selection_BHKT: of `routing.select`.

  Returns:
    [B, T, H, D] in the dtype of q; 0 for padding.
  """
  tokens = q_BTHD.shape[1]
  is_padding = jnp.take_along_axis(
      jnp.asarray(table.kind) == chunks_lib.PADDING,
      table.chunk_of_token(tokens), axis=1)[..., None, None]
  q, k, v = (jnp.where(is_padding, 0, x).astype(jnp.float32)
             for x in (q_BTHD, k_BTHD, v_BTHD))
  allowed = mask(table, rules, selection_BHKT, tokens)
  logits = jnp.einsum('bthd,bshd->bhts', q * q.shape[-1]**-0.5, k,
                      precision='highest')
  logits = jnp.where(allowed, logits, -jnp.inf)
  # A row without keys, which only padding is, would be 0 / 0.
  is_empty = ~allowed.any(axis=-1, keepdims=True)
  weights = jax.nn.softmax(jnp.where(is_empty, 0, logits), axis=-1)
  out = jnp.einsum('bhts,bshd->bthd', jnp.where(is_empty, 0, weights), v,
                   precision='highest')
  return jnp.where(is_padding, 0, out).astype(q_BTHD.dtype)


def mask(table: chunks_lib.ChunkTable, rules: chunks_lib.Rules, selection_BHKT,
         num_tokens: int):
  """bool [B, H, T, T]: whether a query (row) reads a key (column)."""
  chunk_BT = table.chunk_of_token(num_tokens)
  own_BC = of_anchors(table, rules)
  by_token = lambda x_BCC: jax.vmap(
      lambda x, chunk: x[chunk][:, chunk])(x_BCC, chunk_BT)
  is_chosen = (selection_BHKT[..., None]
               == chunk_BT[:, None, None, None]).any(axis=2)
  return by_token(own_BC)[:, None] | is_chosen


def of_anchors(table: chunks_lib.ChunkTable, rules: chunks_lib.Rules):
  """bool [B, C, C]: whether a chunk (row) always reads a chunk (column)."""
  shot, kind = jnp.asarray(table.shot), jnp.asarray(table.kind)
  q, k = shot[:, :, None], shot[:, None]
  is_text = (kind == chunks_lib.TEXT)[:, None]
  is_video = (kind == chunks_lib.VIDEO)[:, None]
  latest = q if rules.causal else q + rules.window
  reads_video = is_video & (q >= 0) & (k >= q - rules.window) & (k <= latest)
  reads_text = is_text & {
      'all': jnp.ones_like(k == q),
      'causal': k <= q,
      'own': (k == q) | (k == chunks_lib.GLOBAL),
  }[rules.text_scope]
  is_used = kind != chunks_lib.PADDING
  return (reads_video | reads_text) & is_used[:, :, None] & is_used[:, None]

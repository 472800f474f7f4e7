"""Mixture of Contexts by its definition: a mask over all pairs, in float32.

For tests and for reading; memory grows with tokens × tokens × heads.
"""

import jax
import jax.numpy as jnp

from worldsim_jax.attention.moc import chunks as chunks_lib


def attend(q_BTHD, k_BSHD, v_BSHD, table: chunks_lib.ChunkTable,
           rules: chunks_lib.Rules, selection_BHKT, queries=None):
  """softmax(q kᵀ / √D) v over the anchors and the chosen chunks.

  Args:
    q_BTHD, k_BSHD, v_BSHD: of any dtype.
    table: of the keys.
    rules: who reads what always.
    selection_BHKT: of `routing.select`.
    queries: their table, if they are others than the keys' tokens.

  Returns:
    [B, T, H, D] in the dtype of q; 0 for padding.
  """
  queries = queries or table
  no_query, no_key = (
      _is_padding(x, table)[..., None, None]
      for x, table in ((q_BTHD, queries), (k_BSHD, table)))
  q = jnp.where(no_query, 0, q_BTHD).astype(jnp.float32)
  k, v = (jnp.where(no_key, 0, x).astype(jnp.float32)
          for x in (k_BSHD, v_BSHD))
  allowed = mask(table, rules, selection_BHKT, k.shape[1], queries)
  logits = jnp.einsum('bthd,bshd->bhts', q * q.shape[-1]**-0.5, k,
                      precision='highest')
  logits = jnp.where(allowed, logits, -jnp.inf)
  # A row without keys, which only padding is, would be 0 / 0.
  is_empty = ~allowed.any(axis=-1, keepdims=True)
  weights = jax.nn.softmax(jnp.where(is_empty, 0, logits), axis=-1)
  out = jnp.einsum('bhts,bshd->bthd', jnp.where(is_empty, 0, weights), v,
                   precision='highest')
  return jnp.where(no_query, 0, out).astype(q_BTHD.dtype)


def mask(table: chunks_lib.ChunkTable, rules: chunks_lib.Rules, selection_BHKT,
         num_keys: int, queries=None):
  """bool [B, H, T, S]: whether a query (row) reads a key (column)."""
  chunk_BT = (queries or table).chunk_of_token(selection_BHKT.shape[-1])
  chunk_BS = table.chunk_of_token(num_keys)
  by_token = jax.vmap(lambda x, own, read: x[own][:, read])(
      of_anchors(table, rules, queries), chunk_BT, chunk_BS)
  is_chosen = (selection_BHKT[..., None]
               == chunk_BS[:, None, None, None]).any(axis=2)
  return by_token[:, None] | is_chosen


def of_anchors(table: chunks_lib.ChunkTable, rules: chunks_lib.Rules,
               queries=None):
  """bool [B, C', C]: whether a chunk of queries always reads one of keys."""
  queries = queries or table
  kind = jnp.asarray(table.kind)[:, None]
  q, k = (jnp.asarray(queries.shot)[:, :, None],
          jnp.asarray(table.shot)[:, None])
  latest = q if rules.causal else q + rules.window
  reads_video = (kind == chunks_lib.VIDEO) & (q >= 0) & (
      k >= q - rules.window) & (k <= latest)
  reads_text = (kind == chunks_lib.TEXT) & {
      'all': jnp.ones_like(k == q),
      'causal': k <= q,
      'own': (k == q) | (k == chunks_lib.GLOBAL),
  }[rules.text_scope]
  is_used = jnp.asarray(queries.kind) != chunks_lib.PADDING
  return (reads_video | reads_text) & is_used[:, :, None]


def _is_padding(x_BTHD, table: chunks_lib.ChunkTable):
  """bool [B, T]."""
  return jnp.take_along_axis(
      jnp.asarray(table.kind) == chunks_lib.PADDING,
      table.chunk_of_token(x_BTHD.shape[1]), axis=1)

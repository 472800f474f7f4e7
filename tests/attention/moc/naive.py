"""Mixture of Contexts, query by query in float64, from the paper's text."""

import numpy as np

from worldsim_jax.attention.moc import chunks


def runs(table, sample: int):
  """(tokens of each chunk, shot, kind) of a sample, without empty chunks."""
  found, first = [], 0
  for size, shot, kind in zip(*(
      np.asarray(x)[sample] for x in (table.size, table.shot, table.kind))):
    found.append((range(first, first + size), int(shot), int(kind)))
    first += size
  return found


def is_anchor(rules, shot: int, other: int, kind: int) -> bool:
  """Whether a query of a shot always reads a chunk of another."""
  if kind == chunks.TEXT:
    if rules.text_scope == 'all':
      return True
    if rules.text_scope == 'causal':
      return other <= shot
    return other in (shot, chunks.GLOBAL)
  if kind == chunks.PADDING or shot == chunks.GLOBAL:
    return False
  later = 0 if rules.causal else rules.window
  return shot - rules.window <= other <= shot + later


def is_candidate(rules, shot: int, other: int, kind: int) -> bool:
  """Whether a query of a shot may be routed to a chunk of another."""
  if kind != chunks.VIDEO or shot == chunks.GLOBAL:
    return False
  return (not is_anchor(rules, shot, other, kind)
          and (other < shot or not rules.causal))


def attend(q, k, v, table, rules, top_k: int):
  """(out [B, T, H, D], chosen chunks as sets by (sample, token, head))."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  out, chosen = np.zeros_like(q), {}
  for b in range(len(q)):
    found = runs(table, b)
    for tokens, shot, kind in found:
      if kind == chunks.PADDING:
        continue
      for t in tokens:
        for h in range(q.shape[2]):
          read, scores = [], []
          for c, (keys, other, other_kind) in enumerate(found):
            if is_anchor(rules, shot, other, other_kind):
              read += keys
            elif keys and is_candidate(rules, shot, other, other_kind):
              scores.append((-q[b, t, h] @ k[b, list(keys), h].mean(0), c))
          best = sorted(scores)[:top_k]
          chosen[b, t, h] = {c for _, c in best}
          for _, c in best:
            read += found[c][0]
          logits = k[b, read, h] @ q[b, t, h] / np.sqrt(q.shape[-1])
          weights = np.exp(logits - logits.max())
          out[b, t, h] = weights @ v[b, read, h] / weights.sum()
  return out, chosen

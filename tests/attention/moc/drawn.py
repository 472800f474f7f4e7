"""Drawn sequences of chunks, alike in all tests of the mixture."""

import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention.moc import chunks

V, X, P = chunks.VIDEO, chunks.TEXT, chunks.PADDING
TOKENS = 96


def samples(seed: int, batch: int = 2):
  """Ragged chunks of a few shots with and without texts; TOKENS tokens each."""
  dice = np.random.default_rng(seed)
  return [_sample(dice) for _ in range(batch)]


def _sample(dice):
  found, left = [], TOKENS - int(dice.integers(0, 9))
  if dice.integers(2):
    found.append((int(dice.integers(1, 4)), chunks.GLOBAL, X))
  shot = 0
  while left - sum(size for size, _, _ in found) > 20:
    if dice.integers(3):
      found.append((int(dice.integers(1, 5)), shot, X))
    for _ in range(int(dice.integers(1, 4))):
      found.append((int(dice.choice([1, 3, 7, 8, 9, 12])), shot, V))
    shot += 1
  total = lambda: sum(size for size, _, _ in found)
  while total() > TOKENS:
    found.pop()
  if total() < TOKENS:
    found.append((TOKENS - total(), 0, P))
  return found


def table(seed: int, batch: int = 2):
  """The table of `samples`, the same shapes for all seeds."""
  return chunks.table(samples(seed, batch), num_chunks=40, num_shots=16,
                      num_texts=12)


def queries_keys_values(seed: int, batch: int = 2, heads: int = 2,
                        dim: int = 8, dtype=jnp.float32, tokens=TOKENS):
  dice = np.random.default_rng(seed)
  return [jnp.asarray(dice.normal(size=(batch, tokens, heads, dim)), dtype)
          for _ in range(3)]

"""A Mixture of Contexts for whole films: who reads whom, from a batch.

A clip goes over cuts, and `shot_id` says where they are. Every latent frame
reads its own shot, and what it chooses of earlier ones (attention/moc); where
each shot has a text of its own, it reads that one.
"""

import jax
import jax.numpy as jnp

from worldsim_jax.attention import context as contexts
from worldsim_jax.attention import sequence
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import routing
from worldsim_jax.attention.moc.executors import blocks as blocks_lib


def context(batch, config, *, tokens_per_frame: int, num_shots: int,
            num_heads: int, num_layers: int, rng=None):
  """The `AttentionContext` of a batch of films.

  Args:
    batch: has `latents` [B, F, ...] and `shot_id` [B, F], which grows by any
      step at every cut.
    config: chunk (tokens; 0 for a latent frame), top_k, window, drop_off,
      drop_in, implementation.
    tokens_per_frame: N.
    num_shots: an upper bound of a clip's.
    num_heads, num_layers: of the model.
    rng: of the step, for dropping; None at inference.
  """
  shot_BF = shots(batch['shot_id'])
  samples, frames = shot_BF.shape
  rules = chunks.Rules(window=config.window)
  blocks = blocks_lib.of_device()
  table = chunks.of_shot_ids(
      shot_BF, tokens_per_frame, config.chunk or tokens_per_frame, num_shots)
  drops = rng is not None and bool(config.drop_off or config.drop_in)
  mixture = moc.Mixture(
      moc.plan(table, rules, frames * tokens_per_frame, blocks,
               sequence.query_parts(tokens_per_frame, num_heads)),
      jax.random.split(rng, (num_layers, samples, num_heads)) if drops
      else None, rules,
      routing.Routing(config.top_k, config.drop_off, config.drop_in), blocks,
      config.implementation)
  return contexts.AttentionContext(
      jnp.arange(frames), texts=shot_BF, mixture=mixture)


def shots(shot_id_BF):
  """The number of each frame's shot in its clip, int32 [B, F], from 0."""
  is_cut = jnp.diff(shot_id_BF, axis=1) != 0
  return jnp.pad(jnp.cumsum(is_cut, axis=1), ((0, 0), (1, 0))).astype(
      jnp.int32)

"""Who reads whom in films of several shots, and of students that recall.

`shot_id` says where the cuts are. Where each shot has a text of its own, a
frame reads that one. Without a mixture all frames read each other, which is how
such a model is trained first; with one (attention/moc) a frame reads its own
shot, and what it chooses of earlier ones.
"""

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.attention import context as contexts
from worldsim_jax.attention import sequence
from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.attention.moc import chunks
from worldsim_jax.attention.moc import routing
from worldsim_jax.attention.moc.executors import blocks as blocks_lib
from worldsim_jax.models import build

PASTS = ('all', 'student')


def of_stage(name: str, config):
  """Contexts of the clips of a stage, (shot_id [B, F], rng) -> context.

  None for a stage whose clips are of one shot: all frames read each other.
  """
  stage = config[name]
  if stage.get('shots', 1) == 1:
    return None
  own = build.for_network(config, name)

  def of_clips(shot_id_BF, rng=None):
    return context(
        shots(shot_id_BF), stage.moc, num_shots=stage.shots,
        tokens_per_frame=build.tokens_per_frame(own),
        num_heads=build.num_heads(own), num_layers=own.model.num_layers,
        has_texts=bool(config.text.dim and config.text.per_shot), rng=rng)

  return of_clips


def of_past(name: str, config):
  """Contexts of a student's clips, (batch size) -> context; None for all past.

  With config.<stage>.past='student', what a stream reads of its cache, of the
  whole clip at once. A student that recalls (attention/moc/recall.py) has a
  mixture: the frames are chunks, those that are denoised together are a shot,
  and the first ones, which are always read, are what texts are elsewhere.
  """
  student = config.student
  if config[name].get('past', 'all') == 'all':
    return None
  if not student.get('recall'):
    read = contexts.block_causal(
        config[name].clip_frames, student.chunk, student.window, student.sink)
    return lambda batch: read
  own, frames = build.for_network(config, name), config[name].clip_frames
  tokens, top_k = build.tokens_per_frame(own), student.recall.top_k
  rules = chunks.Rules(
      text_scope='causal', window=student.window // student.chunk)
  kind = lambda f: chunks.TEXT if f < student.sink else chunks.VIDEO
  of_film = [(tokens, f // student.chunk, kind(f)) for f in range(frames)]

  def of_batch(batch: int):
    table = chunks.table([of_film] * batch)
    split = sequence.query_split(tokens, build.num_heads(own))
    plan = moc.plan(table, rules, frames * tokens,
                    blocks_lib.of_device(tokens, top_k / split.parts), split)
    return contexts.AttentionContext(jnp.arange(frames), mixture=moc.Mixture(
        plan, None, routing.Routing(top_k), student.recall.implementation,
        keys=round(tokens * frames_read(table, rules, top_k))))

  return of_batch


def context(shot_BF, config, *, num_shots: int, tokens_per_frame: int,
            num_heads: int, num_layers: int, has_texts: bool, rng=None):
  """The `AttentionContext` of films.

  Args:
    shot_BF: int32, of `shots`.
    config: of a mixture: chunk (tokens; 0 for a latent frame), top_k, window,
      drop_off, drop_in, implementation. Empty for none.
    num_shots: an upper bound of a clip's.
    tokens_per_frame: N.
    num_heads, num_layers: of the model.
    has_texts: whether each shot has its own.
    rng: of the step, for dropping; None at inference.
  """
  frames = shot_BF.shape[1]
  found = contexts.AttentionContext(
      jnp.arange(frames), texts=shot_BF if has_texts else None)
  if not config:
    return found
  return found.replace(mixture=_mixture(
      shot_BF, config, num_shots, tokens_per_frame, num_heads, num_layers, rng))


def _mixture(shot_BF, config, num_shots, tokens_per_frame, num_heads,
             num_layers, rng):
  samples, frames = shot_BF.shape
  rules = chunks.Rules(window=config.window)
  chunk = config.chunk or tokens_per_frame
  table = chunks.of_shot_ids(shot_BF, tokens_per_frame, chunk, num_shots)
  split = sequence.query_split(tokens_per_frame, num_heads)
  plan = moc.plan(table, rules, frames * tokens_per_frame,
                  blocks_lib.of_device(chunk, config.top_k / split.parts),
                  split)
  drops = rng is not None and (config.drop_off or config.drop_in)
  rngs = (jax.random.split(rng, (num_layers, samples, num_heads)) if drops
          else None)
  return moc.Mixture(
      plan, rngs,
      routing.Routing(config.top_k, config.drop_off, config.drop_in),
      config.implementation,
      keys=keys_read(frames * tokens_per_frame, num_shots, chunk, config.top_k,
                     config.window))


def keys_read(tokens: int, num_shots: int, chunk: int, top_k: int,
              window: int = 0) -> int:
  """Keys that a query reads in the mean, in films of equally long shots."""
  shot = tokens // num_shots
  of_shot = lambda s: (min(s, window) + 1) * shot + min(
      top_k * chunk, max(s - window, 0) * shot)
  return sum(map(of_shot, range(num_shots))) // num_shots


def frames_read(table: chunks.ChunkTable, rules: chunks.Rules,
                top_k: int) -> float:
  """The same of a student that recalls, in frames, of its first sample.

  Args:
    table: on the host; of equal chunks, which are frames.
    rules: causal ones.
    top_k: frames that are chosen.
  """
  shot, is_sink = table.shot[0], table.kind[0] == chunks.TEXT
  ago = shot[:, None] - shot
  always = (ago >= 0) & (is_sink | (ago <= rules.window))
  others = (ago > rules.window) & ~is_sink
  return np.mean(always.sum(1) + np.minimum(others.sum(1), top_k))


def shots(shot_id_BF):
  """The number of each frame's shot in its clip, int32 [B, F], from 0."""
  is_cut = jnp.diff(shot_id_BF, axis=1) != 0
  return jnp.pad(jnp.cumsum(is_cut, axis=1), ((0, 0), (1, 0))).astype(
      jnp.int32)

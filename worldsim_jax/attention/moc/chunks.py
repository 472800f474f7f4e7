"""The chunks of a sequence: what may be read, and by whom always.

A chunk is a run of tokens of one shot and of one kind. What a film is cut into
is data: frames, pieces of a shot, captions. With chunks in a table, ragged
lengths and different cuts of each sample are one program.

  shot     queries always read the whole shot that they are in. In a film of one
           shot make every chunk its own (`of_frames`), or all attend to all
  text     always read by the queries in its scope, never routed to. A text of
           shot GLOBAL belongs to the whole film
  padding  read by nobody; its outputs are 0, whatever is in it

`Rules` says who is in whose scope. With causal=True a query is routed to chunks
of earlier shots only: the graph of chunks has no cycle, and shot 0 has nothing
to be routed to. `text_scope`:

  'all'     all texts, those of later shots included: the paper's rule, which
            tells a film that is generated shot by shot what comes next
  'causal'  texts of the own and earlier shots, and global ones
  'own'     texts of the own shot, and global ones
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

VIDEO, TEXT, PADDING = range(3)
GLOBAL = -1
TEXT_SCOPES = ('all', 'causal', 'own')


class Rules(NamedTuple):
  """Who reads what, besides its own shot.

  Attributes:
    causal: whether queries are routed to earlier shots only.
    text_scope: of TEXT_SCOPES.
    window: so many shots beside the own one are always read as well (earlier
      ones; without `causal` also later ones).
  """
  causal: bool = True
  text_scope: str = 'all'
  window: int = 0


class Split(NamedTuple):
  """How devices share queries: each has as many tokens of every frame.

  Attributes:
    parts: devices.
    frame: tokens of a frame.
  """
  parts: int = 1
  frame: int = 1


@flax.struct.dataclass
class ChunkTable:
  """The chunks of each sample, in the order of their tokens.

  Attributes:
    size: int32 [B, C], tokens of each chunk; 0 for one that is not used.
    shot: int32 [B, C], from 0; GLOBAL for a text of the whole film.
    kind: int32 [B, C]: VIDEO, TEXT or PADDING.
    num_shots, num_texts: upper bounds for the shots and texts of a sample, a
      part of the program.
  """
  size: jax.Array
  shot: jax.Array
  kind: jax.Array
  num_shots: int = flax.struct.field(pytree_node=False)
  num_texts: int = flax.struct.field(pytree_node=False)

  @property
  def batch(self) -> int:
    return self.size.shape[0]

  @property
  def num_chunks(self) -> int:
    return self.size.shape[1]

  def first(self) -> jax.Array:
    """The first token of each chunk, int32 [B, C]."""
    return jnp.cumsum(self.size, axis=1) - self.size

  def chunk_of_token(self, num_tokens: int) -> jax.Array:
    """int32 [B, T]."""
    ends = jnp.cumsum(self.size, axis=1)
    token = jnp.arange(num_tokens)
    return jax.vmap(
        lambda end: jnp.searchsorted(end, token, side='right'))(ends).astype(
            jnp.int32)

  def shot_of_token(self, num_tokens: int) -> jax.Array:
    """int32 [B, T]; GLOBAL for padding, which is of no shot."""
    shot_BC = jnp.where(
        jnp.asarray(self.kind) == PADDING, GLOBAL, self.shot)
    return jnp.take_along_axis(
        shot_BC, self.chunk_of_token(num_tokens), axis=1)

  def part(self, parts: int) -> 'ChunkTable':
    """Of a sequence that has one of `parts` equal parts of every shot."""
    if parts == 1:
      return self
    ends = jnp.cumsum(self.size, axis=1) // parts
    return self.replace(size=jnp.diff(ends, axis=1, prepend=0))


def table(samples, num_chunks: int = 0, num_shots: int = 0,
          num_texts: int = 0) -> ChunkTable:
  """A table from a list of (tokens, shot, kind) for each sample, on the host.

  Args:
    samples: of each, its chunks in the order of the tokens; equally many
      tokens in all.
    num_chunks, num_shots, num_texts: what the program must hold at least, so
      that it serves other tables, too; chunks that are not there are empty.

  Raises:
    ValueError: if a chunk is empty or of a negative shot, or the samples differ
      in length.
  """
  count = lambda is_one: max(sum(map(is_one, chunks)) for chunks in samples)
  num_chunks = max(num_chunks, *map(len, samples))
  num_texts = max(num_texts, count(lambda chunk: chunk[2] == TEXT))
  num_shots = max(num_shots, 1, *(
      shot + 1 for chunks in samples for _, shot, _ in chunks))
  lengths = [sum(size for size, _, _ in chunks) for chunks in samples]
  for i, chunks in enumerate(samples):
    if lengths[i] != lengths[0]:
      raise ValueError(
          f'the chunks of sample {i} have {lengths[i]} tokens, those of sample '
          f'0 {lengths[0]}: fill the shorter one with a chunk of padding.')
    for j, (size, shot, kind) in enumerate(chunks):
      least = GLOBAL if kind == TEXT else 0
      if size < 1 or shot < least:
        raise ValueError(
            f'chunk {j} of sample {i} has {size} tokens of shot {shot}: it '
            f'must have at least 1, of shot {least} or later.')
  filled = [[*chunks, *[(0, 0, PADDING)] * (num_chunks - len(chunks))]
            for chunks in samples]
  size, shot, kind = np.moveaxis(np.asarray(filled, np.int32), -1, 0)
  return ChunkTable(size, shot, kind, num_shots, num_texts)


def of_frames(num_frames: int, tokens_per_frame: int,
              batch: int = 1) -> ChunkTable:
  """Every frame is a chunk and its own shot: a film of one shot, no text."""
  frames = [(tokens_per_frame, f, VIDEO) for f in range(num_frames)]
  return table([frames] * batch)


def of_shot_ids(shot_BF, tokens_per_frame: int, chunk: int,
                num_shots: int) -> ChunkTable:
  """Chunks of films without text, each film cut where it is; in a program.

  Args:
    shot_BF: int32, the shot of each frame: 0 for the first, one more at every
      cut.
    tokens_per_frame: N.
    chunk: tokens of a chunk; the last of a shot has what is left.
    num_shots: an upper bound.
  """
  tokens = shot_BF.shape[1] * tokens_per_frame
  shot_BT = jnp.repeat(shot_BF, tokens_per_frame, axis=1)
  token = jnp.arange(tokens)
  is_cut = jnp.diff(shot_BT, axis=1, prepend=-1) != 0
  begin = jax.lax.cummax(jnp.where(is_cut, token, 0), axis=1)
  chunk_BT = jnp.cumsum((token - begin) % chunk == 0, axis=1) - 1
  count = tokens // chunk + num_shots
  size = jax.vmap(lambda at: jnp.zeros(count, jnp.int32).at[at].add(1))(
      chunk_BT)
  shot = jax.vmap(lambda at, shot: jnp.zeros(count, jnp.int32).at[at].max(
      shot))(chunk_BT, shot_BT.astype(jnp.int32))
  kind = jnp.where(size > 0, VIDEO, PADDING)
  return ChunkTable(size, shot, kind, num_shots=num_shots, num_texts=0)


def of_shots(shot_tokens, chunk: int, text_tokens: int = 0):
  """Chunks of a film of several shots, each with its caption in front.

  Args:
    shot_tokens: of each shot, its tokens without the text.
    chunk: tokens of a chunk; the last of a shot has what is left.
    text_tokens: of each shot's caption.

  Returns:
    A list for `table`.
  """
  if chunk < 1:
    raise ValueError(f'chunk={chunk} must be at least 1 (config.moc.chunk).')
  found = []
  for shot, tokens in enumerate(shot_tokens):
    if text_tokens:
      found.append((text_tokens, shot, TEXT))
    for first in range(0, tokens, chunk):
      found.append((min(chunk, tokens - first), shot, VIDEO))
  return found


def check(chunks: ChunkTable, rules: Rules, num_tokens: int,
          split: Split = Split()):
  """Compares a table with the sequence that it is for.

  Raises:
    ValueError: if it does not cover the sequence, has more than it says, or a
      shot that devices cannot share (tables that a program computes cannot be
      asked), or a rule is unknown.
  """
  check_rules(rules)
  columns = chunks.size, chunks.shot, chunks.kind
  if any(isinstance(x, jax.core.Tracer) for x in columns):
    return
  for i, (size, shot, kind) in enumerate(zip(*map(np.asarray, columns))):
    if size.sum() != num_tokens:
      raise ValueError(f'the chunks of sample {i} cover {size.sum()} tokens, '
                       f'but the sequence has {num_tokens}.')
    shots = 1 + shot[kind != PADDING].max(initial=-1)
    texts = np.count_nonzero(kind == TEXT)
    if shots > chunks.num_shots or texts > chunks.num_texts:
      raise ValueError(
          f'sample {i} has {shots} shots and {texts} texts, more than its '
          f'table says: num_shots={chunks.num_shots}, num_texts='
          f'{chunks.num_texts}.')
    _check_split(i, size, np.where(kind == PADDING, GLOBAL - 1, shot), split)


def _check_split(sample: int, size_C, shot_C, split: Split):
  """Whether shots, and runs of padding, end where frames do."""
  if split.parts == 1:
    return
  size, shot = size_C[size_C > 0], shot_C[size_C > 0]
  for end in np.cumsum(size)[np.append(np.diff(shot) != 0, True)]:
    if end % split.frame:
      raise ValueError(
          f'a shot of sample {sample} ends with token {end}, within a frame of '
          f'{split.frame} tokens that {split.parts} devices share '
          '(config.mesh.context).')


def check_rules(rules: Rules):
  """Raises ValueError for rules that cannot be."""
  if rules.text_scope not in TEXT_SCOPES:
    raise ValueError(
        f'text_scope={rules.text_scope!r} is not one of {TEXT_SCOPES}.')
  if rules.window < 0:
    raise ValueError(f'window={rules.window} must be at least 0 '
                     '(config.moc.window).')

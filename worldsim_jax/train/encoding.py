"""Films to latents: episodes of frames in, episodes of latents out.

Every shot is encoded as a film of its own, so that no latent frame is of two.
Successive ones of one length are encoded together, several on each local
device; the host reads the next ones meanwhile. Lengths are rounded up, by a
sixteenth at most, so that films of any length need few programs. The frames
added repeat the last one, and what they are encoded to is cut off: a causal
tokenizer's other latents do not see them.
"""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from worldsim_jax.data import shards
from worldsim_jax.data import shots
from worldsim_jax.data.actions import ActionSpace
from worldsim_jax.errors import UserError
from worldsim_jax.forcing import batches
from worldsim_jax.models import pixels
from worldsim_jax.models import text_encoder
from worldsim_jax.models import tiling

# Of frames at once on a device: one clip of 81 frames of 480x832.
PIXELS = 2**25
EPISODES = 8  # at once on a device, at most
DTYPES = ('float32', 'bfloat16', 'float16')
KIND = 'shots'  # Of latents: sets of older kinds are not taken for them.
IS_LAST = 'is_last'  # whether a shot is the last one of its film


class Encoder:
  """Makes latents, grouped actions and, for models with text, embeddings.

  It is a function of an iterator of episodes that remembers nothing between
  calls, as `records.derive` wants it.

  Attributes:
    name: changes when what it makes does.
    metadata: for the record set.
  """

  def __init__(self, config, vae, variables, dtype: str = 'float32'):
    """Takes the tokenizer and the type in which latents and text are stored."""
    if dtype not in DTYPES:
      raise UserError(f'--latent_dtype={dtype} is not one of '
                      f'{", ".join(DTYPES)}.')
    text = config.text
    self._vae, self._dtype = vae, jnp.dtype(dtype)
    self._per_shot = text.get('per_shot', False)
    self._embed = None
    if text.dim:
      self._embed = text_encoder.of_config(text)
    weights = digest(variables)
    self.name = (f'{KIND}-{weights}-{text_encoder.name_of(text)}'
                 f'{"-per-shot" * self._per_shot}-{dtype}')
    self.metadata = {
        'latents': {'tokenizer': weights, 'dtype': dtype,
                    'text_encoder': text.encoder},
        'padded': {'text': text.length} if text.dim else {}}
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), ('data',))
    self._sharding = jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec('data'))
    self._variables = jax.device_put(variables, jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec()))
    self._encode = jax.jit(functools.partial(_encode, vae, self._dtype))

  def __call__(self, episodes):
    """Yields the latents of each episode in order; Damaged stays as it is."""
    shots_of_film = []
    for made in self._encoded(self._shots(episodes)):
      if isinstance(made, shards.Damaged):
        yield made
        continue
      shots_of_film.append(made)
      if made.pop(IS_LAST):
        yield _joined(shots_of_film)
        shots_of_film = []

  def _shots(self, episodes):
    """Yields shot after shot, each with its own caption if that is wanted."""
    for episode in episodes:
      if isinstance(episode, shards.Damaged):
        yield episode
        continue
      parts = shots.split(episode)
      captions = _captions(episode, len(parts)) if self._per_shot else None
      for number, part in enumerate(parts):
        if captions:
          part['caption'] = captions[number]
        yield part | {IS_LAST: number == len(parts) - 1}

  def _encoded(self, episodes):
    """Yields what is made of each film of one shot."""
    in_work = None
    for batch in self._batches(episodes):
      if isinstance(batch, shards.Damaged):
        yield batch
        continue
      launched = batch, self._launch(batch)
      if in_work is not None:
        yield from self._finish(*in_work)
      in_work = launched
    if in_work is not None:
      yield from self._finish(*in_work)

  def batch_size(self, shape_THWC) -> int:
    """Episodes of one shape that are encoded at once."""
    pixels = int(np.prod(shape_THWC[:3]))
    per_device = min(EPISODES, max(1, PIXELS // pixels))
    return per_device * len(self._sharding.device_set)

  def _batches(self, episodes):
    """Lists of successive episodes of one shape."""
    batch = []
    for episode in episodes:
      if isinstance(episode, shards.Damaged):
        yield episode
        continue
      shape = episode['rgb'].shape
      if batch and (shape != batch[0]['rgb'].shape
                    or len(batch) == self.batch_size(shape)):
        yield batch
        batch = []
      batch.append(episode)
    if batch:
      yield batch

  def _launch(self, batch):
    """Starts to encode a batch, filled up to its full size."""
    shape = batch[0]['rgb'].shape
    frames = 1 + self._vae.time_stride * (
        _rounded(self._latents(shape[0])) - 1)
    full = batch + batch[-1:] * (self.batch_size(shape) - len(batch))
    actions = [ActionSpace().normalise(film['actions']) for film in full]
    made = self._encode(self._variables, *jax.device_put(
        (np.stack([_fitted(film['rgb'], frames) for film in full]),
         np.stack([_fitted(rows, frames) for rows in actions])),
        self._sharding))
    if self._embed is not None:
      made['text'] = self._embed([film['caption'] for film in full])
    return made

  def _finish(self, batch, computed):
    computed = jax.device_get(computed)
    for index, episode in enumerate(batch):
      count = self._latents(len(episode['rgb']))
      made = {name: computed[name][index, :count]
              for name in ('latents', 'actions')}
      if 'text' in computed:
        text = computed['text'][index].astype(self._dtype)
        made['text'] = text[:, None] if self._per_shot else text
      if 'shot_id' in episode:
        made['shot_id'] = np.repeat(episode['shot_id'][:1], count)
      yield made | {IS_LAST: episode[IS_LAST]}

  def _latents(self, frames: int) -> int:
    return 1 + (frames - 1) // self._vae.time_stride


def _captions(episode, num_shots: int) -> list[str]:
  """One of each shot.

  Raises:
    UserError: if there are others.
  """
  lines = episode.get('shot_captions', '').split('\n')
  if len(lines) != num_shots:
    raise UserError(
        f'a film of {num_shots} shots has {len(lines)} lines of shot_captions; '
        'text for each shot (config.text.per_shot) needs a line of each '
        '(config.data.shot_captions).')
  return lines


def _joined(parts):
  """A film of its shots; texts of shots side by side, [L, shots, C]."""
  joined = {name: np.concatenate([part[name] for part in parts])
            for name in parts[0] if name != 'text'}
  if 'text' in parts[0]:
    text = parts[0]['text']
    if text.ndim == 3:
      text = np.concatenate([part['text'] for part in parts], axis=1)
    joined['text'] = _without_end(text)
  return joined


def digest(variables) -> str:
  """A name for a set of weights."""
  digest_ = hashlib.sha256()
  for leaf in jax.tree.leaves(variables):
    digest_.update(np.asarray(leaf).tobytes())
  return digest_.hexdigest()[:12]


def _encode(vae, dtype, variables, rgb_BPHWC, actions_BPA):
  latents = tiling.encode(
      vae, variables, pixels.to_float(rgb_BPHWC), chunk=vae.chunk)
  return {'latents': latents.astype(dtype),
          'actions': batches.group_actions(actions_BPA, vae.time_stride)}


def _fitted(x, length: int):
  """Cut to a length, or the last row repeated up to it."""
  rest = [(0, max(0, length - len(x)))] + [(0, 0)] * (x.ndim - 1)
  return np.pad(x[:length], rest, mode='edge')


def _rounded(count: int) -> int:
  """The next number of at most five binary digits, zeros behind them."""
  step = 2**max(0, count.bit_length() - 5)
  return -(-count // step) * step


def _without_end(text):
  """Without the zeros behind the last token; `records.Source` adds them."""
  told = text.any(axis=tuple(range(1, text.ndim)))
  return text[:len(told) - np.argmax(told[::-1]) if told.any() else 0]

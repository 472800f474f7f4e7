"""Films to latents: episodes of frames in, episodes of latents out.

Successive episodes of one length are encoded together, several on each local
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
    self._embed = None
    if text.dim:
      self._embed = text_encoder.of_config(text)
    weights = digest(variables)
    self.name = f'latents-{weights}-{text_encoder.name_of(text)}-{dtype}'
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
    stride = self._vae.time_stride
    for index, episode in enumerate(batch):
      count = self._latents(len(episode['rgb']))
      made = {name: computed[name][index, :count]
              for name in ('latents', 'actions')}
      if 'text' in computed:
        text = _without_end(computed['text'][index])
        made['text'] = text.astype(self._dtype)
      if 'shot_id' in episode:  # Whole groups of frames only.
        made['shot_id'] = shots.grouped(
            episode['shot_id'][:1 + stride * (count - 1)], stride)
      yield made

  def _latents(self, frames: int) -> int:
    return 1 + (frames - 1) // self._vae.time_stride


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


def _without_end(text_LC):
  """Without the zeros behind the last token; `records.Source` adds them."""
  told = text_LC.any(axis=-1)
  return text_LC[:len(told) - np.argmax(told[::-1]) if told.any() else 0]

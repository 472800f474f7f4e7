"""`--mode=record`: films or frames to record sets, of frames or of latents.

                         without a tokenizer     with one
  a folder of films      frames                  latents, frames are not stored
  a record set of frames (refused)               latents

A latent set carries its tokenizer (`latent_space/`, as a workdir does), so that
`config.data.latents` is all that training needs. Damaged films end a recording
of frames; one of latents, which may run for days, names and counts them.
"""

import time

from worldsim_jax.data import film_folders
from worldsim_jax.data import records
from worldsim_jax.data import shards
from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World
from worldsim_jax.train import assemble
from worldsim_jax.train import encoding
from worldsim_jax.train import terminal


def record(source: str, target: str, config=None, *, tokenizer: str = '',
           dtype: str = 'float32', share=records.ALONE, stream=None) -> str:
  """Records, or goes on with it; returns the record set's folder.

  Args:
    source: a folder of films, or a record set of frames.
    target: where record sets are kept.
    config: its `data` says how films become frames, its `text` how captions
      become embeddings; None: that of the tokenizer.
    tokenizer: a workdir, a world or a latent set; '' records frames.
    dtype: of latents and text.
    share: which part of the shards this process makes.
    stream: of the progress lines.

  Raises:
    UserError: if something does not fit, or cannot be read or written.
  """
  paths.must_be_local(target, '--target')
  progress = Progress(stream)
  options = {'share': share, 'progress': progress}
  if not tokenizer:
    if records.is_complete(source):
      raise UserError(f'--source={source} is a record set already; '
                      '--tokenizer=WORKDIR makes latents of it.')
    directory = records.write(
        target, *_films(source, config.data, skip_damaged=False), **options)
  else:
    directory = _latents(source, target, config, tokenizer, dtype, options)
  progress.close(directory)
  return directory


def _latents(source, target, config, tokenizer, dtype, options):
  world = assemble.tokenizer(tokenizer)
  config = world.config if config is None else config
  encoder = encoding.Encoder(config, world.vae, world.vae_variables, dtype)
  latent_space = World(world.config, {}, world.vae_variables, world.starts)
  options |= {
      'metadata': encoder.metadata,
      'attach': lambda directory: files.save(
          latent_space, f'{directory}/{assemble.LATENT_SPACE}')}
  if records.is_complete(source):
    if 'rgb' not in records.Source(source, 'train').shapes:
      raise UserError(f'--source={source} has no frames (field rgb).')
    return records.derive(source, target, encoder.name, encoder, **options)
  _check_size(config.data, world.vae)
  key, splits = _films(source, config.data, skip_damaged=True)
  return records.write(
      target, records.key_of('latents', {'from': key, 'name': encoder.name}),
      {split: made.map(encoder) for split, made in splits.items()}, **options)


def _films(source, data, skip_damaged):
  return film_folders.films(
      source, height=data.height, width=data.width,
      frames_per_second=data.frames_per_second,
      tics_per_frame=data.tics_per_frame, num_threads=data.num_workers,
      skip_damaged=skip_damaged)


def _check_size(data, vae):
  for name in ('height', 'width'):
    if data[name] % vae.space_stride:
      raise UserError(
          f'config.data.{name}={data[name]} must be a multiple of '
          f'{vae.space_stride}, the stride of the tokenizer.')


class Progress(shards.Progress):
  """A line with records, rate and time left; damages as they are met."""

  def __init__(self, stream=None, clock=time.monotonic):
    self._stream, self._clock = stream, clock
    self._line = None
    self.records = self.damages = self._shards = self._finished = 0

  def begin(self, expected, shards_of_process, finished):
    self._line = terminal.ProgressLine(
        'record', shards_of_process, self._stream)
    self._start, self._expected = self._clock(), expected
    self._shards, self._finished = shards_of_process, finished
    self._before = finished
    if finished:
      self._line.note(f'goes on: {finished} of {shards_of_process} shards are '
                      'there')

  def record(self):
    self.records += 1
    self._line.log(self._finished, self._fields())

  def damaged(self, message):
    self.damages += 1
    self._line.note(f'left out: {message}')

  def shard(self):
    self._finished += 1
    is_last = self._finished == self._shards
    self._line.log(self._finished, self._fields(), force=is_last)

  def close(self, directory):
    """The summary."""
    if self._line is None:
      return
    rate, _ = self._rate()
    self._line.note(
        f'{self.records} records in {terminal.duration(self._seconds())} '
        f'({terminal.number(rate)}/s), {self.damages} films left out')
    self._line.close()
    if not records.is_complete(directory):
      self._line.note('this share is done; the record set is complete when '
                      'those of the other processes are')

  def _seconds(self):
    return self._clock() - self._start

  def _rate(self):
    """Records per second, and the records left, where they are known."""
    rate = self.records / max(self._seconds(), 1e-9)
    if self._expected is not None:
      return rate, max(0, self._expected - self.records)
    made = self._finished - self._before
    left = self._shards - self._finished
    return rate, made and self.records / made * left

  def _fields(self):
    rate, left = self._rate()
    fields = {'records': f'{self.records} records',
              'rate': f'{terminal.number(rate)} records/s'}
    if left:
      fields['left'] = f'left {terminal.duration(left / rate)}'
    return fields

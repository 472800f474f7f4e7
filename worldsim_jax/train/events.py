"""What a training stage leaves on disk: metrics.jsonl and event files.

metrics.jsonl holds one JSON object per logged step of every stage,

  {"stage": "teacher", "step": 9, "time": 1.7e9, "loss": 0.0431, ...}

and has every step once, however often the run was killed and resumed. The
event files are written by TensorBoard alone (no TensorFlow).

A bucket cannot append: there, `flush` replaces both by what they have become.
The loop calls it before every save, so that a log reaches as far as the newest
checkpoint; metrics.jsonl is also replaced once a minute.
"""

import contextlib
import json
import math
import os
import tempfile
import time

import numpy as np

from worldsim_jax.evaluate import films
from worldsim_jax.evaluate import report
from worldsim_jax.storage import paths

_SECONDS_BETWEEN_UPLOADS = 60.0


class JsonLines:
  """metrics.jsonl, appended to; rewritten where storage cannot append."""

  def __init__(
      self, path, stage: str, first_step: int, appends: bool | None = None
  ):
    self.path, self._stage = path, stage
    if appends is None:
      appends = not paths.is_remote(path)
    self._appends = appends
    old = path.read_text() if path.exists() else ''
    self._lines = [
        line
        for line in old.splitlines()
        if (record := report.parse_record(line)) is not None
        and not (record['stage'] == stage and record['step'] >= first_step)
    ]
    self._uploaded = time.monotonic()
    if self._text() != old:
      report.write_atomically(path, self._text())
    # Unbuffered: a record is on its way to the disk when `append` returns.
    self._handle = open(path, 'ab', buffering=0) if self._appends else None

  def append(self, step: int, values: dict[str, float]):
    record = {'stage': self._stage, 'step': step, 'time': round(time.time(), 3)}
    values = {name: _plain(value) for name, value in values.items()}
    line = json.dumps(record | values)
    if self._appends:
      self._handle.write(f'{line}\n'.encode())
      return
    self._lines.append(line)
    if time.monotonic() - self._uploaded > _SECONDS_BETWEEN_UPLOADS:
      self.flush()

  def flush(self):
    if not self._appends:
      self._uploaded = time.monotonic()
      report.write_atomically(self.path, self._text())

  def close(self):
    if self._appends:
      self._handle.close()

  def _text(self):
    return ''.join(line + '\n' for line in self._lines)


class EventWriter:
  """Scalars and animated films of one stage under `folder`, or in a bucket."""

  def __init__(self, folder, first_step: int = 0):
    try:
      from tensorboard.compat.proto import event_pb2
      from tensorboard.compat.proto import summary_pb2
      from tensorboard.summary.writer import event_file_writer
    except ImportError as error:
      raise ImportError(
          'Event files need TensorBoard: pip install tensorboard'
      ) from error
    self._event, self._summary = event_pb2, summary_pb2
    self._remote = paths.folder(folder) if paths.is_remote(folder) else None
    self._cleanup = contextlib.ExitStack()
    if self._remote:
      folder = self._cleanup.enter_context(tempfile.TemporaryDirectory())
    self._folder = os.fspath(folder)
    self._writer = event_file_writer.EventFileWriter(self._folder)
    # Tells TensorBoard to forget what a killed run wrote from here on.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._writer.add_event(
        event_pb2.Event(
            wall_time=time.time(), step=first_step, session_log=start
        )
    )

  def scalars(self, step: int, values: dict[str, float]):
    self._add(
        step,
        [
            self._summary.Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
        ],
    )

  def film(
      self, step: int, tag: str, frames: np.ndarray, frames_per_second: float
  ):
    """Adds uint8 [T, H, W, 3] as a GIF; TensorBoard plays it."""
    image = self._summary.Summary.Image(
        height=frames.shape[1],
        width=frames.shape[2],
        colorspace=3,
        encoded_image_string=films.gif_bytes(frames, frames_per_second),
    )
    self._add(step, [self._summary.Summary.Value(tag=tag, image=image)])

  def _add(self, step, values):
    self._writer.add_event(
        self._event.Event(
            wall_time=time.time(),
            step=step,
            summary=self._summary.Summary(value=values),
        )
    )

  def flush(self):
    self._writer.flush()
    self._upload()

  def close(self):
    with self._cleanup:
      self._writer.close()
      self._upload()

  def _upload(self):
    for name in os.listdir(self._folder) if self._remote else ():
      paths.upload(os.path.join(self._folder, name), self._remote / name)


def _plain(value: float):
  """Nine digits give a float32 back exactly; JSON has no NaN."""
  return float(f'{value:.9g}') if math.isfinite(value) else None

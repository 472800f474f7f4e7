"""What a stage wrote is what TensorBoard's own reader finds."""

import io
import pathlib

from absl.testing import absltest
import numpy as np
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from worldsim_jax.train import events


class EventWriterTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = self.create_tempdir().full_path

  def read(self):
    accumulator = event_accumulator.EventAccumulator(self.folder)
    accumulator.Reload()
    return accumulator

  def test_scalars_are_read_back(self):
    writer = events.EventWriter(self.folder)
    for step in range(3):
      writer.scalars(step, {'teacher/loss': 1 / 2**step})
    writer.close()
    found = self.read().Scalars('teacher/loss')
    self.assertEqual(
        [(e.step, e.value) for e in found], [(0, 1), (1, 0.5), (2, 0.25)]
    )

  def test_a_resumed_run_replaces_what_it_does_again(self):
    for first_step, value in (0, 1.0), (3, 2.0):
      writer = events.EventWriter(self.folder, first_step)
      for step in range(first_step, 6):
        writer.scalars(step, {'loss': value})
      writer.close()
    found = self.read().Scalars('loss')
    self.assertEqual(
        [(e.step, e.value) for e in found],
        [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)],
    )

  def test_a_film_is_an_animated_gif(self):
    frames = np.zeros((5, 8, 10, 3), np.uint8)
    frames[..., 0] = 40 * np.arange(5)[:, None, None]
    writer = events.EventWriter(self.folder)
    writer.film(7, 'student/rollout', frames, frames_per_second=10)
    writer.close()
    (event,) = self.read().Images('student/rollout')
    self.assertEqual((event.step, event.width, event.height), (7, 10, 8))
    image = Image.open(io.BytesIO(event.encoded_image_string))
    self.assertEqual((image.format, image.n_frames), ('GIF', 5))


class JsonLinesTest(absltest.TestCase):

  def test_storage_that_cannot_append_gets_whole_files(self):
    path = pathlib.Path(self.create_tempdir().full_path, 'metrics.jsonl')
    lines = events.JsonLines(path, 'teacher', 0, appends=False)
    lines.append(0, {'loss': 1.0})
    self.assertFalse(path.exists())
    lines.append(1, {'loss': 0.5})
    lines.flush()
    self.assertLen(path.read_text().splitlines(), 2)
    lines.close()


if __name__ == '__main__':
  absltest.main()

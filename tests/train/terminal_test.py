"""Lines are aligned, plain and few; on a terminal one is redrawn in place."""

import errno
import io
import os
import pty

from absl.testing import absltest
from absl.testing import parameterized

from worldsim_jax.train import terminal


class FormatTest(parameterized.TestCase):

  @parameterized.parameters(
      (0, '0'),
      (0.043123, '0.0431'),
      (1.2345, '1.23'),
      (-12.345, '-12.3'),
      (99.99, '100'),
      (12345.6, '12346'),
      (1e-5, '1.0e-05'),
      (2.5e7, '2.5e+07'),
      (float('nan'), 'nan'),
      (float('inf'), 'inf'),
  )
  def test_numbers_have_three_significant_digits(self, value, text):
    self.assertEqual(terminal.number(value), text)

  @parameterized.parameters(
      (6900, ('6.90', 'k')), (3.12e14, ('312', 'T')), (5, ('5.00', ''))
  )
  def test_large_rates_have_a_prefix(self, value, expected):
    self.assertEqual(terminal.si(value), expected)

  @parameterized.parameters(
      (0.4, '00:00'),
      (100, '01:40'),
      (7300, '2:01:40'),
      (3 * 86400 + 4 * 3600 + 600, '3d 04:10'),
      (-1, '00:00'),
  )
  def test_durations_grow_by_the_units_they_need(self, seconds, text):
    self.assertEqual(terminal.duration(seconds), text)

  @parameterized.parameters(
      (0, 10, '[..........]'),
      (59, 100, '[#####.....]'),
      (10, 10, '[##########]'),
      (12, 10, '[##########]'),
      (0, 0, '[..........]'),
  )
  def test_the_bar_is_full_only_at_the_end(self, done, total, bar):
    self.assertEqual(terminal.progress_bar(done, total), bar)


def _read_all(descriptor: int) -> bytes:
  """What was written to a pseudoterminal until its other side was closed."""
  output = b''
  try:
    while chunk := os.read(descriptor, 10_000):  # One write may come in parts.
      output += chunk
  except OSError as e:
    if e.errno != errno.EIO:  # Linux reports EIO instead of the end.
      raise
  finally:
    os.close(descriptor)
  return output


class ProgressLineTest(absltest.TestCase):

  def test_fields_of_successive_lines_are_aligned(self):
    stream = io.StringIO()
    line = terminal.ProgressLine('teacher', 600, stream)
    for done, loss in (9, '0.0431'), (90, '0.1'), (600, '12.3'):
      line.log(done, {'loss': f'loss {loss}', 'rate': '1 s/step'}, force=True)
    lines = stream.getvalue().splitlines()
    self.assertLen(lines, 3)
    for name in 'loss', '1 s/step', '/600':
      self.assertLen({text.index(name) for text in lines}, 1, name)

  def test_lines_in_quick_succession_are_left_out(self):
    stream = io.StringIO()
    line = terminal.ProgressLine('teacher', 100, stream)
    for done in range(1, 100):
      line.log(done, {})
    line.log(100, {}, force=True)
    self.assertLen(stream.getvalue().splitlines(), 2)

  def test_a_pipe_gets_no_redrawn_lines(self):
    stream = io.StringIO()
    line = terminal.ProgressLine('teacher', 100, stream)
    line.redraw(1, {})
    line.close()
    self.assertEqual(stream.getvalue(), '')

  def test_a_terminal_s_line_is_redrawn_in_place_and_never_wraps(self):
    reader, writer = pty.openpty()
    with os.fdopen(writer, 'w') as stream:
      line = terminal.ProgressLine('teacher', 100, stream)
      line.redraw(50, {'long': 'x' * 1000})
      line.note('saved')
    output = _read_all(reader).decode()
    drawn, blank, note = output.removesuffix('\r\n').split('\r')
    self.assertIn('50/100', drawn)
    self.assertLess(len(drawn), 1000)
    self.assertEqual(blank, ' ' * len(drawn))
    self.assertEqual(note, 'teacher      saved')


if __name__ == '__main__':
  absltest.main()

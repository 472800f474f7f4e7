"""Events are what they say, or they are refused."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.data import events
from worldsim_jax.data.events import Event


class EventsTest(parameterized.TestCase):

  def test_they_survive_json_in_the_order_of_their_frames(self):
    made = events.of_json(
        [[9, 'map', 'gen:7,decor=1'], [3, 'cut', [1, 2, 3]], [5, 'ghost', None]]
    )
    self.assertEqual(
        made,
        (
            Event(3, 'cut', (1.0, 2.0, 3.0)),
            Event(5, 'ghost'),
            Event(9, 'map', 'gen:7,decor=1'),
        ),
    )

  @parameterized.parameters(
      (0, 'ghost', None),
      (3, 'earthquake', None),
      (3, 'ghost', 'gen:7'),
      (3, 'map', None),
      (3, 'cut', (1, 2)),
  )
  def test_what_is_no_event_is_refused(self, *fields):
    with self.assertRaises(ValueError):
      Event(*fields)

  def test_a_count_grows_at_the_frame_of_an_event(self):
    made = [Event(2, 'cut', (0, 0, 0)), Event(4, 'ghost'), Event(4, 'solid')]
    np.testing.assert_array_equal(
        events.count(made, ['cut'], 6), [0, 0, 1, 1, 1, 1]
    )
    np.testing.assert_array_equal(
        events.count(made, events.VIOLATIONS, 6), [0, 0, 0, 0, 1, 1]
    )
    self.assertEqual(events.count((), ['cut'], 3).dtype, np.int32)

  def test_maps_follow_each_other(self):
    made = [Event(4, 'map', 'gen:7'), Event(2, 'map', 'gen:7,decor=1')]
    self.assertEqual(
        events.maps_in(made, 'gen:7'),
        [(0, 'gen:7'), (2, 'gen:7,decor=1'), (4, 'gen:7')],
    )


if __name__ == '__main__':
  absltest.main()

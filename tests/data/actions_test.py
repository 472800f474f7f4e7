"""Scripts and files of actions, good and bad."""

import json
import os

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.data import actions
from worldsim_jax.errors import UserError


class ActionsTest(parameterized.TestCase):

  def test_words_repeat_and_combine(self):
    script = 'forward*20,left*10,forward+left*5,strafe_right*3,wait*4'
    parsed = actions.parse(script)
    self.assertEqual(parsed.shape, (42, 3))
    self.assertEqual(parsed.dtype, np.float32)
    np.testing.assert_array_equal(parsed[0], [24, 0, 0])
    np.testing.assert_array_equal(parsed[20], [0, 0, 8])
    np.testing.assert_array_equal(parsed[30], [24, 0, 8])
    np.testing.assert_array_equal(parsed[35], [0, -24, 0])
    np.testing.assert_array_equal(parsed[-4:], 0)

  def test_a_word_is_a_speed_whatever_the_length_of_a_frame(self):
    script = 'forward*2,left+back'
    whole = actions.parse(script)
    np.testing.assert_array_equal(whole, actions.parse(script, 4))
    np.testing.assert_array_equal(actions.parse(script, 2), whole / 2)
    np.testing.assert_array_equal(actions.parse(script, 1), whole / 4)
    self.assertEqual(actions.parse(script, 3).dtype, np.float32)

  def test_files_of_words_follow_the_length_of_a_frame_and_numbers_do_not(self):
    for name, content, expected in (
        ('a.txt', 'forward,left', [[12, 0, 0], [0, 0, 4]]),
        ('a.json', '["forward", "left"]', [[12, 0, 0], [0, 0, 4]]),
        ('b.json', '[[24, 0, 0]]', [[24, 0, 0]]),
    ):
      path = self.create_tempfile(name, content).full_path
      np.testing.assert_array_equal(actions.read(path, 2), expected)

  def test_opposite_words_cancel(self):
    np.testing.assert_array_equal(
        actions.parse('left+right, back+forward'), np.zeros((2, 3))
    )

  @parameterized.parameters(
      'jump', 'forward*', 'forward*-2', 'left++right', 'forward*2.5', 'LEFT'
  )
  def test_the_wrong_token_is_named(self, token):
    with self.assertRaises(UserError) as caught:
      actions.parse(f'forward*2,{token},wait')
    self.assertIn(repr(token), str(caught.exception))

  def test_an_empty_script_is_refused(self):
    with self.assertRaisesRegex(UserError, 'no actions'):
      actions.parse(' , ')

  def test_files_of_every_kind_say_the_same(self):
    rows = actions.parse('forward*2,left')
    folder = self.create_tempdir().full_path
    paths = [
        os.path.join(folder, name) for name in ('a.npy', 'a.json', 'a.txt')
    ]
    np.save(paths[0], rows)
    with open(paths[1], 'w') as f:
      json.dump(rows.tolist(), f)
    with open(paths[2], 'w') as f:
      f.write('forward*2\nleft\n')
    for path in paths:
      np.testing.assert_array_equal(actions.read(path), rows)

  @parameterized.parameters(
      ('a.json', '[[1, 2]]', 'shape'),
      ('a.json', '{', 'cannot read'),
      ('a.json', '["forward", "fly"]', "'fly'"),
      ('a.json', '[["forward"]]', 'cannot read'),
      ('a.json', '[]', 'no actions'),
      ('a.json', '[[1, 2], [3]]', 'cannot read'),
      ('a.txt', 'fly', "'fly'"),
      ('a.json', '[[NaN, 0, 0]]', 'finite'),
      ('a.npy', 'x', 'cannot read'),
  )
  def test_a_bad_file_is_named(self, name, content, reason):
    path = self.create_tempfile(name, content).full_path
    with self.assertRaisesRegex(UserError, f'{name}: .*{reason}'):
      actions.read(path)
    with self.assertRaisesRegex(UserError, 'none.txt'):
      actions.read(path + 'none.txt')

  def test_normalised_walks_lie_in_the_unit_box(self):
    walk = actions.parse('forward+left,back+right,strafe_left')
    unit = actions.ActionSpace().normalise(walk)
    self.assertEqual(unit.dtype, np.float32)
    self.assertLessEqual(np.abs(unit).max(), 1)


if __name__ == '__main__':
  absltest.main()

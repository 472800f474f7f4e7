"""No map is on both sides."""

from absl.testing import absltest

from worldsim_jax.data import splits
from worldsim_jax.errors import UserError


class SplitsTest(absltest.TestCase):

  def test_freedoom_is_divided_without_overlap(self):
    train, test = splits.maps('train'), splits.maps('test')
    self.assertEmpty(set(train) & set(test))
    self.assertCountEqual(train + test, splits.FREEDOOM)
    self.assertLen(train, 38)
    self.assertEqual((train[0], train[-1]), ('E1M1', 'MAP20'))
    self.assertEqual((test[0], test[-1]), ('E3M1', 'MAP32'))

  def test_generated_maps_are_divided_by_seed(self):
    self.assertEqual(splits.split_of('gen:0'), 'train')
    self.assertEqual(splits.split_of(f'gen:{2**20 - 1}'), 'train')
    self.assertEqual(splits.split_of(f'gen:{2**20}'), 'test')
    for split in splits.SPLITS:
      for name in splits.generated_maps(split, 3, first=5):
        self.assertEqual(splits.split_of(name), split)

  def test_train_seeds_do_not_run_over_into_the_test_seeds(self):
    with self.assertRaisesRegex(UserError, '1048576 generated maps'):
      splits.generated_maps('train', 2, first=2**20 - 1)

  def test_unknown_names_are_refused(self):
    for name in ('MAP33', 'E5M1', 'gen:x', 'gen:-1', 'house'):
      with self.assertRaisesRegex(UserError, name):
        splits.split_of(name)
    with self.assertRaisesRegex(UserError, "'dev'"):
      splits.maps('dev')


if __name__ == '__main__':
  absltest.main()

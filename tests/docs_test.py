"""Figures in the documentation are those that were measured and counted."""

from absl.testing import absltest

from benchmarks import data_plan


class DataPageTest(absltest.TestCase):

  def test_every_table_is_what_the_script_prints(self):
    page = data_plan.PAGE.read_text()
    for name in data_plan.tables():
      self.assertIn(data_plan.BEGIN.format(name), page)
    self.assertEqual(
        page, data_plan.filled(page), 'python -m benchmarks.data_plan --write')

  def test_bytes_of_a_clip_are_those_of_the_arrays(self):
    from benchmarks import record  # pylint: disable=g-import-not-at-top
    clip, values = record.published_latents(), data_plan.values()
    self.assertEqual(clip['latents'].nbytes, values['latents16'])
    self.assertEqual(clip['text'].nbytes, values['text'])

  def test_flops_are_of_the_order_that_the_sizes_say(self):
    # 6 per parameter and token, and 12 per layer, pair of tokens and channel.
    tokens = 21 * 1560
    expected = 6 * 1.42e9 * tokens + 12 * 30 * 1536 * tokens**2
    self.assertAlmostEqual(data_plan.train_flops() / expected, 1, delta=0.1)


if __name__ == '__main__':
  absltest.main()

"""What the documentation says is so: figures, commands, names of tests."""

import os
import pathlib
import re
import subprocess

from absl.testing import absltest

from benchmarks import data_plan
from benchmarks import pages
from benchmarks import subjects
from worldsim_jax.evaluate import exports
from worldsim_jax.evaluate import suite
from worldsim_jax.evaluate.subjects import of_truth

ROOT = pathlib.Path(__file__).parents[1]


class ReadmeTest(absltest.TestCase):

  def test_the_commands_of_make_test_are_those_that_make_runs(self):
    section = (ROOT / 'README.md').read_text().split('## Tests\n')[1]
    make, commands = re.findall(r'```\n(.*?)\n```', section, re.DOTALL)[:2]
    printed = subprocess.run(  # Outer makes hand their variables on.
        [*make.split(), '--dry-run', '--always-make'], cwd=ROOT, check=True,
        capture_output=True, text=True, env={'PATH': os.environ['PATH']}).stdout
    joined = lambda text: re.sub(r'\s*\\\n\s*', ' ', text).splitlines()
    for command in joined(commands):
      self.assertIn(command, joined(printed.replace(' --quiet', '')))


class UpstreamPageTest(absltest.TestCase):

  def test_every_test_that_it_names_is_there(self):
    page = (ROOT / 'docs' / 'upstream.md').read_text()
    named = re.findall(r'`([\w/]+_test)\.py::(\w+)`', page)
    self.assertGreater(len(named), 50)
    for file, name in named:
      source = (ROOT / 'tests' / f'{file}.py').read_text()
      self.assertRegex(source, rf'def {name}\(', file)

  def test_all_traps_are_in_it(self):
    page = (ROOT / 'docs' / 'upstream.md').read_text()
    rows = re.findall(r'^\| (\d+) \|', page, re.MULTILINE)
    self.assertEqual(rows, [str(i) for i in range(1, 19)])


class EvaluationPageTest(absltest.TestCase):

  def test_the_table_is_what_was_measured(self):
    page = subjects.PAGE.read_text()
    self.assertEqual(
        page, pages.filled(page, 'subjects', {'subjects': subjects.table()}),
        'python -m benchmarks.subjects')

  def test_all_sections_subjects_and_exports_are_in_it(self):
    page = subjects.PAGE.read_text()
    for name in (*suite.SECTIONS, *of_truth(17.5)):
      self.assertIn(f'\n| `{name}` | ', page)
    for name in exports.BENCHMARKS:
      self.assertIn(f"'{name}'", page)


class DataPageTest(absltest.TestCase):

  def test_every_table_is_what_the_script_prints(self):
    page, tables = data_plan.PAGE.read_text(), data_plan.tables()
    self.assertEqual(
        page, pages.filled(page, data_plan.SCRIPT, tables),
        'python -m benchmarks.data_plan --write')

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

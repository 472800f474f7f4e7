"""A report is one valid page that asks the network for nothing."""

import base64
from html import parser
import json
import math
import os
import pathlib
import re
import subprocess
from unittest import mock
import xml.etree.ElementTree as ElementTree

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import ml_collections
import numpy as np

from worldsim_jax import errors
from worldsim_jax.evaluate import report

VOID = {'meta', 'link', 'br', 'img', 'input'}
MP4 = b'\0\0\0\x18ftypmp42 not a real film'


class Page(parser.HTMLParser):
  """Tags with their attributes; fails on tags that do not nest."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.open, self.words = [], [], []
    self.feed(text)
    self.close()
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, tag

  def handle_data(self, data):
    self.words.append(data)

  def all(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]

  @property
  def text(self):
    return ' '.join(self.words)


class ReportTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.mp4 = self.folder / 'film.mp4'
    self.mp4.write_bytes(MP4)

  def full_report(self):
    page = report.Report('A <run> & more')
    page.section('Results')
    page.text('One < two.')
    page.table('Scores', ['clip', 'PSNR (dB)'], [['<a>', 24.1234], ['b', None]])
    x = np.arange(1, 20)
    page.plot(
        'Drift',
        {'a': (x, 1 / x), 'b': (x, x, x - 1, x + 1)},
        'frame',
        'PSNR (dB)',
    )
    page.plot('Loss', {'a': (x, 1 / x)}, 'step', 'loss', log_y=True)
    page.section('Films')
    page.film('Truth "and" student', self.mp4)
    page.config({'model': {'dim': 64}, 'name': 'x'})
    page.versions()
    return page

  def test_tags_nest_and_text_is_escaped(self):
    page = Page(self.full_report().html())
    for text in 'A <run> & more', 'One < two.', '<a>', '24.12', '–':
      self.assertIn(text, page.text)

  def test_nothing_is_loaded_from_anywhere(self):
    html = self.full_report().html()
    page = Page(html)
    self.assertEmpty(page.all('script') + page.all('img') + page.all('iframe'))
    addresses = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ('href', 'src', 'xlink:href', 'poster', 'data')
    ]
    for address in addresses:
      self.assertRegex(address, r'^(#|data:)')
    css = html[html.index('<style>') : html.index('</style>')]
    self.assertNotRegex(css, r'@import|url\(')

  def test_ids_are_unique_and_every_link_has_its_target(self):
    page = Page(self.full_report().html())
    ids = [a['id'] for _, a in page.tags if 'id' in a]
    self.assertLen(set(ids), len(ids))
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', self.full_report().html())
    self.assertGreater(len(used), 10)
    self.assertContainsSubset(used, ids)

  def test_tables_plots_and_films_can_be_read_aloud(self):
    page = Page(self.full_report().html())
    self.assertEqual(page.all('html'), [{'lang': 'en'}])
    self.assertLen(page.all('caption'), len(page.all('table')))
    images = [a for _, a in page.tags if a.get('role') == 'img']
    self.assertEqual(
        images[0]['aria-label'], 'Drift: PSNR (dB) over frame for a, b'
    )
    self.assertLen(images, len(page.all('svg')))
    (video,) = page.all('video')
    self.assertEqual(video['aria-label'], 'Truth "and" student')

  def test_contents_link_to_the_sections(self):
    page = Page(self.full_report().html())
    self.assertEqual(
        [a['href'] for a in page.all('a')],
        ['#' + a['id'] for a in page.all('section')],
    )

  def test_a_film_is_embedded_byte_for_byte(self):
    (video,) = Page(self.full_report().html()).all('video')
    kind, data = video['src'].split(',')
    self.assertEqual(kind, 'data:video/mp4;base64')
    self.assertEqual(base64.b64decode(data), MP4)
    for flag in 'controls', 'loop', 'muted', 'autoplay', 'playsinline':
      self.assertIn(flag, video)

  def test_a_film_too_big_to_embed_is_linked_from_the_page_s_folder(self):
    big = self.folder / 'films' / 'big.mp4'
    big.parent.mkdir()
    big.write_bytes(bytes(33 * 2**20))
    page = report.Report('big', folder=self.folder)
    page.film('big', big)
    (video,) = Page(page.html()).all('video')
    self.assertEqual(video['src'], 'films/big.mp4')

  def test_plots_are_well_formed_themed_and_repeatable(self):
    html = self.full_report().html()
    plots = re.findall('<svg.*?</svg>', html, flags=re.DOTALL)
    self.assertLen(plots, 2)
    for plot in plots:
      ElementTree.fromstring(plot)
      self.assertNotRegex(plot, r'#0102')  # A stand-in colour left over.
      self.assertIn('var(--s0)', plot)
      self.assertIn('<text', plot)
    self.assertEqual(html, self.full_report().html())

  def test_long_curves_are_thinned(self):
    x = np.arange(100_000)
    page = report.Report('long')
    page.plot('loss', {'loss': (x, np.sin(x))}, 'step', 'loss')
    self.assertLess(len(page.html()), 100_000)

  def test_a_curve_of_unequal_lengths_is_refused(self):
    with self.assertRaisesRegex(ValueError, r'\(3,\), \(2,\)'):
      report.Report('x').plot('p', {'a': ([1, 2, 3], [1, 2])}, 'x', 'y')

  def test_a_row_of_another_length_is_refused(self):
    with self.assertRaisesRegex(ValueError, "'t': a row of 1 under 2"):
      report.Report('x').table('t', ['a', 'b'], [[1]])

  def test_writing_replaces_the_page_and_leaves_nothing_beside_it(self):
    path = self.folder / 'new' / 'report.html'
    for title in 'old', 'new':
      report.Report(title).write(path)
    self.assertIn('new', path.read_text())
    self.assertEqual([p.name for p in path.parent.iterdir()], ['report.html'])

  def test_a_page_that_cannot_be_written_names_its_path(self):
    with self.assertRaisesRegex(errors.UserError, 'film.mp4/report.html'):
      report.Report('x').write(self.mp4 / 'report.html')


class TrainingReportTest(absltest.TestCase):

  def test_a_run_s_report_has_its_numbers_curves_films_and_config(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    records = [
        {
            'stage': stage,
            'step': step,
            'time': 0,
            'loss': 1 / (step + 1),
            'memory_gib': 1.5,
        }
        | ({'mfu': 0.31} if stage == 'student' else {})
        for stage in ('teacher', 'student')
        for step in range(10)
    ]
    records[3]['loss'] = None
    lines = [json.dumps(record) for record in records]
    (workdir / 'metrics.jsonl').write_text('\n'.join(lines) + '\n{"stage": "st')
    (workdir / 'film.mp4').write_bytes(MP4)
    config = ml_collections.ConfigDict({'student': {'steps': (1000, 500)}})
    report.training_report(
        workdir,
        summary={'student/psnr_db': 23.45},
        films={'Rollout': workdir / 'film.mp4'},
        config=config,
        drift={
            'PSNR (dB)': {'student': ([1, 2], [30, 25], [29, 23], [31, 26])}
        },
    )
    page = Page((workdir / 'report.html').read_text())
    for text in (
        'student/psnr_db',
        '23.45',
        'teacher',
        'MFU (%)',
        '31.00',
        'student.steps = (1000, 500)',
        'jaxlib',
        'Rollout',
    ):
      self.assertIn(text, page.text)
    self.assertLen(page.all('svg'), 3)  # Drift and two stages.
    summary = json.loads((workdir / 'summary.json').read_text())
    self.assertEqual(summary, {'student/psnr_db': 23.45})

  def test_a_run_without_logs_films_or_drift_still_has_a_report(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    report.training_report(workdir, {}, {}, {})
    Page((workdir / 'report.html').read_text())


class SummaryTest(parameterized.TestCase):

  def test_numbers_of_any_library_become_plain_json(self):
    path = pathlib.Path(self.create_tempdir().full_path, 'summary.json')
    report.write_summary(
        path,
        {
            'jax': jnp.float32(1 / 3),
            'numpy': np.float64(2 / 3),
            'half': jnp.bfloat16(0.5),
            'int': np.int64(7),
            'nan': math.nan,
            'inf': np.float32(math.inf),
            'text': 'a',
            'none': None,
            'yes': True,
        },
    )
    self.assertEqual(
        json.loads(path.read_text()),
        {
            'jax': 0.333333,
            'numpy': 0.666667,
            'half': 0.5,
            'int': 7,
            'nan': None,
            'inf': None,
            'text': 'a',
            'none': None,
            'yes': True,
        },
    )

  @parameterized.parameters(({'nested': {'a': 1}},), ({'list': [1, 2]},))
  def test_only_flat_summaries_are_written(self, summary):
    path = pathlib.Path(self.create_tempdir().full_path, 'summary.json')
    with self.assertRaisesRegex(ValueError, 'flat'):
      report.write_summary(path, summary)


class VersionsTest(absltest.TestCase):

  def test_versions_name_the_packages_and_the_device(self):
    found = report.versions()
    self.assertRegex(found['jax'], r'^\d+\.\d+')
    self.assertRegex(found['device'], r'^\d+ x ')

  def test_the_commit_is_the_checkout_s_own(self):
    root = pathlib.Path(__file__).resolve().parents[2]
    head = subprocess.run(
        ['git', '-C', str(root), 'rev-parse', 'HEAD'],
        capture_output=True,
        text=True,
        check=False,
    )
    if head.returncode:
      self.skipTest('not a checkout with a commit')
    commit = report.versions()['commit'].removesuffix(' with changes')
    self.assertStartsWith(head.stdout, commit)

  def test_new_results_are_no_change_of_the_commit(self):
    answers = {'rev-parse': 'abc', 'status': ''}
    with mock.patch.object(report, '_git') as git:
      git.side_effect = lambda root, verb, *_: answers[verb]
      self.assertEqual(report.commit(), 'abc')
      self.assertIn(':!benchmarks/results', git.call_args.args)
      answers['status'] = ' M file'
      self.assertEqual(report.commit(), 'abc with changes')

  def test_a_machine_without_the_repository_is_told_the_commit(self):
    with mock.patch.dict(os.environ, {'COMMIT': 'told'}):
      self.assertEqual(report.versions()['commit'], 'told')


if __name__ == '__main__':
  absltest.main()

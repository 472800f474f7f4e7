"""The study of a long past, and the page of what was measured of mixtures."""

import json
import os
import pathlib
import sys
from unittest import mock

from absl.testing import absltest
import pytest

import benchmarks
from benchmarks import apart
from benchmarks import moc
from benchmarks import moc_blocks
from benchmarks import moc_gpu_static
from benchmarks import moc_page
from benchmarks import moc_tpu_static
from benchmarks import pages
from benchmarks import revisits
from configs import revisits as config_lib
from worldsim_jax.attention.moc.executors import blocks
from worldsim_jax.errors import UserError


class RevisitsTest(absltest.TestCase):

  def options(self, config, repeats=2):
    folder = self.create_tempdir().full_path
    for index, past in enumerate(config_lib.PASTS):
      for seed in range(repeats):
        path = pathlib.Path(folder, f'{past}-{seed}', revisits.SUMMARY)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({
            'told_psnr_3s': 10. * index + seed, 'told_psnr_3s_low': -1.,
            'memory_of_another': 1,
            **({'recall_precision': .5} if past == 'recall' else {})}))
    return benchmarks.Options(config, repeats, workdir=folder)

  def test_a_row_is_a_past_and_the_mean_of_its_seeds(self):
    rows = revisits.benchmark(self.options(config_lib.get_config('tiny')))
    both = {'told_psnr_3s_low': -1., 'told_psnr_3s_spread': 1.}
    self.assertEqual(rows, [
        {'past': 'all', 'told_psnr_3s': .5, **both},
        {'past': 'window', 'told_psnr_3s': 10.5, **both},
        {'past': 'recall', 'told_psnr_3s': 20.5, 'recall_precision': .5,
         **both}])

  def test_the_students_differ_in_what_they_read_only(self):
    read = {}
    for past in config_lib.PASTS:
      config = config_lib.get_config('recall')
      config_lib.read(config, past)
      self.assertEqual(
          config.to_dict(), config_lib.get_config(past).to_dict())
      read[past] = (config.student.window, config.student.sink,
                    bool(config.student.recall))
      config_lib.read(config, 'window')
      config.past.num_steps = 0
      rest = config.to_dict()
      self.assertEqual(rest, read.setdefault('rest', rest))
    self.assertEqual(read['window'], (2, 1, False))
    self.assertEqual(read['recall'], (2, 1, True))
    self.assertGreaterEqual(read['all'][0], config_lib.CLIP)

  def test_another_config_is_refused(self):
    config = config_lib.get_config('tiny')
    config.stages = ('tokenizer',)
    with self.assertRaisesRegex(UserError, 'configs/revisits.py'):
      revisits.benchmark(self.options(config))


class ApartTest(absltest.TestCase):

  def test_a_run_reads_the_config_that_it_was_given(self):
    config = config_lib.get_config('tiny')
    path = self.create_tempfile(content=json.dumps(config.to_dict())).full_path
    found = apart.config(path)
    self.assertEqual(found.to_dict(), json.loads(json.dumps(config.to_dict())))
    self.assertEqual(tuple(found.stages), config.stages)

  def test_a_run_that_fails_says_where(self):
    workdir = pathlib.Path(self.create_tempdir().full_path, 'run')
    with self.assertRaisesRegex(UserError, f'{workdir}: .* failed'):
      apart.run('benchmarks.no_such_module', config_lib.get_config('tiny'),
                workdir)

  def test_a_program_that_fails_says_what_it_said(self):
    with self.assertRaisesRegex(UserError, 'such_module 1 failed(.|\n)*No m'):
      apart.printed('benchmarks.no_such_module', 1)


class PageTest(absltest.TestCase):

  def test_the_page_is_what_the_script_makes_of_the_results(self):
    page = moc_page.PAGE.read_text()
    self.assertEqual(
        page, pages.filled(page, moc_page.SCRIPT, moc_page.tables()))


class BlocksTest(absltest.TestCase):

  def test_tpus_have_the_sizes_that_follow_from_the_schedules(self):
    of_film, of_chunks = (
        moc_blocks.cycles(moc_blocks.rows(), branch)
        for branch in moc_blocks.KERNELS)
    self.assertLen(of_film, 4)
    for kind, cycles in of_chunks.items():
      begin = next(k for k in blocks.CYCLES if kind.startswith(k))
      self.assertEqual(blocks.CYCLES[begin], cycles)
      sizes = (*moc_blocks.of_anchors(of_film[kind]),
               *blocks.quickest(
                   cycles, moc_tpu_static.CHUNK, moc_tpu_static.TOP_K))
      self.assertEqual(blocks.of_kind(kind)[:4], sizes, kind)

  def test_matrix_units_are_as_busy_as_was_promised(self):
    share = {(row['chip'], row['kernel']): row['mxu_share']
             for row in moc_blocks.rows()
             if (row['tile'], row['block']) == (512, 512)}
    self.assertGreaterEqual(share['v5p', 'moc_forward'], .75)
    self.assertGreaterEqual(share['v6e', 'moc_forward'], .6)
    for kernel in 'moc_dq', 'moc_dkv', 'moc_dkv_of_runs':
      self.assertGreaterEqual(share['v5p', kernel], .95)

  def test_a_size_is_chosen_with_what_it_pads(self):
    # Four to one: large blocks cost by the pair what they hold.
    cycles = 1, 2, 4, 8
    for chunk, sizes in {
        256: (512, 256),  # In a larger block at least half is empty.
        512: (512, 256),  # Of two that read alike, the first,
        1280: (512, 256),  # which five of fill.
    }.items():
      self.assertEqual(blocks.quickest(cycles, chunk, 4.), sizes, chunk)
    # By much quicker pairs they win: 3 · (4 · 1280 / 1024 + 1/2) · 3 against
    # 5 · (4 · 1280 / 512 + 1/2), but not where one block holds all.
    cycles = 1, 9, 3, 9
    self.assertEqual(blocks.quickest(cycles, 1280, 4.), (1024, 512))
    self.assertEqual(blocks.quickest(cycles, 256, 4.), (512, 256))
    # Of few queries a large tile is mostly empty: 3 · (1/4 + 1/2) · 3 against
    # 5 · (1/2 + 1/2).
    self.assertEqual(blocks.quickest(cycles, 1280, .2), (512, 256))

  def test_long_chunks_have_larger_blocks(self):
    of_chunk = lambda chunk: blocks.of_kind('TPU v5p', chunk, 5.)[2:4]
    self.assertEqual([of_chunk(c) for c in (10240, 5120, 2560, 1280, 192)],
                     [(1024, 1024)] * 2 + [(1024, 512)] * 2 + [(512, 256)])
    self.assertEqual(blocks.of_kind('TPU v5p', 192)[:2], (1024, 1024))


class GpuTest(absltest.TestCase):

  def test_who_has_no_compilers_is_told_what_to_install(self):
    with mock.patch.object(sys, 'path', []), mock.patch.dict(
        os.environ, {'PATH': ''}), self.assertRaisesRegex(
            UserError, r"pip install 'worldsim_jax\[cuda\]'"):
      moc_gpu_static.benchmark(None)


@pytest.mark.slow
class KeysReadTest(absltest.TestCase):

  def test_a_small_film_on_this_machine_reads_what_its_plan_says(self):
    rows = list(moc._rows(1024, 1, 16, 'float32', 0, 3, repeats=1))
    # Its own shot of eight, and of the earlier ones, in the mean over shots,
    # 7/8 of three chunks of 1/16 of a shot.
    self.assertAlmostEqual(
        rows[0]['keys_read'], 1 / 8 + 7 / 8 * 3 / 128, places=6)
    self.assertGreater(rows[1]['ratio_dense_to_moc_median'], 0)

  def test_sizes_are_timed_beside_each_other(self):
    sizes = (16, 32, 8), (32, 16, 4)
    rows = moc.by_size(512, 1, 16, 'float32', 0, 3, sizes, repeats=1)
    self.assertEqual(
        [(row['tile'], row['block'], row['warps']) for row in rows],
        list(sizes))
    self.assertGreater(min(row['seconds_min'] for row in rows), 0)
    self.assertEqual(moc.details(benchmarks.Options(None)), {})  # Not a GPU.


if __name__ == '__main__':
  absltest.main()

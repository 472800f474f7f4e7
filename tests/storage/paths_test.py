"""Local paths and gs:// ones: what each needs, and where things lie."""

import errno
import os
import pathlib
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized

from worldsim_jax.errors import UserError
from worldsim_jax.storage import paths


class PathsTest(parameterized.TestCase):

  def test_a_missing_gcsfs_is_one_line_with_what_to_install(self):
    code = ('import sys\n'
            'sys.modules["gcsfs"] = None\n'
            'from worldsim_jax.errors import UserError\n'
            'from worldsim_jax.storage import paths\n'
            'try:\n'
            '  paths.folder("gs://bucket/run")\n'
            'except UserError as e:\n'
            '  print(e)\n')
    done = subprocess.run(
        [sys.executable, '-c', code], text=True, capture_output=True,
        check=True, env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)})
    self.assertEqual(
        done.stdout,
        "gs:// paths need gcsfs: pip install 'worldsim_jax[gcs]'\n")

  def test_other_urls_are_refused(self):
    with self.assertRaisesRegex(UserError, '^s3://a/b: only URLs of gs://'):
      paths.folder('s3://a/b')

  def test_records_of_a_remote_run_are_in_the_cache_of_this_machine(self):
    os.environ['XDG_CACHE_HOME'] = '/cache'
    self.addCleanup(os.environ.pop, 'XDG_CACHE_HOME')
    self.assertEqual(paths.local_folder('gs://bucket/runs/x'),
                     '/cache/worldsim_jax/bucket/runs/x')
    self.assertEqual(paths.local_folder('runs/x'), 'runs/x')

  def test_text_is_replaced_in_one_go_and_folders_are_made(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'a' / 'b'
    for text in 'old', 'new':
      paths.write_text(path, text)
      self.assertEqual(path.read_text(), text)
    self.assertEqual(os.listdir(path.parent), ['b'])

  @parameterized.parameters(
      (OSError(errno.ENOSPC, 'No space left on device'), 'no space left on'),
      (ValueError('Error [source locations=\'a.cc:1\']\nmore'), 'Error$'),
      (ValueError('b' * 999 + ': refused'), '^b+ [.]{3} b+: refused$'),
      (KeyError(), 'KeyError'),
  )
  def test_an_error_is_shortened_to_a_line(self, error, line):
    self.assertRegex(paths.first_line(error), line)

  def test_errors_of_remote_paths_only_become_one_line(self):
    with self.assertRaisesRegex(UserError, '^gs://a/b cannot be reached: no'):
      with paths.named_errors('gs://a/b'):
        raise ConnectionError('no route to host')
    for path in 'a/b', None:
      with self.assertRaises(ConnectionError):
        with paths.named_errors(path):
          raise ConnectionError


if __name__ == '__main__':
  absltest.main()

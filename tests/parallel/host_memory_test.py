"""Large arrays lie on huge pages."""

import os
import pathlib
import subprocess
import sys

from absl.testing import absltest

# Page faults of taking and touching 64 MiB ten times.
PROGRAM = """
import os, resource, sys
from worldsim_jax.parallel import host_memory
if sys.argv[1] == 'huge':
  host_memory.use_huge_pages()
import numpy as np
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(10):
  np.ones(2**23)
print(faults() - before, os.getpid(), sys.argv[1:])
"""
SWITCH = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')


def run(*arguments, **environment):
  """Page faults, and what else the program printed."""
  env = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  with subprocess.Popen(
      [sys.executable, '-c', PROGRAM, *arguments], env=env | environment,
      stdout=subprocess.PIPE, text=True) as process:
    output = process.communicate()[0]
  assert process.returncode == 0
  faults, pid, rest = output.strip().split(' ', 2)
  return int(faults), int(pid) == process.pid, rest


class HostMemoryTest(absltest.TestCase):

  def test_large_arrays_lie_on_huge_pages(self):
    if not SWITCH.exists() or '[never]' in SWITCH.read_text():
      self.skipTest('this kernel has no huge pages for who asks')
    # 10 x 64 MiB are 163,840 pages of 4 KiB or 320 of 2 MiB; ends of arrays and
    # the interpreter's own small ones come on top. (NumPy asks for huge pages
    # itself, unless told not to.)
    plain = {'NUMPY_MADVISE_HUGEPAGE': '0'}
    self.assertGreater(run('default', **plain)[0], 100_000)
    self.assertLess(run('huge', **plain)[0], 20_000)

  def test_the_process_stays_itself(self):
    _, same_pid, arguments = run('huge', 'two words', '*')
    self.assertTrue(same_pid)
    self.assertEqual(arguments, "['huge', 'two words', '*']")

  def test_a_setting_of_the_user_stays(self):
    faults, _, _ = run(
        'huge', GLIBC_TUNABLES='glibc.malloc.hugetlb=0',
        NUMPY_MADVISE_HUGEPAGE='0')
    self.assertGreater(faults, 100_000)


if __name__ == '__main__':
  absltest.main()

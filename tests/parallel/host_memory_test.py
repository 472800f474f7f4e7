"""Freed memory is used again without asking the kernel for it."""

import subprocess
import sys

from absl.testing import absltest

# Page faults of taking and touching 64 MiB ten times, after one time before.
PROGRAM = """
import resource, sys
import numpy as np
from worldsim_jax.parallel import host_memory
if sys.argv[1] == 'keep':
  assert host_memory.keep()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**23)
before = faults()
for _ in range(10):
  np.ones(2**23)
print(faults() - before)
"""


def page_faults(how: str) -> int:
  done = subprocess.run([sys.executable, '-c', PROGRAM, how], check=True,
                        capture_output=True, text=True)
  return int(done.stdout)


class HostMemoryTest(absltest.TestCase):

  def test_kept_memory_is_not_taken_from_the_kernel_again(self):
    if not sys.platform.startswith('linux'):
      self.skipTest('only glibc has the setting')
    # Without it all 64 MiB are new each time, hundreds of pages at least even
    # where pages are huge.
    self.assertGreater(page_faults('default'), 10 * 32)
    self.assertLess(page_faults('keep'), 32)


if __name__ == '__main__':
  absltest.main()

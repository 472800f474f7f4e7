"""With WORLDSIM_NO_SKIPS=1, as CI sets it, a skipped test here is a failure.

Who has not installed the extra [parity] skips these tests; CI would not notice
if it did, too. All of them are slow: two libraries and two compilers at work.
"""

import os
import pathlib

import pytest


def pytest_collection_modifyitems(items):
  folder = pathlib.Path(__file__).parent
  for item in items:
    if folder in item.path.parents:
      item.add_marker(pytest.mark.slow)


def _refuse_a_skip(report):
  if report.skipped and os.environ.get('WORLDSIM_NO_SKIPS'):
    report.outcome = 'failed'
    report.longrepr = f'WORLDSIM_NO_SKIPS is set, but: {report.longrepr}'
  return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():  # A whole file, by importorskip.
  return _refuse_a_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
  return _refuse_a_skip((yield))

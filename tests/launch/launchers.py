"""Runs the launchers as a user does; for the tests beside this file."""

import os
import pathlib
import shlex
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = ('--config=a.py', '--workdir=gs://b/c')  # of main
AWKWARD = "--config.prompt=it's a \"$HOME\" `room`; * a\\b"
PREEMPTED, LOST_HOST = 75, 69  # main's exit codes


def launch(name, *arguments, **environment):
  """Runs a launcher."""
  settings = {'PATH': os.defpath, 'ZONE': 'us-east5-b', 'IMAGE': 'r/p/i:1'}
  return subprocess.run(
      ['bash', str(ROOT / f'launch/{name}.sh'), *arguments],
      env=settings | environment,
      capture_output=True,
      text=True,
      check=False,
  )


def printed(name, *arguments, **environment):
  """The commands of a dry run, as lists of words."""
  done = launch(name, *arguments, '--dry-run', **environment)
  if done.returncode:
    raise AssertionError(done.stderr)
  return [shlex.split(line) for line in done.stdout.splitlines()]

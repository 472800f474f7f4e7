"""Ids tell what surfaces are, and no line is lost in the grid."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from worldsim_jax.data import maps
from worldsim_jax.data import scene as scene_lib


class SceneTest(parameterized.TestCase):

  def test_an_id_tells_what_it_is_of(self):
    scene = scene_lib.of_map('gen:1')
    count = len(scene.heights)
    found = scene_lib.surfaces(
        scene, [0, 1, 2 * 3, 2 * count, 2 * count + 6 * 5 + 3 + 2, -1, -2]
    )
    self.assertSequenceEqual(
        found.kind.tolist(),
        ['floor', 'ceiling', 'floor', 'upper', 'lower', 'sky', 'void'],
    )
    np.testing.assert_array_equal(found.sector, [0, 0, 3, -1, -1, -1, -1])
    np.testing.assert_array_equal(found.line, [-1, -1, -1, 0, 5, -1, -1])
    np.testing.assert_array_equal(found.side, [-1, -1, -1, 0, 1, -1, -1])

  @parameterized.parameters('gen:1', 'MAP01', 'E2M8')
  def test_every_line_is_in_every_cell_that_it_passes(self, name):
    scene, level = scene_lib.of_map(name), maps.load(name).level
    cells = scene.cells
    for part in np.linspace(0, 1, 11):
      point = level.segments @ [
          [1 - part, 0],
          [0, 1 - part],
          [part, 0],
          [0, part],
      ]
      i, j = np.floor((point - (cells.x, cells.y)) / cells.size).astype(int).T
      for line, k in enumerate(i * cells.columns + j):
        inside = cells.lines[cells.first[k] : cells.first[k + 1]]
        self.assertIn(line, inside)
    self.assertEqual(cells.most, np.diff(cells.first).max())

  @parameterized.parameters('gen:1', 'MAP01')
  def test_normals_are_unit_and_point_to_the_side_that_is_seen(self, name):
    scene, level = scene_lib.of_map(name), maps.load(name).level
    np.testing.assert_allclose(
        np.linalg.norm(scene.normals[:-2], axis=1), 1, atol=1e-6
    )
    self.assertFalse(scene.normals[[scene_lib.SKY, scene_lib.VOID]].any())
    np.testing.assert_array_equal(scene.normals[:2], [[0, 0, 1], [0, 0, -1]])
    # The front is right of a line: its normal turns from it by -90 degrees.
    along = level.segments[:, 2:] - level.segments[:, :2]
    front = scene.normals[2 * len(level.floor) :: 6][: len(along), :2]
    self.assertTrue(
        np.all(along[:, 0] * front[:, 1] - along[:, 1] * front[:, 0] < 0)
    )


if __name__ == '__main__':
  absltest.main()

"""Direct image alignment: Gauss-Newton on colours, for many guesses at once.

Two frames of a static scene, the first with known depth. A pixel of it is a
point p = d ((u - cx) / fx, (v - cy) / fy, 1) of the first camera (x right, y
down, z ahead). A camera that has gone `forward` and to the left (`strafe`),
turned to the left by `turn` and come up by `rise` sees it at

  x = cos(turn) (px + strafe) + sin(turn) (pz - forward)
  y = py + 1.2 rise                                                       (1)
  z = cos(turn) (pz - forward) - sin(turn) (px + strafe),

so at u' = fx x / z + cx, v' = fy y / z + cy of the second frame. With a the
colours of the points and b those that the second frame has at (u', v'), both
less their means over what is in view, and g = |a| / |b|, the residuals are

  r = g b - a,                                                            (2)

which neither a gain nor an offset of colours changes. What is minimised is
sum log(1 + |r|^2 / s^2), s the median of |r| (Cauchy's robust cost: hidden
points, sprites and doors count little), by Gauss-Newton with weights
1 / (1 + |r|^2 / s^2) (Kerl, Sturm & Cremers 2013, "Robust odometry estimation
for RGB-D cameras", sec. III, with another weight function). A guess is judged
by the correlation of a and b.

A movement here is (forward, strafe, turn, rise): the components of an action,
and the height; map units and degrees. K guesses, N points, channels last.
"""

import dataclasses

import numpy as np

from worldsim_jax.data.camera import PIXEL_ASPECT

# Nearer than this, in map units, a camera would be inside of a wall.
_NEAREST = 4.0
# No step may go further; it would leave the range where colours are linear.
_LARGEST_STEP = (16.0, 16.0, 6.0, 8.0)
_MIN_POINTS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
  """Two frames at one resolution, the first as points."""

  points: np.ndarray  # float32 [N, 3], in the first camera
  colours: np.ndarray  # float32 [N, 3]
  table: np.ndarray  # float32 [H * W, 9]: second frame, d/du and d/dv of it
  size: tuple[int, int]  # H, W
  focal: tuple[float, float]
  centre: tuple[float, float]
  grid: int  # number of points if all had a depth


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
  """K refined movements and how well they explain the second frame."""

  movements: np.ndarray  # float64 [K, 4]
  similarity: np.ndarray  # [K]: correlation in [-1, 1]; -1 with little in view
  coverage: np.ndarray  # [K]: share of the first frame that is in view
  deviation: np.ndarray  # [K, 4]: what the curvature of the cost lets expect

  def __getitem__(self, index) -> 'Fit':
    return Fit(
        self.movements[index],
        self.similarity[index],
        self.coverage[index],
        self.deviation[index],
    )


def shrink(image, block: int) -> np.ndarray:
  """Means of block x block pixels, float32; 1 blurs by (1, 2, 1) / 4 instead.

  The engine samples textures without filtering: unblurred, a shift by half a
  pixel changes what is seen.
  """
  image = np.asarray(image, np.float32)
  if block == 1:
    for axis in (0, 1):
      ends = [(1, 1) if k == axis else (0, 0) for k in range(3)]
      padded, size = np.pad(image, ends, 'edge'), image.shape[axis]
      parts = [padded.take(range(k, k + size), axis) for k in range(3)]
      image = (parts[0] + 2 * parts[1] + parts[2]) / 4
    return image
  height, width = image.shape[0] // block, image.shape[1] // block
  image = image[: height * block, : width * block]
  return image.reshape(height, block, width, block, -1).mean((1, 3))


def points_of(camera, depth, block: int, stride: int = 1):
  """Rows, columns and points [N, 3] of a shrunken frame's known pixels.

  Args:
    camera: of the whole frame.
    depth: [H, W] of the whole frame; what is not finite is left out.
    block: by which the frame is shrunk.
    stride: pixels of the shrunken frame between points.
  """
  sampled = depth[block // 2 :: block, block // 2 :: block]
  height, width = depth.shape[0] // block, depth.shape[1] // block
  sampled = sampled[stride // 2 : height : stride, stride // 2 : width : stride]
  row, column = np.nonzero(np.isfinite(sampled))
  d = sampled[row, column]
  row, column = row * stride + stride // 2, column * stride + stride // 2
  x = ((column + 0.5) * block - camera.cx) / camera.fx
  y = ((row + 0.5) * block - camera.cy) / camera.fy
  points = np.stack([x * d, y * d, d], 1).astype(np.float32)
  return row, column, points


def pair(camera, frame, depth, later, block: int, stride: int = 1) -> Pair:
  """Both frames [H, W, 3] at 1 / block of their size; depth as `points_of`."""
  row, column, points = points_of(camera, depth, block, stride)
  second = shrink(later, block)
  height, width = second.shape[:2]
  slope_v, slope_u = np.gradient(second, axis=(0, 1))
  return Pair(
      points,
      shrink(frame, block)[row, column],
      np.concatenate([second, slope_u, slope_v], -1).reshape(-1, 9),
      (height, width),
      (camera.fx / block, camera.fy / block),
      (camera.cx / block, camera.cy / block),
      len(range(stride // 2, height, stride))
      * len(range(stride // 2, width, stride)),
  )


def move(points, movements):
  """Eq. (1): x, y, z of points [N, 3], each float32 [K, N]."""
  forward, strafe, turn, rise = np.float32(movements).T[:, :, None]
  cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
  right, ahead = points[:, 0] + strafe, points[:, 2] - forward
  y = points[:, 1] + np.float32(PIXEL_ASPECT) * rise
  return cos * right + sin * ahead, y, cos * ahead - sin * right


def refine(of: Pair, movements, steps: int, min_coverage: float = 0.2) -> Fit:
  """Gauss-Newton from guesses [K, 4]; those that lose the view score -1."""
  movements = np.array(movements, np.float64)
  if len(of.points) < _MIN_POINTS:
    nothing = np.zeros(len(movements))
    return Fit(
        movements, nothing - 1, nothing, np.full(movements.shape, np.inf)
    )
  for _ in range(steps):
    gradient, hessian = _linearise(of, movements)[:2]
    hessian = _damped(hessian)
    step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
    movements += np.clip(step, np.negative(_LARGEST_STEP), _LARGEST_STEP)
  _, hessian, scale, similarity, in_view = _linearise(of, movements)
  variance = np.diagonal(np.linalg.inv(_damped(hessian)), axis1=1, axis2=2)
  deviation = scale[:, None] * np.sqrt(np.maximum(variance, 0))
  coverage = in_view / of.grid
  similarity = np.where(coverage < min_coverage, -1, similarity)
  return Fit(movements, similarity, coverage, deviation)


def _damped(hessian):
  """A little more curvature, so that what is not seen does not move."""
  diagonal = np.einsum('kii->ki', hessian)
  return hessian + np.eye(4) * (1e-3 * diagonal + 1e-6)[:, None]


def _linearise(of, movements):
  """Gradient [K, 4], Hessian [K, 4, 4] of the cost, its scale, and more."""
  x, y, z = move(of.points, movements)
  seen, u, v = _positions(of, x, y, z)
  values = _sample(of, u, v)
  a, b, slope = of.colours, values[..., :3], values[..., 3:]
  count = np.maximum(seen.sum(1), 1)[:, None]
  a = a - (seen @ a / count)[:, None]
  b = b - (np.einsum('kn,knc->kc', seen, b) / count)[:, None]
  power_a = np.einsum('kn,knc,knc->k', seen, a, a, optimize=True)
  power_b = np.einsum('kn,knc,knc->k', seen, b, b, optimize=True)
  product = np.einsum('kn,knc,knc->k', seen, a, b, optimize=True)
  # The least grey level keeps blank walls from being stretched to texture.
  floor = count[:, 0]
  gain = np.sqrt((power_a + floor) / (power_b + floor))[:, None, None]
  residual = gain * b - a
  size = np.sqrt(np.einsum('knc,knc->kn', residual, residual))
  scale = _median(size, seen) + 1e-3
  weight = seen / (1 + (size / scale[:, None]) ** 2)
  jacobian = _jacobian(of, movements, (x, y, z), gain * slope)
  weighted = jacobian * weight[:, :, None, None]
  flat = (len(movements), -1, 4)
  weighted = np.swapaxes(weighted.reshape(flat), 1, 2)
  hessian = weighted @ jacobian.reshape(flat)
  gradient = weighted @ residual.reshape(len(movements), -1, 1)
  similarity = product / np.sqrt((power_a + floor) * (power_b + floor))
  return gradient[..., 0], hessian, scale, similarity, seen.sum(1)


def _positions(of, x, y, z):
  """Who is in view, float32 [K, N], and where, clipped to the frame."""
  height, width = of.size
  ahead = z > _NEAREST
  inverse = 1 / np.where(ahead, z, 1)
  u = of.focal[0] * x * inverse + of.centre[0]
  v = of.focal[1] * y * inverse + of.centre[1]
  seen = ahead & (u > 0.5) & (u < width - 0.5)
  seen &= (v > 0.5) & (v < height - 0.5)
  u, v = np.where(seen, u - 0.5, 0), np.where(seen, v - 0.5, 0)
  return seen.astype(np.float32), u, v


def _sample(of, u, v):
  """The table between its pixels (bilinear), [K, N, 9]."""
  width = of.size[1]
  column, row = u.astype(np.int32), v.astype(np.int32)
  right, down = (u - column)[..., None], (v - row)[..., None]
  at, table = row * width + column, of.table
  above = table[at] * (1 - right) + table[at + 1] * right
  below = table[at + width] * (1 - right) + table[at + width + 1] * right
  return above * (1 - down) + below * down


def _median(size, seen):
  """The median of each row of `size` over who is seen, [K]."""
  ordered = np.sort(np.where(seen > 0, size, np.inf), 1)
  middle = (seen.sum(1) // 2).astype(int)
  found = np.take_along_axis(ordered, middle[:, None], 1)[:, 0]
  return np.where(np.isfinite(found), found, 1.0)


def _jacobian(of, movements, xyz, slope):
  """Of g b by the movement, [K, N, 3, 4]: derivatives of eq. (1)."""
  x, y, z = xyz
  inverse = 1 / np.maximum(z, _NEAREST)
  turn = np.radians(movements[:, 2:3]).astype(np.float32)
  cos, sin, one_degree = np.cos(turn), np.sin(turn), np.float32(np.pi / 180)
  slope_u, slope_v = slope[..., :3], slope[..., 3:]
  columns = []
  for dx, dy, dz in (
      (-sin, 0, -cos),
      (cos, 0, -sin),
      (z * one_degree, 0, -x * one_degree),
      (0, np.float32(PIXEL_ASPECT), 0),
  ):
    du = of.focal[0] * (dx - x * inverse * dz) * inverse
    dv = of.focal[1] * (dy - y * inverse * dz) * inverse
    columns.append(slope_u * du[..., None] + slope_v * dv[..., None])
  return np.stack(columns, -1)

"""Pinhole cameras: pixels, points of the world, and the rigid motions between.

The engine's camera looks along (cos yaw, sin yaw, 0). Its focal lengths differ,
fy = 1.2 fx (Doom's pixels were higher than wide), but a camera cannot tell a
tall pixel from a tall world, so heights are scaled instead:

  X = (x, y, 1.2 z)                                                       (1)

are *world coordinates* here, in map units (32 are about a metre), x east, y
north, z up. In them fx = fy, walls stay upright and floors level, so normals
are the map's. Camera coordinates are OpenCV's, x right, y down, z ahead, and
with depth d, the z of a point in them,

  u = fx x / d + cx,      v = fy y / d + cy.                              (2)

The centre of the pixel in row i and column j is u = j + 1/2, v = i + 1/2.

Shapes: [..., 4, 4] camera-to-world motions, [..., H, W, 2] pixel positions
(u, v), [..., 3] points. All is float64: positions are thousands of map units,
and a track is exact to a hundredth of a pixel.
"""

import dataclasses

import numpy as np

# Heights are scaled by this, eq. (1).
PIXEL_ASPECT = 1.2
MAP_UNITS_PER_METRE = 32.0
# Half the field of view that a 4:3 picture has is 45 degrees.
WIDEST_ASPECT = 4 / 3


@dataclasses.dataclass(frozen=True)
class Camera:
  """Intrinsics, in pixels of a picture of height x width."""

  height: int
  width: int
  fx: float
  fy: float
  cx: float
  cy: float

  @property
  def matrix(self) -> np.ndarray:
    """K, float64 [3, 3]: eq. (2) is (u, v, 1) = K (x, y, d) / d."""
    return np.array(
        [[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64
    )

  def pixels(self) -> np.ndarray:
    """The centres of all pixels, float64 [H, W, 2]."""
    u, v = np.meshgrid(np.arange(self.width), np.arange(self.height))
    return np.stack([u, v], -1) + 0.5

  def resized(self, height: int, width: int) -> 'Camera':
    """The same view in a picture of another size."""
    by_x, by_y = width / self.width, height / self.height
    return Camera(
        height,
        width,
        self.fx * by_x,
        self.fy * by_y,
        self.cx * by_x,
        self.cy * by_y,
    )


def of_engine(options) -> Camera:
  """Of the frames that an engine with these `engine.Options` returns.

  fx = fy where frames have the shape of the engine's picture; the field of view
  is 90 degrees for 4:3, and more only for wider pictures.
  """
  width, height = options.render_width, options.render_height
  focal = min(width, WIDEST_ASPECT * height) / 2
  rendered = Camera(height, width, focal, focal, width / 2, height / 2)
  return rendered.resized(options.height, options.width)


def camera_to_world(pose) -> np.ndarray:
  """Engine poses [..., 4] (x, y, z in map units, yaw in degrees) to motions.

  Returns:
    float64 [..., 4, 4]; the columns are the camera's right, down and ahead, and
    its place, in world coordinates.
  """
  pose = np.asarray(pose, np.float64)
  yaw = np.radians(pose[..., 3])
  cos, sin = np.cos(yaw), np.sin(yaw)
  motion = np.zeros((*pose.shape[:-1], 4, 4))
  motion[..., 0, 0], motion[..., 1, 0] = sin, -cos
  motion[..., 2, 1] = -1
  motion[..., 0, 2], motion[..., 1, 2] = cos, sin
  motion[..., :3, 3] = pose[..., :3] * (1, 1, PIXEL_ASPECT)
  motion[..., 3, 3] = 1
  return motion


def engine_pose(motion) -> np.ndarray:
  """The inverse of `camera_to_world`: [..., 4, 4] to [..., 4]."""
  motion = np.asarray(motion, np.float64)
  ahead = motion[..., :2, 2]
  yaw = np.degrees(np.arctan2(ahead[..., 1], ahead[..., 0])) % 360
  place = motion[..., :3, 3] / (1, 1, PIXEL_ASPECT)
  return np.concatenate([place, yaw[..., None]], -1)


def unproject(camera: Camera, motion, uv, depth) -> np.ndarray:
  """World points [..., N, 3] of pixel positions [..., N, 2] at depths [..., N].

  Args:
    camera: intrinsics.
    motion: [..., 4, 4], of the camera.
    uv: positions, see the module's docstring.
    depth: along the optical axis, in map units; inf gives points of inf or NaN.
  """
  uv, depth = np.asarray(uv, np.float64), np.asarray(depth, np.float64)
  focal, centre = (camera.fx, camera.fy), (camera.cx, camera.cy)
  rays = np.concatenate([(uv - centre) / focal, np.ones_like(uv[..., :1])], -1)
  motion = np.asarray(motion)
  with np.errstate(invalid='ignore'):  # 0 times inf.
    points = rays * depth[..., None]
    turned = points @ np.swapaxes(motion[..., :3, :3], -1, -2)
    return turned + motion[..., None, :3, 3]


def project(camera: Camera, motion, points) -> tuple[np.ndarray, np.ndarray]:
  """Pixel positions [..., N, 2] and depths [..., N] of world points.

  What is not ahead of the camera has a depth of at most 0, no position (NaN).
  """
  motion, points = np.asarray(motion), np.asarray(points, np.float64)
  with np.errstate(invalid='ignore', divide='ignore'):
    local = (points - motion[..., None, :3, 3]) @ motion[..., :3, :3]
    depth = local[..., 2]
    ahead = np.where(depth > 0, depth, np.nan)
    u = camera.fx * local[..., 0] / ahead + camera.cx
    v = camera.fy * local[..., 1] / ahead + camera.cy
  return np.stack([u, v], -1), depth


def relative(motions, origin) -> np.ndarray:
  """Motions [..., 4, 4] seen from another camera [4, 4]: origin^-1 motion."""
  rotation, place = origin[:3, :3], origin[:3, 3]
  inverse = np.eye(4)
  inverse[:3, :3], inverse[:3, 3] = rotation.T, -rotation.T @ place
  return inverse @ motions

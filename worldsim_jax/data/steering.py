"""How players get along a path and to a pose, in spite of their inertia.

In free space a tic of the engine (`engine`, eq. 1) does, for a player of
velocity v in map units per tic, commanded c map units per frame of N tics,

  yaw += turn / N,   v += (3 / 32) (c / N) exp(i yaw),   x += v,   v *= f  (1)

with f = 0.90625; places, velocities and commands are complex numbers here, the
real part east or forward. Over a frame that is linear in v and c:

  dx = a v + b c,    v' = f^N v + b' c,    a = (1 - f^N) / (1 - f)         (2)

A servo solves the first for the command that leads to a place, and learns its
velocity from the last step by the same equations. Errors that walls cause die
out by themselves: at c = -a v / b the next v' is -0.5 v for frames of 4 tics.
"""

import numpy as np

FRICTION = 0.90625  # f
THRUST = 3 / 32  # per unit of command
# The most that is commanded, map units per tic; the engine allows 16.7.
FASTEST = 12.0


class Servo:
  """Goes to places within one frame, or as fast as it can.

  Call `command` once for every frame; or `forget` what was before.
  """

  def __init__(self, tics_per_frame: float):
    self._tics = round(tics_per_frame)
    self.forget()

  def forget(self):
    """Forgets the last frame: afterwards it believes that it stands."""
    self._last = None

  def command(self, pose, target) -> np.ndarray:
    """The command [3] from a pose to a target (x, y, yaw), by the next frame.

    Args:
      pose: [4], of this frame.
      target: yaw in degrees; any turn is made within the frame.
    """
    here, yaw = complex(pose[0], pose[1]), pose[3]
    turn = round(float((target[2] - yaw + 180) % 360 - 180), 2)
    a, b, after = _response(yaw, turn, self._tics)
    velocity = self._velocity(here)
    wanted = (complex(target[0], target[1]) - here - a * velocity) / b
    limit = FASTEST * self._tics
    wanted *= min(1.0, limit / max(abs(wanted), limit))
    action = rounded((wanted.real, wanted.imag, turn))
    self._last = here, complex(action[0], action[1]), a, b, after
    return action

  def _velocity(self, here):
    """Eq. (2): the velocity now, of what the last command has led to."""
    if self._last is None:
      return 0.0
    before, command, a, b, after = self._last
    velocity = (here - before - b * command) / a
    return FRICTION**self._tics * velocity + after * command


def _response(yaw, turn, tics):
  """a, b and b' of eq. (2), for a frame that begins at `yaw` degrees."""
  left = tics - np.arange(tics)  # tics in which a thrust still counts
  heading = np.exp(1j * np.radians(yaw + turn * np.arange(1, tics + 1) / tics))
  reach = (1 - FRICTION**left) / (1 - FRICTION)
  thrust = THRUST / tics * heading
  return reach[0], (thrust * reach).sum(), (thrust * FRICTION**left).sum()


def pursue(path, here, yaw, *, look_ahead, speed, max_turn):
  """One step along a path, towards a point some way ahead on it.

  Args:
    path: float [N, 2], map units, N at least 1.
    here: [2].
    yaw: degrees.
    look_ahead: map units from here to the point.
    speed: map units per frame on a straight path.
    max_turn: degrees per frame.

  Returns:
    the rest of the path, and forward and turn, a command.
  """
  gap = np.hypot(*(path - here).T)
  # Go on from the nearest point of the path to the first one far enough.
  path, gap = path[gap.argmin() :], gap[gap.argmin() :]
  far = np.flatnonzero(gap > look_ahead)
  dx, dy = path[far[0] if far.size else -1] - here
  error = (np.degrees(np.arctan2(dy, dx)) - yaw + 180) % 360 - 180
  turn = np.clip(error, -max_turn, max_turn)
  # Slower in bends, and on the spot when the way is behind.
  forward = speed * max(0.0, np.cos(np.radians(1.5 * error)))
  return path, (forward if abs(error) < 60 else 0, turn)


def rounded(action) -> np.ndarray:
  """float32 [3] of hundredths, because a recipe is stored as text."""
  return np.round(np.array(action), 2).astype(np.float32)

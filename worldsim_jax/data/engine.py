"""The game engine, headless: commands in physical units, frames and poses.

Calibration, measured with ViZDoom 1.3.2 on a flat map (engine_test.py repeats
it). Each tic the player's velocity is multiplied by 0.90625 (Doom's friction),
and the command of a MOVE_*_DELTA button adds 1/32 unit per count to it, so

  steady displacement per tic = (1/32) / (1 - 0.90625) = 1/3 unit a count  (1)

(measured 0.3332), the same for strafing; counts are whole numbers, at most 50,
the running speed. TURN_LEFT_RIGHT_DELTA turns at once, in steps of 360 / 65536
degrees. The engine's positive strafe and turn are to the right, ours to the
left.

A frame's command is spread evenly over its tics in whole counts; what rounding
leaves over is carried to the next frames, so that long sums are exact.
"""

import contextlib
import dataclasses
import os
import shlex
import shutil
import tempfile

import numpy as np

from worldsim_jax.data import area
from worldsim_jax.data import maps
from worldsim_jax.data import missing
from worldsim_jax.data import observation
from worldsim_jax.data import wad
from worldsim_jax.errors import UserError

MAX_COUNT_PER_TIC = 50
# Engine counts per unit of (forward, strafe, turn): eq. (1), and 16-bit angles.
COUNTS_PER_UNIT = np.array([3.0, -3.0, -65536 / 360])
# A new player does not react for 7 tics; measured, with some margin.
WAKE_TICS = 10
# After a warp the eye is at the wrong height for a tic or two.
SETTLE_TICS = 4
EYE_HEIGHT = 41.0
# What to leave out of the picture.
HIDDEN = 'hud weapon crosshair messages screen_flashes decals particles corpses'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """How a map is shown; sizes in pixels."""

  height: int = 48  # of the frames returned, area-averaged from
  width: int = 64
  render_height: int = 120  # the engine's picture; only some sizes exist
  render_width: int = 160
  tics_per_frame: int = 4  # 1/35 s each
  monsters: bool = False  # They move, and die, and shoot.
  geometry: bool = False  # Tell what `observation` lists, too.

  @property
  def engine_options(self) -> dict:
    """Only these fields: classes that have more of them inherit from here."""
    names = [field.name for field in dataclasses.fields(Options)]
    return {name: getattr(self, name) for name in names}


class Engine:
  """One running game on one map. Deterministic: no clock, no global state.

  >>> with Engine('gen:7') as engine:
  ...   rgb, pose = engine.reset(seed=0)
  ...   rgb, pose = engine.step((24., 0., 5.))
  """

  def __init__(self, map_name: str, **options):
    """Starts the engine (0.2 s); see `maps` for names and `Options`."""
    self.map = maps.load(map_name)
    self.options = Options(**options)
    self.cuts = 0  # times that the game ended since `reset`
    self.seen = None  # with Options.geometry: the last frame's observation
    # Once started, the engine has read what it needs: no file outlives this.
    try:
      with tempfile.TemporaryDirectory(prefix='worldsim_engine_') as folder:
        self._game = self._open(os.path.abspath(folder))
    except OSError as e:
      raise UserError(f'{map_name}: the engine did not start ({e})') from e

  def __enter__(self):
    return self

  def __exit__(self, *unused_exception):
    self.close()

  def close(self):
    self._game.close()

  def reset(self, seed: int = 0, start=None):
    """Begins anew at start = (x, y, yaw), or where the map says.

    x and y are rounded to whole map units.

    Returns:
      rgb uint8 [H, W, 3] and pose float64 [4]: x, y, z of the eye in map units,
      yaw in degrees in [0, 360).
    """
    self._seed, self._start = seed, start
    self.cuts = 0
    with self._alive():
      self._begin()
      return self._observe()

  def step(self, action):
    """Commands one frame: float [3], see `actions`. Returns as `reset`.

    If the game ends (an exit, a death), it begins anew and `cuts` grows: the
    frame returned is then the first of another shot.
    """
    counts, self._carry = spread_over_tics(
        action, self._carry, self.options.tics_per_frame
    )
    with self._alive():
      for k, tic in enumerate(counts):
        self._game.set_action(_buttons(tic))
        self._game.advance_action(1, k == len(counts) - 1)
        if self._game.is_episode_finished():
          self.cuts += 1
          self._begin()
          break
      return self._observe()

  def jump(self, start):
    """The player is elsewhere, standing, and the game goes on there.

    Nobody sees how he stops and lands: it takes the game a second or two.

    Args:
      start: (x, y, yaw), as for `reset`.

    Returns:
      rgb and pose, as `reset`.
    """
    with self._alive():
      # A warped player slides on, so he is to stop before.
      place = None
      while place != (place := tuple(self._variables()[:2])):
        self._game.make_action([0, 0, 0], SETTLE_TICS)
        if self._game.is_episode_finished():
          self._begin()
      self._carry = np.zeros(3)
      self._warp(*start)
      return self._observe()

  def toggle_walls(self):
    """The player can walk through walls, or no longer can."""
    with self._alive():
      self._game.send_game_command('noclip')

  @contextlib.contextmanager
  def _alive(self):
    """Says in one line that the engine's process has died, if it has."""
    import vizdoom

    try:
      yield
    except (
        vizdoom.ViZDoomErrorException,
        vizdoom.ViZDoomIsNotRunningException,
        vizdoom.ViZDoomUnexpectedExitException,
    ) as e:
      raise UserError(f'{self.map.name}: the engine died ({e})') from e

  def _begin(self):
    self._carry = np.zeros(3)
    self._game.set_seed(self._seed)
    self._game.new_episode()
    self._game.make_action([0, 0, 0], WAKE_TICS)
    self._game.send_game_command('god')
    if self._start is not None:
      self._warp(*self._start)

  def _warp(self, x, y, yaw):
    # The command takes whole numbers.
    x, y = round(x), round(y)
    self._game.send_game_command(f'warp {x} {y}')
    self._game.make_action([0, 0, 0], 1)
    turn = (yaw - self._variables()[3] + 180) % 360 - 180
    counts, _ = spread_over_tics((0, 0, turn), np.zeros(3), 1)
    self._game.make_action(_buttons(counts[0]), 1)
    self._game.make_action([0, 0, 0], SETTLE_TICS)
    at_x, at_y, eye, _, feet = self._variables()
    # A player warped into a solid part hovers somewhere, too low or outside.
    outside = wad.sectors_in_row(self.map.level, np.array([x]), y)[0] < 0
    if (at_x, at_y) != (x, y) or eye - feet < EYE_HEIGHT - 1 or outside:
      raise UserError(
          f'{self.map.name}: nobody can stand at start x={x}, y={y}'
      )

  def _variables(self):
    return self._game.get_state().game_variables

  def _observe(self):
    state = self._game.get_state()
    rgb = area.resize(
        state.screen_buffer, self.options.height, self.options.width
    )
    pose = np.array(state.game_variables[:4], np.float64)
    pose[3] %= 360
    if self.options.geometry:
      self.seen = observation.of_state(state, self.options)
    # The engine reuses its buffer; resize copies unless the sizes agree.
    return (rgb.copy() if rgb is state.screen_buffer else rgb), pose

  def _open(self, folder):
    try:
      import vizdoom
    except ImportError as e:
      raise missing('vizdoom', 'the embedded world') from e
    game = vizdoom.DoomGame()
    game.set_vizdoom_path(_wrapper(vizdoom, folder))
    game.set_doom_game_path(self.map.iwad)
    game.set_doom_map(self.map.engine_name)
    game.set_doom_config_path(os.devnull)  # It would save one on exit.
    if self.map.pwad is not None:
      game.set_doom_scenario_path(_write(folder, 'map.wad', self.map.pwad))
    _configure(game, vizdoom, self.options)
    if self.options.geometry:
      observation.configure(game, self.map.level)
    # Cheats allow warp and god. The view's bobbing depends on a clock that no
    # action shows.
    game.add_game_args('+sv_cheats 1 +set movebob 0 +set stillbob 0')
    if not self.options.monsters:
      game.add_game_args('-nomonsters')
    try:
      game.init()
    except (
        vizdoom.ViZDoomErrorException,
        vizdoom.ViZDoomUnexpectedExitException,
    ) as e:
      raise UserError(f'{self.map.name}: the engine did not start ({e})') from e
    return game


def _wrapper(vizdoom, folder):
  """Path of a script that starts the engine where it can do no harm.

  The engine makes a folder where it is started, and fails if it cannot, or if
  another engine does so at the same time: it gets a folder of its own. And
  Linux is to end it when this process is killed, however it is; it would
  otherwise wait for its next command for ever.
  """
  package = os.path.dirname(os.path.abspath(vizdoom.__file__))
  command = [os.path.join(package, 'vizdoom')]
  setpriv = shutil.which('setpriv')
  if setpriv:
    command = [os.path.abspath(setpriv), '--pdeathsig', 'KILL', *command]
  go = f'cd {shlex.quote(folder)} && exec {shlex.join(command)} "$@"'
  path = _write(folder, 'engine.sh', f'#!/bin/sh\n{go}\n'.encode())
  os.chmod(path, 0o700)
  # The engine's library crashes this process if the engine does not start.
  if not os.access(path, os.X_OK):
    raise UserError(
        f'the engine did not start: programs cannot run in {folder}; set '
        'TMPDIR to a folder where they can'
    )
  return path


def _write(folder, name, content):
  path = os.path.join(folder, name)
  with open(path, 'wb') as f:
    f.write(content)
  return path


def spread_over_tics(action, carry, tics: int):
  """Whole engine counts int64 [tics, 3] of a command, and the new carry [3].

  Raises:
    UserError: if the command is faster than the engine's player can run.
  """
  counts = np.asarray(action, np.float64) * COUNTS_PER_UNIT
  if not np.isfinite(counts).all():
    raise UserError(f'action {action} is not finite')
  limit = MAX_COUNT_PER_TIC * tics
  if np.abs(counts[:2]).max() > limit:
    raise UserError(
        f'action {np.asarray(action)}: a player runs at most {limit / 3:.1f} '
        f'map units per frame of {tics} tics'
    )
  due = carry + counts * (np.arange(tics + 1)[:, None] / tics)
  due[0] = 0  # What was carried is not yet given.
  given = np.rint(due)
  return np.diff(given, axis=0).astype(np.int64), due[-1] - given[-1]


def _buttons(counts):
  """Button values of whole counts; the engine floors angles, so aim halfway."""
  forward, strafe, turn = (int(c) for c in counts)
  return [forward, strafe, (turn + 0.5) * 360 / 65536 if turn else 0]


def _configure(game, vizdoom, options):
  name = f'RES_{options.render_width}X{options.render_height}'
  resolution = getattr(vizdoom.ScreenResolution, name, None)
  if resolution is None:
    known = [r for r in dir(vizdoom.ScreenResolution) if r.startswith('RES_')]
    raise UserError(
        f'the engine cannot render {name[4:].lower()} (width x height); it can:'
        f' {", ".join(sorted(r[4:].lower() for r in known))}'
    )
  game.set_screen_resolution(resolution)
  game.set_screen_format(vizdoom.ScreenFormat.RGB24)
  game.set_window_visible(False)
  game.set_episode_timeout(0)
  for name in HIDDEN.split():
    getattr(game, f'set_render_{name}')(False)
  for name in ('MOVE_FORWARD_BACKWARD', 'MOVE_LEFT_RIGHT', 'TURN_LEFT_RIGHT'):
    game.add_available_button(getattr(vizdoom.Button, f'{name}_DELTA'))
  variable = vizdoom.GameVariable
  for axis in 'XYZ':
    game.add_available_game_variable(
        getattr(variable, f'CAMERA_POSITION_{axis}')
    )
  game.add_available_game_variable(variable.CAMERA_ANGLE)
  game.add_available_game_variable(variable.POSITION_Z)

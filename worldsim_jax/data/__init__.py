"""The embedded world: maps, a deterministic engine, records, batches.

The shape legend of this folder (arrays are channels last, as everywhere):

  T frames of an episode      B batch      F frames of a clip
  H, W height and width in pixels          S sectors, L segments of a level

Units: map units (a Doom player is 56 high, his eyes at 41, a running step about
16 per tic), degrees (yaw grows to the left, 0 is east), tics (1/35 s). A frame
is `tics_per_frame` tics.

An *episode* is a dict, the schema of every record, whatever it came from:

  rgb      uint8   [T, H, W, 3]
  actions  float32 [T, 3]   forward, strafe (left is positive), turn (likewise);
                            actions[t] led from frame t-1 to t, actions[0] = 0
  pose     float64 [T, 4]   x, y, z of the eye and yaw; NaN for users' videos
  shot_id  int32   [T]      grows by one at every cut
  caption  str
  recipe   str              JSON of `episodes.Recipe`, '' for users' videos

and, where it was asked for,

  shot_captions  str        a line for each shot, told from exact state
  violation_id   int32 [T]  grows by one in a frame that shows the impossible
  sprites ...               what `observation` lists

Depth, normals, flow and tracks need not be stored: `geometry` and
`correspondence` compute them from the poses.

Files, bottom up: `wad` reads levels, `generator` makes them and `variants`
changes them, `maps` names them, `splits` divides them, `occupancy` tells where
one can walk and `sight` what one can see; `actions` are what a player commands,
`engine` obeys and shows (`area` makes its pictures smaller), `steering` leads,
`navigator` and `revisiting` play, `episodes` films, with the `events` that no
action brings about; of films, `captions` tells what they show, `revisits` where
they come back, `counterfactuals` what else might have been, and `impossible`
makes those that cannot be; `shots` finds their cuts, `records` stores
them, made by `shards` (in the processes of `workers`) and told of by
`description`; `worlds` makes record sets of maps and `film_folders` of a user's
own `video_files`, `pipeline` makes batches of them.

What a level looks like, exactly: `camera` says where a point is in a picture,
`scene` names surfaces, `raycast` (its readable half is `raycast_reference`)
finds them, `geometry` does it for films, `correspondence` follows points, and
`reprojection` measures whether pictures agree.

Only numpy is imported at the top of these files (and numba at that of
`raycast`, which is itself imported late). ViZDoom, PyAV, tfds and grain are
imported where they are used, so that an accelerator image that lacks one of
them can use the rest; see `missing`.
"""

from worldsim_jax.errors import UserError


def missing(package: str, use: str) -> UserError:
  """The error for an optional dependency that is not installed."""
  return UserError(f'{use} needs {package}: pip install {package}')

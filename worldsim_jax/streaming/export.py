"""`--mode=export`: a world as two compiled-program files and its parameters.

The programs run without this package's models: jax.export serialises
`World.start` and `World.advance` as StableHLO, which stays loadable for at
least six months of JAX releases. A folder holds what `streaming.files` writes
(so that it is a world, too) and

  start.stablehlo    (variables, frames uint8, actions, text, key) -> session
  advance.stablehlo  (variables, session, actions) -> session and frames uint8

Trees cross the border as flat lists of arrays, in the order of jax.tree.leaves.
"""

import jax
import jax.numpy as jnp
from jax import export as jax_export
import numpy as np

from worldsim_jax.data.actions import ActionSpace
from worldsim_jax.errors import UserError
from worldsim_jax.models import build
from worldsim_jax.storage import paths
from worldsim_jax.streaming import files
from worldsim_jax.streaming.world import World

START, ADVANCE = 'start.stablehlo', 'advance.stablehlo'
PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(world: World, target):
  """Writes a world and its programs to a folder.

  Args:
    world: what to write.
    target: the folder; an older one is replaced when the new one is complete.
  """
  programs = compile_programs(world)
  files.save(world, target, extra=programs)
  print(f'{target}: parameters, and programs for {", ".join(PLATFORMS)}')


def compile_programs(world: World, batch: int = 1) -> dict[str, bytes]:
  """The programs by file name, for `batch` streams that advance together."""
  if not world.context_frames:
    raise UserError('this world begins with no frames '
                    '(config.student.context_frames=0), so that its first step '
                    'is unlike the others: it cannot be exported')
  inputs = example_inputs(world, batch)
  session = jax.eval_shape(world.start, *inputs)
  flat, treedef = jax.tree.flatten(session)
  actions = jax.ShapeDtypeStruct(
      (batch, world.frames_per_step, build.NUM_ACTIONS), jnp.float32)
  variables, variables_def = jax.tree.flatten(world.variables)

  def start(variables, frames, actions, text, key):
    tree = jax.tree.unflatten(variables_def, variables)
    return jax.tree.leaves(world.start(tree, frames, actions, text, key))

  def advance(variables, session, actions):
    session, frames = world.advance(
        jax.tree.unflatten(variables_def, variables),
        jax.tree.unflatten(treedef, session), actions)
    return jax.tree.leaves(session), frames

  def program(fn, *args):
    exported = jax_export.export(jax.jit(fn), platforms=PLATFORMS)(*args)
    return bytes(exported.serialize())

  return {START: program(start, variables, *inputs[1:]),
          ADVANCE: program(advance, variables, flat, actions)}


def example_inputs(world: World, batch: int):
  """Shapes of `World.start`'s arguments."""
  config, struct = world.config, jax.ShapeDtypeStruct
  size = (config.data.height, config.data.width, 3)
  text = None
  if world.model.text_dim:
    text = struct((batch, config.text.length, config.text.dim), jnp.float32)
  return (world.variables,
          struct((batch, world.context_frames, *size), jnp.uint8),
          struct((batch, world.context_frames, build.NUM_ACTIONS), jnp.float32),
          text, struct((2,), jnp.uint32))


class ExportedWorld:
  """An exported world, run from its program files.

  Parameters and first frames are read, and text is encoded, as for a `World`.
  """

  def __init__(self, path):
    """Reads the folder that `export` wrote.

    Raises:
      UserError: if the programs are not there or not readable.
    """
    path = paths.folder(path)
    self._world = files.load(path)
    try:
      self._start, self._advance = (
          jax_export.deserialize(bytearray((path / name).read_bytes()))
          for name in (START, ADVANCE))
    except Exception as e:  # A truncated flatbuffer raises many types.
      raise UserError(f'{path}: no readable {START} and {ADVANCE} here ({e}); '
                      'make them with --mode=export') from e
    self._variables = jax.tree.leaves(self._world.variables)

  def stream(self, prompt: str | None = None, frames=None, seed: int = 0):
    """As World.stream; the session is a list of arrays."""
    world = self._world
    if frames is None:
      frames = world.starts[seed % len(world.starts)]
    actions = jnp.zeros((1, world.context_frames, build.NUM_ACTIONS))
    return self._start.call(
        self._variables, np.asarray(frames)[None], actions,
        world.encode_text(prompt), jax.random.key_data(jax.random.key(seed)))

  def step(self, session, actions_PA):
    """As World.step, with actions float [frames_per_step, 3]."""
    session, frames = self._advance.call(
        self._variables, session, ActionSpace().normalise(actions_PA)[None])
    return session, frames[0]

"""A config's programs as functions of shapes, to be compiled and never run.

  <stage>   a training step of each stage
  rollout   the student's own video, as Self Forcing makes it in training
  start     a stream's first frames into a session
  stream    one interactive step: the next chunk, denoised and decoded
  decode    the tokenizer's part of it

Where the last stage is bidirectional, instead of the last four:

  film      one denoising step of a whole film, guided if it is
"""

import functools
from typing import Any, Callable, NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import jax.numpy as jnp

from worldsim_jax.attention import kv_cache
from worldsim_jax.diffusion import guidance
from worldsim_jax.errors import UserError
from worldsim_jax.forcing import rollout
from worldsim_jax.forcing import self_forcing
from worldsim_jax.models import build
from worldsim_jax.models.conditioning import Conditioning
from worldsim_jax.parallel import flops
from worldsim_jax.parallel import layout
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.streaming import export
from worldsim_jax.streaming import files
from worldsim_jax.streaming import films
from worldsim_jax.streaming.world import World
from worldsim_jax.train import loop
from worldsim_jax.train import stages as stage_lib
from worldsim_jax.train import state as train_state
from worldsim_jax.train import students

STREAMING = ('rollout', 'start', 'stream', 'decode')
FILMING = ('film',)


class Program(NamedTuple):
  """A jitted function and the shapes that it is called with.

  Attributes:
    name: see the module docstring.
    fn: jitted.
    args: ShapeDtypeStructs with shardings.
    counted: the same, in products that `flops.count` sees.
    rates: how often what only the run decides is done.
    batch: clips or streams that are computed at once.
    is_split: whether the axes 'context' and 'tensor' share the work: not that
      of a tokenizer, which every chip of them repeats.
    frames: pixel frames that it makes; 0 for a training step.
    others: what else is on the devices then: the networks of earlier stages.
  """
  name: str
  fn: Callable[..., Any]
  args: tuple[Any, ...]
  counted: Callable[..., Any]
  rates: flops.Rates = flops.Rates()
  batch: int = 1
  is_split: bool = True
  frames: int = 0
  others: Any = ()

  def flops(self) -> float:
    """Of all devices together, recomputation included."""
    plain = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.args)
    return flops.count(self.counted, *plain, rates=self.rates)


def names(config) -> tuple[str, ...]:
  """Of all programs of a config."""
  trained = [name for name in config.stages if config[name].num_steps]
  return (*trained, *_playing(config))


def _playing(config) -> tuple[str, ...]:
  """Programs of the last stage's network."""
  return STREAMING if _world(config).is_causal else FILMING


def make(name: str, config, mesh) -> Program:
  """One of `names`; to be lowered under the mesh, and made outside of it.

  Raises:
    UserError: if the config has no such program.
  """
  known = names(config)
  if name not in known:
    raise UserError(f'--programs={name} is not one of {", ".join(known)}.')
  if name not in _playing(config):
    return _train_step(name, config, mesh)
  return {'rollout': _rollout, 'start': _start, 'stream': _stream,
          'decode': _decode, 'film': _film}[name](config, mesh)


def _train_step(name, config, mesh) -> Program:
  stage = stage_of(name, config)
  trained = _trained(config, before=name)
  state = meshes.abstract(mesh, loop.abstract_state(stage, trained),
                          train_state.host_paths(stage.updates))
  frozen = meshes.abstract(mesh, jax.eval_shape(stage.frozen, trained))
  counted = stage_of(name, counted_config(config))
  step = lambda stage: train_state.make_train_step(stage.updates, config.seed)
  return Program(
      name, step(stage), (state, frozen, _split(mesh, batch(name, config))),
      step(counted), stage.rates, config[name].batch_size,
      is_split=config[name].paradigm != 'tokenizer',
      others=meshes.abstract(mesh, trained))


def stage_of(name, config):
  """A stage without data."""
  inputs = stage_lib.Inputs(config, lambda stage: None, films=tuple)
  return stage_lib.make(name, inputs)


def counted_config(config):
  """With attention, if any, written out in products that can be counted."""
  return stage_lib.counted(config, dict(attention='xla'))


def _trained(config, before: str):
  """Shapes of the networks of the stages before one, by stage name."""
  trained = {}
  for name in config.stages[:config.stages.index(before)]:
    stage = stage_of(name, config)
    trained[name] = jax.eval_shape(stage.init, trained)[name]
  if students.needs_latent_space(before, config):
    video = jnp.zeros((1, 1, config.data.height, config.data.width, 3))
    trained[students.LATENT_SPACE] = jax.eval_shape(
        build.tokenizer(config).init, jax.random.key(0), video)
  return trained


def batch(name: str, config):
  """Shapes of a stage's batch, of all hosts together."""
  stage, struct = config[name], jax.ShapeDtypeStruct
  leading = (stage.batch_size, stage.clip_frames)
  if stage.paradigm == 'tokenizer':
    size = (config.data.height, config.data.width, 3)
    return {'rgb': struct((*leading, *size), jnp.uint8),
            'actions': struct((*leading, build.NUM_ACTIONS), jnp.float32)}
  model = build.denoiser(build.for_network(config, name))
  shapes = {'latents': (*leading, *build.latent_size(config),
                        model.latent_channels)}
  if model.action_dim:
    shapes['actions'] = (*leading, model.action_dim)
  if model.text_dim:
    shapes['text'] = (*_texts(name, config), config.text.length, model.text_dim)
  arrays = {name: struct(shape, jnp.float32) for name, shape in shapes.items()}
  if stage.get('shots', 1) > 1:
    arrays['shot_id'] = struct(leading, jnp.int32)
  return arrays


def _texts(name, config) -> tuple[int, ...]:
  """Of a batch: samples, and texts of each if shots have their own."""
  stage = config[name]
  has_many = stage.get('shots', 1) > 1 and config.text.get('per_shot')
  return (stage.batch_size, *[stage.shots] * has_many)


def _film(config, mesh) -> Program:
  name = config.stages[-1]
  example = batch(name, config)

  def make_fn(config):
    world = _world(config)
    cut = films.plan(world)
    velocity = films.with_context(world, cut)

    def step(params, x, timesteps, conditioning):
      denoiser = guidance.guided(
          functools.partial(velocity, params), conditioning,
          conditioning.unconditional(), config.evaluate.guidance_scale)
      return denoiser(x, timesteps)

    return jax.jit(step)

  x = example['latents']
  conditioning = Conditioning(
      text=example.get('text'), actions=example.get('actions'),
      image=x if config.model.image else None)
  timesteps = jax.ShapeDtypeStruct(x.shape[:2], jnp.float32)
  args = (meshes.abstract(mesh, _world(config).params),
          *_split(mesh, (x, timesteps, conditioning)))
  frames = sum(films.plan(_world(config)).frames)
  return Program('film', make_fn(config), args,
                 make_fn(counted_config(config)), batch=x.shape[0],
                 frames=frames * x.shape[0])


def _rollout(config, mesh) -> Program:
  name = config.stages[-1]
  stage, given = config[name], config.student.context_frames

  def make_fn(config):
    own = build.student(config)
    generate = self_forcing.make_generator(
        build.velocity_fn(build.denoiser(own)),
        lambda batch: build.new_cache(own, batch, stage.clip_frames),
        _world(config).sampling, context_frames=given)
    return jax.jit(lambda params, batch, key: generate(
        params, batch, jax.random.wrap_key_data(key))[0])

  key = jax.ShapeDtypeStruct((2,), jnp.uint32)
  args = (meshes.abstract(mesh, _world(config).params),
          _split(mesh, batch(name, config)), _whole(mesh, key))
  passes = rollout.mean_passes(_world(config).sampling)
  new = build.tokenizer(config).time_stride * (stage.clip_frames - given)
  return Program('rollout', make_fn(config), args,
                 make_fn(counted_config(config)),
                 flops.Rates(while_trips=passes), stage.batch_size,
                 frames=new * stage.batch_size)


def _start(config, mesh) -> Program:
  world = _world(config)
  inputs = export.example_inputs(world, batch=1)
  args = (meshes.abstract(mesh, inputs[0]), *_whole(mesh, inputs[1:]))
  return Program('start', jax.jit(world.start), args,
                 jax.jit(_world(counted_config(config)).start), is_split=False)


def _stream(config, mesh) -> Program:
  world = _world(config)
  inputs = export.example_inputs(world, batch=1)
  session = jax.eval_shape(world.start, *inputs)
  actions = jax.ShapeDtypeStruct(
      (1, world.frames_per_step, build.NUM_ACTIONS), jnp.float32)
  args = (meshes.abstract(mesh, inputs[0]), _session(mesh, session),
          _whole(mesh, actions))
  return Program('stream', jax.jit(world.advance, donate_argnums=1), args,
                 jax.jit(_world(counted_config(config)).advance),
                 frames=world.frames_per_step)


def _decode(config, mesh) -> Program:
  world = _world(config)
  variables = export.example_inputs(world, batch=1)[0]
  session = jax.eval_shape(world.start, *export.example_inputs(world, 1))
  latents = jax.ShapeDtypeStruct(
      (1, config.student.chunk, *session.video.last_frame.shape[1:]),
      jnp.float32)
  fn = jax.jit(functools.partial(world.vae.apply, method='decode'))
  args = (meshes.abstract(mesh, variables['vae']),
          *_whole(mesh, (latents, session.decoder)))
  return Program('decode', fn, args, fn, is_split=False,
                 frames=world.frames_per_step)


def _world(config) -> World:
  """A world of shapes."""
  shapes = jax.eval_shape(lambda: files.initial_variables(config))
  return World(config, shapes['student'], shapes['vae'], ())


def _session(mesh, session):
  """The cache lies as `layout` says, everything else is small and copied."""
  whole = _whole(mesh, session)
  cache = session.video.cache
  if not isinstance(cache, kv_cache.KVCache):
    return whole
  with jax.set_mesh(mesh):
    sharding = NamedSharding(mesh, layout.cache_spec(cache.k.shape))
  k, v = (jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
          for x in (cache.k, cache.v))
  return whole.replace(video=whole.video.replace(
      cache=whole.video.cache.replace(k=k, v=v)))


def _split(mesh, tree):
  """Along the first axis, as `mesh.place_batch` does."""
  return _with_spec(mesh, tree, meshes.batch_spec())


def _whole(mesh, tree):
  return _with_spec(mesh, tree, PartitionSpec())


def _with_spec(mesh, tree, spec):
  sharding = NamedSharding(mesh, spec)
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

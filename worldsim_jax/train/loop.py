"""The training loop: one for every stage and every algorithm.

  state → data → step → log → save, until num_steps

The host never waits for the device inside the loop: metrics are read one step
late, checkpoints are copied and written in the background. A signal to stop is
obeyed after a step, by all processes after the same one.
"""

import contextlib
import dataclasses
from typing import Any, Callable

import jax
import jax.numpy as jnp

from worldsim_jax.errors import Preempted
from worldsim_jax.parallel import distributed
from worldsim_jax.parallel import flops
from worldsim_jax.parallel import layout
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.parallel import preemption
from worldsim_jax.train import checkpoints
from worldsim_jax.train import metrics as metrics_lib
from worldsim_jax.train import state as train_state
from worldsim_jax.train.monitor import Monitor


@dataclasses.dataclass(frozen=True)
class Stage:
  """What one stage trains, on what, for how long.

  Attributes:
    name: of the stage, a key of the config.
    num_steps: until it is done.
    updates: the networks that it trains.
    init: trained -> params, a dict of the networks that this stage trains, from
      those of the stages before, by stage name.
    fit: params -> params, what can be computed from data before the first step;
      None for nothing.
    frozen: trained -> a dict of the parameters that are only read.
    batches: () -> a data iterator with get_state and set_state.
    tokens_per_step: for the log.
    rollout_steps: mean trip count of the loops whose length is drawn at random.
    monitor: what watches the student on held-out clips, or None.
    counted_updates: the updates without recomputation (remat), which model
      FLOPs leave out; the same as `updates` where it is empty.
  """
  name: str
  num_steps: int
  updates: tuple[train_state.Update, ...]
  init: Callable[[dict[str, Any]], dict[str, Any]]
  frozen: Callable[[dict[str, Any]], dict[str, Any]]
  batches: Callable[[], Any]
  tokens_per_step: int
  rollout_steps: float = 0.
  fit: Callable[[Any], Any] | None = None
  monitor: Monitor | None = None
  counted_updates: tuple[train_state.Update, ...] = ()

  @property
  def watched(self) -> tuple[str, ...]:
    """Networks that the monitor judges."""
    return (self.monitor.network,) if self.monitor else ()

  @property
  def rates(self) -> flops.Rates:
    """How often an average step does what only the run decides."""
    return flops.Rates(while_trips=self.rollout_steps,
                       cond=1 / max(update.every for update in self.updates))


def train(stage: Stage, trained, config, seed: int, workdir, fingerprint,
          mesh=None) -> train_state.TrainState:
  """Runs a stage to its end, from its newest checkpoint if there is one.

  Args:
    stage: see above.
    trained: the networks of the stages before, by stage name.
    config: config.loop.
    seed: of the run.
    workdir: checkpoints go to workdir/<stage>.
    fingerprint: flat dict; a checkpoint made with another is refused.
    mesh: default: all devices, each with a copy of the parameters.

  Returns:
    The final state.

  Raises:
    UserError: if a loss or gradient is not finite (the last good checkpoint
      stays), or checkpoints cannot be read or written.
    Preempted: after saving, if a process was told to stop.
  """
  mesh = mesh or meshes.make_mesh()
  step_fn = train_state.make_train_step(stage.updates, seed)
  kept = dict(max_to_keep=config.max_to_keep, keep_every=config.keep_every)
  with (contextlib.ExitStack() as until_saved, jax.set_mesh(mesh),
        checkpoints.Checkpoints(
            workdir / stage.name, fingerprint, **kept) as saved):

    # --- state and data, from the newest checkpoint or from nothing
    state, batches = _begin(stage, trained, saved, mesh)
    done = first = int(state.step)
    frozen = jax.jit(_laid_out(stage.frozen))(trained)
    logger = _logger(
        stage, workdir, config, state,
        model_flops(stage, step_fn, state, frozen, _peek(batches, mesh)))
    stop_sign = preemption.StopSign(mesh)
    watch = _watcher(stage, seed, mesh, logger.note)

    # --- steps
    with logger, distributed.progress(
        lambda: _resumes(stage, saved.written_step())):
      while done < stage.num_steps:
        step = done
        batch = meshes.place_batch(mesh, next(batches))
        state, new = step_fn(state, frozen, batch)
        new = train_state.trained_metrics(new, stage.updates, step)
        state, held_out, done = watch(state, step)
        logger.push(step, new | held_out)
        if step == first:  # Before it there is nothing to save.
          until_saved.enter_context(preemption.deferred())
        stops = stop_sign.is_up()
        if stops or done % config.save_every == 0 or done == stage.num_steps:
          # Reads this step's loss and gradient norms, and raises where one is
          # not finite: parameters that are NaN are never saved.
          with logger.paused():
            saved.save(done, state, batches.get_state())
        if stops:
          saved.wait()
          raise Preempted(f'{_resumes(stage, done)} if run again', agreed=True)
  return state


def _logger(stage, workdir, config, state, flops_per_step):
  logger = metrics_lib.MetricLogger(
      workdir, stage=stage.name, first_step=int(state.step),
      num_steps=stage.num_steps, tokens_per_step=stage.tokens_per_step,
      log_every=config.log_every, flops_per_step=flops_per_step)
  if not state.step:
    logger.parameters(state.params)
  return logger


def _watcher(stage, seed, mesh, announce):
  """Returns watch(state, step) -> (state, metrics, finished steps).

  It measures on held-out clips when it is time, and waits for the result. A
  stage whose student has collapsed is finished, whatever its step.
  """
  monitor = stage.monitor
  if monitor is None:
    return lambda state, step: (state, {}, step + 1)
  clips = meshes.place_batch(
      mesh, monitor.clips(), 'config.*.monitor.num_clips')

  def judge(state):
    found = monitor.measure(
        state.averaged_params(monitor.network), clips,
        train_state.purpose_key(seed, 0, 'held out'))
    return layout.constrain(
        state.judged(monitor.network, found['error'])), found

  judge = jax.jit(judge, donate_argnums=0)

  def watch(state, step):
    done = step + 1
    if done % monitor.every:
      return state, {}, done
    state, found = judge(state)
    if monitor.is_collapsed(contrast := float(found['contrast'])):
      announce(f'ends at step {done}: the student has collapsed (contrast '
               f'{contrast:.2g} of the truth\'s); what was best on held-out '
               'clips is kept')
      done = stage.num_steps
      state = state.replace(step=jnp.full_like(state.step, done))
    return state, {f'held_out/{k}': x for k, x in found.items()}, done

  return watch


def _begin(stage, trained, saved, mesh):
  """State and data, from the newest checkpoint or from nothing."""
  batches = stage.batches()
  host = train_state.host_paths(stage.updates)
  restored = saved.restore(
      meshes.abstract(mesh, abstract_state(stage, trained), host))
  if restored is None:
    return initial_state(stage, trained, mesh), batches
  state, iterator_state = restored
  batches.set_state(iterator_state)
  return state, batches


def initial_state(stage: Stage, trained, mesh=None) -> train_state.TrainState:
  """The state before step 0; made where it belongs, never whole on a device."""
  params = jax.jit(_laid_out(stage.init))(trained)
  if stage.fit is not None:
    params = stage.fit(meshes.fetch(params))
    if mesh is not None:
      params = meshes.place(mesh, params)
  create = lambda params: train_state.create(
      params, stage.updates, stage.watched)
  if mesh is None:
    return jax.jit(_laid_out(create))(params)
  # What stays in the host's memory may be more than the device has.
  return jax.jit(create, out_shardings=layout.shardings(
      mesh, jax.eval_shape(create, params),
      train_state.host_paths(stage.updates)))(params)


def abstract_state(stage: Stage, trained) -> train_state.TrainState:
  """Shapes of the state; `trained` may be ShapeDtypeStructs."""
  return jax.eval_shape(
      lambda trained: train_state.create(
          stage.init(trained), stage.updates, stage.watched),
      trained)


def _laid_out(fn):
  return lambda *args: layout.constrain(fn(*args))


def _resumes(stage, step) -> str:
  """The end of a sentence about what ended the run."""
  if step is None:
    return f'stage {stage.name} begins anew, earlier ones are kept'
  return f'stage {stage.name} is saved and resumes at step {step}'


def model_flops(stage: Stage, step_fn, state, frozen, batch) -> float:
  """Model FLOPs of an average step; arguments may be ShapeDtypeStructs."""
  if stage.counted_updates:  # Traced, never run: any seed will do.
    step_fn = train_state.make_train_step(stage.counted_updates, seed=0)
  return flops.count(step_fn, state, frozen, batch, rates=stage.rates)


def _peek(batches, mesh):
  """The next batch, which stays the next one."""
  position = batches.get_state()
  batch = next(batches)
  batches.set_state(position)
  return meshes.place_batch(mesh, batch)

"""The training loop: one for every stage and every algorithm.

  state → data → step → log → save, until num_steps

The host never waits for the device inside the loop: metrics are read one step
late, checkpoints are copied and written in the background.
"""

import dataclasses
from typing import Any, Callable

import jax

from worldsim_jax.parallel import flops
from worldsim_jax.parallel import layout
from worldsim_jax.parallel import mesh as meshes
from worldsim_jax.train import checkpoints
from worldsim_jax.train import metrics as metrics_lib
from worldsim_jax.train import state as train_state


@dataclasses.dataclass(frozen=True)
class Stage:
  """What one stage trains, on what, for how long.

  Attributes:
    name: of the stage, a key of the config.
    num_steps: until it is done.
    updates: the networks that it trains.
    init: trained -> params, a dict of the networks that this stage trains, from
      those of the stages before, by stage name.
    fit: params -> params, what can be computed from data before the first step.
    frozen: trained -> a dict of the parameters that are only read.
    batches: () -> a data iterator with get_state and set_state.
    tokens_per_step: for the log.
    rollout_steps: mean trip count of the loops whose length is drawn at random.
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
  fit: Callable[[Any], Any] = lambda params: params
  counted_updates: tuple[train_state.Update, ...] = ()

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
    config: log_every, save_every, max_to_keep, keep_every.
    seed: of the run.
    workdir: checkpoints go to workdir/<stage>.
    fingerprint: flat dict; a checkpoint made with another one is refused.
    mesh: of devices; default: all, each with a copy of the parameters.

  Returns:
    The final state.

  Raises:
    UserError: if a loss or a gradient is not finite (the last good checkpoint
      stays), or the checkpoints cannot be read or written.
  """
  mesh = meshes.make_mesh() if mesh is None else mesh
  step_fn = train_state.make_train_step(stage.updates, seed)
  with jax.set_mesh(mesh), checkpoints.Checkpoints(
      workdir / stage.name, fingerprint, max_to_keep=config.max_to_keep,
      keep_every=config.keep_every) as saved:

    # --- state and data, from the newest checkpoint or from nothing
    batches = stage.batches()
    host = train_state.host_paths(stage.updates)
    restored = saved.restore(
        meshes.abstract(mesh, abstract_state(stage, trained), host))
    if restored is None:
      state = initial_state(stage, trained)
    else:
      state, iterator_state = restored
      batches.set_state(iterator_state)
    state = meshes.place(mesh, state, host)
    first = int(state.step)
    frozen = jax.jit(_laid_out(stage.frozen))(trained)
    logger = metrics_lib.MetricLogger(
        workdir, stage=stage.name, first_step=first, num_steps=stage.num_steps,
        tokens_per_step=stage.tokens_per_step, log_every=config.log_every,
        flops_per_step=model_flops(
            stage, step_fn, state, frozen, _peek(batches)))

    # --- steps
    with logger:
      if not first:
        logger.parameters(state.params)
      for step in range(first, stage.num_steps):
        batch = meshes.place_batch(mesh, next(batches))
        state, metrics = step_fn(state, frozen, batch)
        logger.push(step, train_state.trained_metrics(
            metrics, stage.updates, step))
        done = step + 1
        if done % config.save_every == 0 or done == stage.num_steps:
          # Reads this step's loss and gradient norms, and raises where one is
          # not finite: parameters that are NaN are never saved.
          with logger.paused():
            saved.save(done, state, batches.get_state())
  return state


def initial_state(stage: Stage, trained) -> train_state.TrainState:
  """The state before step 0; made where it belongs, never whole on a device."""
  params = stage.fit(jax.jit(_laid_out(stage.init))(trained))
  return jax.jit(_laid_out(
      lambda params: train_state.create(params, stage.updates)))(params)


def abstract_state(stage: Stage, trained) -> train_state.TrainState:
  """Shapes of the state; `trained` may be ShapeDtypeStructs."""
  return jax.eval_shape(
      lambda trained: train_state.create(stage.init(trained), stage.updates),
      trained)


def _laid_out(fn):
  return lambda *args: layout.constrain(fn(*args))


def model_flops(stage: Stage, step_fn, state, frozen, batch) -> float:
  """Model FLOPs of an average step; arguments may be ShapeDtypeStructs."""
  if stage.counted_updates:  # Traced, never run: any seed will do.
    step_fn = train_state.make_train_step(stage.counted_updates, seed=0)
  return flops.count(step_fn, state, frozen, batch, rates=stage.rates)


def _peek(batches):
  """The next batch, which stays the next one."""
  position = batches.get_state()
  batch = next(batches)
  batches.set_state(position)
  return batch

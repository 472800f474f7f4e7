"""The state of a run and the step that advances it, for every algorithm.

A stage trains one or more networks, each with its own optimiser, loss and pace:
one `Update` per network. Losses have one signature,

  loss(params, batch, rng) -> (loss, metrics)

where `params` is a dict of all networks by name, frozen and averaged ones (see
`averaged`) included; the gradient is taken with respect to the update's own
entry. DMD's critic is simply a second update.

Randomness is a function of (seed, step, network), never carried, so that a
resumed run draws what an uninterrupted one would have drawn.
"""

import dataclasses
from typing import Any, Callable
import zlib

import flax.struct
import jax
import jax.numpy as jnp
import optax

from worldsim_jax.parallel import layout


@dataclasses.dataclass(frozen=True)
class Update:
  """One network's share of a training step.

  Attributes:
    network: its name in `params`.
    loss: (params, batch, rng) -> (loss, metrics).
    optimizer: an optax transformation.
    every: the network is updated in steps that are multiples of this.
    start: and not before this one (a critic's warm-up).
    ema: decay of the averaged parameters per update, or None for no average.
    ema_start: updates before it copy the parameters instead.
    accumulate: parts that a batch is computed in, one after the other; the
      gradient is their mean.
    offload: parts of the state ('opt_state', 'ema') that stay in the host's
      memory and visit the device when they are updated.
  """
  network: str
  loss: Callable[..., Any]
  optimizer: optax.GradientTransformation
  every: int = 1
  start: int = 0
  ema: float | None = None
  ema_start: int = 0
  accumulate: int = 1
  offload: tuple[str, ...] = ()

  def is_due(self, step):
    """Whether it is this step's turn; a bool, or traced like the step."""
    return (step % self.every == 0) & (step >= self.start)

  def turns(self, step):
    """How often it was its turn before this step."""
    turns = -(-step // self.every) - -(-self.start // self.every)
    return turns * (turns > 0)

  @property
  def is_always_due(self) -> bool:
    return self.every == 1 and self.start == 0


@flax.struct.dataclass
class TrainState:
  """Everything that a checkpoint holds, by network name.

  `best` has the parameters that did best on held-out clips, for networks that a
  monitor watches, and the least error, see train/monitor.py.
  """
  step: jax.Array
  params: dict[str, Any]
  opt_state: dict[str, Any]
  ema: dict[str, Any]
  best: dict[str, Any] = flax.struct.field(default_factory=dict)
  least_error: dict[str, Any] = flax.struct.field(default_factory=dict)

  def averaged_params(self, network: str):
    """The averaged parameters where there are any."""
    return self.ema.get(network, self.params[network])

  def best_params(self, network: str):
    """Those that did best on held-out clips, or else the averaged ones."""
    return self.best.get(network, self.averaged_params(network))

  def judged(self, network: str, error) -> 'TrainState':
    """With the averaged parameters as the best, if their error is the least."""
    is_better = error < self.least_error[network]
    best = jax.tree.map(
        lambda new, old: jnp.where(is_better, new, old),
        self.averaged_params(network), self.best[network])
    least = jnp.where(is_better, error, self.least_error[network])
    return self.replace(best={**self.best, network: best},
                        least_error={**self.least_error, network: least})


def create(params: dict[str, Any], updates: tuple[Update, ...],
           watched: tuple[str, ...] = ()) -> TrainState:
  """The state before step 0.

  Args:
    params: of the networks to train, by name. The step donates them: arrays
      that two networks share, or that are read elsewhere, must be copied first.
    updates: one per network.
    watched: networks that a monitor judges.
  """
  copies = lambda names: {
      name: jax.tree.map(jnp.copy, params[name]) for name in names}
  return TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state={u.network: u.optimizer.init(params[u.network])
                 for u in updates},
      # A copy: the step donates the state, and one buffer must not be two.
      ema=copies(u.network for u in updates if u.ema is not None),
      best=copies(watched),
      least_error={name: jnp.full((), jnp.inf) for name in watched})


def make_train_step(updates: tuple[Update, ...], seed: int):
  """Returns a jitted step(state, frozen, batch) -> (state, metrics).

  The state is donated. `frozen` is a dict of parameters that no update trains.
  Metrics are prefixed by the network's name if there are several updates; those
  of a network that this step skips are NaN (see `trained_metrics`).
  """
  def train_step(state, frozen, batch):
    all_metrics = {}
    for update in updates:
      rng = purpose_key(seed, state.step, update.network)
      if update.is_always_due:
        state, metrics = _apply(update, state, frozen, batch, rng)
      else:
        state, metrics = _apply_sometimes(update, state, frozen, batch, rng)
      prefix = f'{update.network}/' if len(updates) > 1 else ''
      all_metrics |= {prefix + name: x for name, x in metrics.items()}
    state = state.replace(step=state.step + 1)
    return layout.constrain(state, host_paths(updates)), all_metrics

  return jax.jit(train_step, donate_argnums=0)


def averaged(network: str) -> str:
  """The name in a loss's `params` of a network's averaged parameters."""
  return f'{network}_ema'


def host_paths(updates: tuple[Update, ...]) -> tuple[str, ...]:
  """Beginnings of the paths of what is kept in the host's memory."""
  return tuple(f'{part}/{update.network}/'
               for update in updates for part in update.offload)


def trained_metrics(metrics: dict[str, Any], updates: tuple[Update, ...],
                    step: int) -> dict[str, Any]:
  """Drops the metrics of networks that were not updated in this step."""
  skipped = tuple(f'{u.network}/' for u in updates if not u.is_due(step))
  return {name: x for name, x in metrics.items()
          if not (skipped and name.startswith(skipped))}


def purpose_key(seed: int, step, purpose: str) -> jax.Array:
  """The random key of (seed, step, purpose)."""
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
  return jax.random.fold_in(key, step)


def _apply(update: Update, state: TrainState, frozen, batch, rng):
  name = update.network
  state = _moved(update, state, jax.memory.Space.Device)

  averages = {averaged(other): ema for other, ema in state.ema.items()}

  def gradient_of(batch, rng):
    loss = lambda own: update.loss(
        {**frozen, **averages, **state.params, name: own}, batch, rng)
    gradient, metrics = jax.grad(loss, has_aux=True)(state.params[name])
    return layout.constrain(gradient), metrics

  gradient, metrics = _accumulated(gradient_of, batch, rng, update.accumulate)
  metrics['grad_norm'] = optax.tree.norm(gradient)
  step, opt_state = update.optimizer.update(
      gradient, state.opt_state[name], state.params[name])
  params = optax.apply_updates(state.params[name], step)
  state = state.replace(
      params={**state.params, name: params},
      opt_state={**state.opt_state, name: opt_state})
  if update.ema is not None:
    warm = update.turns(state.step) >= update.ema_start
    decay = jnp.where(warm, update.ema, 0.)
    ema = jax.tree.map(
        lambda average, new: decay * average + (1 - decay) * new,
        state.ema[name], params)
    state = state.replace(ema={**state.ema, name: layout.constrain(ema)})
  return _moved(update, state, jax.memory.Space.Host), metrics


def _moved(update: Update, state: TrainState, space) -> TrainState:
  """With what the update keeps in the host's memory in this one."""
  def move(x):
    return jax.device_put(x, space) if x.ndim else x  # Counts stay.

  for part in update.offload:
    networks = getattr(state, part)
    if update.network in networks:
      state = state.replace(**{part: networks | {
          update.network: jax.tree.map(move, networks[update.network])}})
  return state


def _accumulated(gradient_of, batch, rng, parts: int):
  """The means of gradient_of(part, its key) over the parts of a batch."""
  if parts == 1:
    return gradient_of(batch, rng)

  def split(x):
    # Every device's share is split, so that nothing moves between devices.
    return x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1)

  def add(total, inputs):
    index, part = inputs
    new = gradient_of(part, jax.random.fold_in(rng, index))
    return jax.tree.map(lambda t, x: t + x / parts, total, new), None

  batches = jax.tree.map(split, batch)
  shapes = jax.eval_shape(
      gradient_of, jax.tree.map(lambda x: x[0], batches), rng)
  # Means, of counts (an exit step) too.
  zeros = jax.tree.map(
      lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)),
      shapes)
  total, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), batches))
  return total


def _apply_sometimes(update, state, frozen, batch, rng):
  run = lambda state: _apply(update, state, frozen, batch, rng)
  metrics = jax.eval_shape(run, state)[1]

  def skip(state):
    return state, jax.tree.map(
        lambda x: jnp.full(x.shape, _missing(x.dtype), x.dtype), metrics)

  return jax.lax.cond(update.is_due(state.step), run, skip, state)


def _missing(dtype):
  return jnp.nan if jnp.issubdtype(dtype, jnp.floating) else -1

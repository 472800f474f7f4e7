"""Optimisers from config: AdamW, clipped, with warm-up and decay."""

import functools

import jax
import optax

from worldsim_jax.errors import UserError

SCHEDULES = ('constant', 'cosine')


def make(config, num_updates: int) -> optax.GradientTransformation:
  """AdamW as configured.

  Args:
    config: learning_rate, warmup_steps, schedule ('constant' or 'cosine' to 0),
      b1, b2, weight_decay, clip_norm (global gradient norm), frozen (parts of
      the names of parameters that stay as they are).
    num_updates: how often the network will be updated.

  Raises:
    ValueError: for an unknown schedule or a warm-up longer than the training.
    UserError: (of its `init`) for a frozen name that no parameter has.
  """
  if config.schedule not in SCHEDULES:
    raise ValueError(f'schedule={config.schedule!r} is not one of {SCHEDULES} '
                     '(config.*.optimizer.schedule).')
  if config.warmup_steps > num_updates:
    raise ValueError(
        f'warmup_steps={config.warmup_steps} is longer than the {num_updates} '
        'updates of its stage (config.*.optimizer.warmup_steps).')
  peak = config.learning_rate
  remaining = max(num_updates - config.warmup_steps, 1)
  after = (optax.constant_schedule(peak) if config.schedule == 'constant'
           else optax.cosine_decay_schedule(peak, remaining))
  schedule = optax.join_schedules(
      [optax.linear_schedule(peak / 10, peak, max(config.warmup_steps, 1)),
       after], [config.warmup_steps])
  adamw = optax.chain(
      optax.clip_by_global_norm(config.clip_norm),
      optax.adamw(schedule, config.b1, config.b2,
                  weight_decay=config.weight_decay))
  if not config.frozen:
    return adamw

  return optax.partition(
      {'trained': adamw, 'frozen': optax.set_to_zero()},
      functools.partial(_labels, frozen=config.frozen))


def _labels(params, frozen):
  """'trained' or 'frozen' for each parameter."""
  paths = [jax.tree_util.keystr(path)
           for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  unknown = [name for name in frozen if not any(name in p for p in paths)]
  if unknown:
    raise UserError(
        f'{unknown[0]!r} is in no name of a parameter, such as {paths[0]} '
        '(config.*.optimizer.frozen).')
  labels = ['frozen' if any(name in path for name in frozen) else 'trained'
            for path in paths]
  return jax.tree.unflatten(jax.tree.structure(params), labels)

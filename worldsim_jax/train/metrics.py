"""What a training stage reports: terminal, metrics.jsonl, TensorBoard.

One `MetricLogger` per stage. It reads each step's scalars one step late, so
the host never waits for the step that the device is computing:

  host    push(0)  push(1): read 0  push(2): read 1  ...  flush: read N-1
  device  step 0   step 1           step 2

Rates are wall time between logged steps. The first step, which compiles, and
what happens inside `paused()` do not count.
"""

import contextlib
import math
import os
import resource
import sys
import time

from etils import epath
import jax
import numpy as np

from worldsim_jax import errors
from worldsim_jax.evaluate import report
from worldsim_jax.parallel import chips
from worldsim_jax.storage import paths
from worldsim_jax.train import events
from worldsim_jax.train import terminal

_RESERVED = frozenset(
    {
        'stage',
        'step',
        'time',
        'seconds_per_step',
        'tokens_per_second',
        'flops_per_second',
        'mfu',
        'memory_gib',
    }
)
_TERMINAL_NAMES = {
    'grad_norm': 'grad',
    'mean_abs_x': '|x|',
}
_TERMINAL_METRICS = 4  # More would not fit on a line; the files have them all.
_GIB = 2**30


class NonFiniteLoss(errors.UserError):
  """A loss or its gradient became NaN or infinite."""


class MetricLogger:
  """Logs every `log_every` steps, the first step of a run and the last.

  Steps count from 0, as in the loop; the bar shows how many are finished. A
  metric that only some steps have (a generator's loss while the critic trains)
  is logged with its newest value since the line before.

  Args:
    workdir: local or gs://; gets metrics.jsonl and tensorboard/<stage>/.
    stage: one word, the prefix of every line and tag.
    first_step: the step that a resumed run does first. What an earlier process
      logged from this step on is dropped, so every step is there once.
    num_steps: of the whole stage, finished ones included.
    tokens_per_step: over all devices; None leaves tokens/s out.
    flops_per_step: model FLOPs over all devices; None leaves FLOP/s out.
    peak_flops: of one device; None looks the device up, and MFU is left out
      when it is unknown.
    stream: of the terminal lines, stdout by default.
  """

  def __init__(
      self,
      workdir,
      *,
      stage: str,
      first_step: int = 0,
      num_steps: int,
      tokens_per_step: float | None = None,
      flops_per_step: float | None = None,
      peak_flops: float | None = None,
      log_every: int = 10,
      stream=None,
  ):
    if log_every < 1:
      raise ValueError(f'log_every={log_every} must be at least 1')
    self._workdir = epath.Path(workdir)
    self._stage, self._num_steps = stage, num_steps
    self._log_every = log_every
    self._tokens, self._flops = tokens_per_step, flops_per_step
    peak = peak_flops or device_peak_flops(jax.devices()[0].device_kind)
    self._peak = peak and peak * jax.device_count()
    self._timer = _StepTimer()
    self._pending = None  # (step, metrics on the device), not yet read.
    self._newest = {}  # Values since the last record.
    self._memory = memory()
    self._file = self._events = self._line = None
    if jax.process_index() == 0:
      if not paths.is_remote(workdir):
        self._workdir.mkdir(parents=True, exist_ok=True)
      self._file = events.JsonLines(
          self._workdir / 'metrics.jsonl', stage, first_step
      )
      self._events = events.EventWriter(
          self._workdir / 'tensorboard' / stage, first_step
      )
      self._line = terminal.ProgressLine(stage, num_steps, stream)
      if first_step >= num_steps:
        self.note('is done')
      elif first_step:
        self.note(f'resumes at step {first_step} of {num_steps}')

  def __enter__(self):
    return self

  def __exit__(self, exception_type, *_):
    if exception_type is not None:
      self._pending = None  # Its values may never come.
    self.close()

  def push(self, step: int, metrics: dict):
    """Takes scalars that the device may still compute; reads the last push's.

    Raises:
      NonFiniteLoss: if a loss or a gradient of the step before was NaN or
        infinite.
    """
    reserved = _RESERVED & metrics.keys()
    if reserved:
      raise ValueError(f'metrics must not be named {sorted(reserved)}')
    if self._pending and step <= self._pending[0]:
      raise ValueError(f'step {step} was pushed after {self._pending[0]}')
    for value in metrics.values():
      if isinstance(value, jax.Array):
        value.copy_to_host_async()
    previous, self._pending = self._pending, (step, dict(metrics))
    if previous:
      self._read(*previous)

  def flush(self):
    """Reads the newest step too, which waits for the device, and writes."""
    previous, self._pending = self._pending, None
    if previous:
      self._read(*previous)
    if self._file:
      with report.named_write_errors(self._file.path):
        self._file.flush()
        self._events.flush()

  def close(self):
    try:
      self.flush()
    finally:
      if self._file:
        self._line.close()
        with report.named_write_errors(self._file.path):
          self._file.close()
          self._events.close()

  @contextlib.contextmanager
  def paused(self):
    """Keeps the time of an evaluation or a checkpoint out of the rates."""
    self.flush()
    start = time.perf_counter()
    try:
      yield
    finally:
      self._timer.skip(time.perf_counter() - start)

  def note(self, text: str):
    """Writes a sentence to the terminal."""
    if self._line:
      self._line.note(text)

  def parameters(self, params):
    """Writes <stage>-parameters.txt, a table of what is trained."""
    from clu import parameter_overview  # Not on every accelerator image.

    # Means and deviations are computed by all processes together.
    table = parameter_overview.get_parameter_overview(
        params, include_stats='global')
    if self._line:
      path = self._file.path.parent / f'{self._stage}-parameters.txt'
      report.write_atomically(path, table + '\n')
      count = parameter_overview.count_parameters(params)
      size, prefix = terminal.si(count)
      self.note(f'trains {size}{prefix} parameters, see {path.name}')

  def films(self, step: int, name: str, frames, fps: float):
    """Writes uint8 [T, H, W, 3] to TensorBoard as an animated GIF."""
    if self._events:
      self._events.film(step, f'{self._stage}/{name}', np.asarray(frames), fps)

  def _read(self, step, metrics):
    """Fetches one finished step's values and logs them if it is their turn."""
    values = {
        name: _scalar(name, value)
        for name, value in jax.device_get(metrics).items()
    }
    self._timer.tick(step)
    self._newest |= values
    broken = [
        name
        for name in sorted(values, key=_loss_first)
        if _ends_training(name) and not math.isfinite(values[name])
    ]
    if self._file and (broken or self._is_logged(step)):
      with report.named_write_errors(self._file.path):
        self._log(step, force=bool(broken))
    elif self._line:
      rates = self._rates(self._timer.average())
      self._line.redraw(step + 1, self._fields(step, rates))
    if broken:
      raise NonFiniteLoss(self._advice(broken[0], values[broken[0]], step))

  def _advice(self, name, value, step):
    network = name.rpartition('/')[0]
    owner = self._stage
    if network not in ('', self._stage):
      owner += f'.{network}'  # As config.self_forcing.critic.
    return (
        f'{self._stage}: {name} is {value} at step {step}; nothing of it was '
        f'saved. Lower config.{owner}.optimizer.learning_rate and remove '
        f'{self._workdir / self._stage} to train this stage again (the stages '
        "before it stay), or look at that step's batch."
    )

  def _is_logged(self, step):
    done = step + 1
    return step == 0 or done == self._num_steps or done % self._log_every == 0

  def _log(self, step, force):
    self._memory = memory()
    rates = self._rates(self._timer.window())
    used, _ = self._memory
    values = self._newest | rates | {'memory_gib': used / _GIB}
    self._file.append(step, values)
    self._events.scalars(
        step, {f'{self._stage}/{name}': v for name, v in values.items()}
    )
    done = step + 1
    self._line.log(
        done, self._fields(step, rates), force or done == self._num_steps
    )
    self._newest = {}

  def _rates(self, seconds):
    """Everything that follows from the seconds per step, where known."""
    rates = {}
    if seconds:
      rates['seconds_per_step'] = seconds
      if self._tokens:
        rates['tokens_per_second'] = self._tokens / seconds
      if self._flops:
        rates['flops_per_second'] = self._flops / seconds
        if self._peak:
          rates['mfu'] = self._flops / seconds / self._peak
    return rates

  def _fields(self, step, rates):
    """The texts of a terminal line; losses come first."""
    names = sorted(self._newest, key=_loss_first)
    fields = {}
    for name in names[:_TERMINAL_METRICS]:
      text = terminal.number(self._newest[name])
      network, slash, last = name.rpartition('/')
      last = _TERMINAL_NAMES.get(last, last)
      fields[name] = f'{network}{slash}{last} {text}'
    if 'seconds_per_step' in rates:
      fields['rate'] = f'{terminal.number(rates["seconds_per_step"])} s/step'
    elif self._timer.first_step_seconds:
      fields['first'] = (
          f'first step {terminal.number(self._timer.first_step_seconds)} s'
      )
    if 'tokens_per_second' in rates:
      size, prefix = terminal.si(rates['tokens_per_second'])
      fields['tokens'] = f'{size}{prefix} tok/s'
    if 'mfu' in rates:
      fields['flops'] = f'MFU {100 * rates["mfu"]:.0f}%'
    elif 'flops_per_second' in rates:
      size, prefix = terminal.si(rates['flops_per_second'])
      fields['flops'] = f'{size} {prefix}FLOP/s'
    used, total = self._memory
    fields['memory'] = f'mem {used / _GIB:.1f}/{total / _GIB:.0f} GiB'
    steps_left = self._num_steps - step - 1
    if not steps_left:
      fields['left'] = f'took {terminal.duration(self._timer.seconds)}'
    elif self._timer.average():
      left = terminal.duration(steps_left * self._timer.average())
      fields['left'] = f'left {left}'
    return fields


class _StepTimer:
  """Seconds per step, from the times at which steps were seen finished."""

  def __init__(self):
    self._start = time.perf_counter()
    self._skipped = 0.0
    self._first = self._mark = self._last = None  # (step, seconds)
    self.seconds = 0.0
    self.first_step_seconds = None

  def skip(self, seconds: float):
    self._skipped += seconds

  def tick(self, step: int):
    self.seconds = time.perf_counter() - self._start - self._skipped
    self._last = (step, self.seconds)
    if self._first is None:
      self._first = self._mark = self._last
      self.first_step_seconds = self.seconds

  def average(self) -> float | None:
    return self._slope(self._first)

  def window(self) -> float | None:
    """Since the last call of this method."""
    slope, self._mark = self._slope(self._mark), self._last
    return slope

  def _slope(self, since):
    if since is None or self._last[0] == since[0]:
      return None
    return (self._last[1] - since[1]) / (self._last[0] - since[0])


def device_peak_flops(device_kind: str) -> float | None:
  """Dense bf16 FLOP/s of one device, or None if not in our table."""
  chip = chips.of_kind(device_kind)
  return chip and chip.flops


def memory() -> tuple[float, float]:
  """Bytes used and available: of the fullest local device, or of the host.

  A device that keeps statistics reports its peak since the process started;
  the CPU has none, so there it is the process's resident memory now.
  """
  stats = [device.memory_stats() for device in jax.local_devices()]
  stats = [s for s in stats if s and s.get('bytes_limit')]
  if stats:
    return max(
        (s.get('peak_bytes_in_use', s['bytes_in_use']), s['bytes_limit'])
        for s in stats
    )
  page = os.sysconf('SC_PAGE_SIZE')
  total = page * os.sysconf('SC_PHYS_PAGES')
  statm = epath.Path('/proc/self/statm')
  if statm.exists():
    return page * int(statm.read_text().split()[1]), total
  # macOS has no /proc and, unlike Linux, counts this one in bytes.
  scale = 1 if sys.platform == 'darwin' else 1024
  return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, total


def _loss_first(name: str) -> bool:
  return 'loss' not in name


def _ends_training(name: str) -> bool:
  """Whether parameters are lost when this metric is not finite.

  The loss is that of the parameters before the update; what is applied to them
  is the gradient, which may be NaN where the loss is not.
  """
  return 'loss' in name or name.rpartition('/')[2] == 'grad_norm'


def _scalar(name, value) -> float:
  if np.ndim(value):
    raise ValueError(
        f'metric {name} has shape {np.shape(value)}; push scalars only'
    )
  return float(value)
